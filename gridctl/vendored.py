"""Trees of packages that were fetched once: kept in a cache by what they were asked for, ready to become chunks.

An entry of the cache is `<key>/tree`, the files, and `<key>/index`, the chunks they are made of. It is built aside and
renamed, so that deploys at the same time do no harm, and it is read again only where a node lacks a chunk of it.
"""

import contextlib
import os
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from gridnode.errors import DependencyError, ProjectInvalid
from gridnode.model import ChunkHash
from gridnode.sync.chunk import Chunking, ChunkRef, chunk_hash
from gridnode.sync.cut import cut_stream
from gridnode.sync.manifest import EntryKind

__all__ = ["TREE", "Cache", "Fetched", "Piece", "Vendored", "cache_directory", "counted"]

TREE: Final = "tree"
_INDEX: Final = "index"
_NEW: Final = ".new-"
KEPT: Final = 32
"""Entries of the cache; beyond, those used longest ago go."""
_TRIES: Final = 8
STALE: Final = 24 * 3600.0
"""Seconds after which what was being built is taken for left behind."""


class Fetched(NamedTuple):
    """What was put in a tree. packages: `name version`; notes: what its user should know, each time it is used."""

    packages: tuple[str, ...]
    notes: tuple[str, ...] = ()


class _File(msgspec.Struct, frozen=True, array_like=True):
    """An entry of a tree that is no directory."""

    path: bytes
    kind: EntryKind
    refs: tuple[ChunkRef, ...] = ()
    target: bytes = b""

    @property
    def size(self) -> int:
        return sum(ref.length for ref in self.refs)


class _Index(msgspec.Struct, frozen=True):
    packages: tuple[str, ...]
    notes: tuple[str, ...]
    files: tuple[_File, ...]


class Piece(NamedTuple):
    """A file of a tree: its path there, and where it lies. target: a link's."""

    path: str
    place: str
    kind: EntryKind
    refs: tuple[ChunkRef, ...]
    target: str


@dataclass(frozen=True, slots=True)
class Vendored:
    """One tree of the cache."""

    directory: Path
    index: _Index

    @property
    def packages(self) -> tuple[str, ...]:
        return self.index.packages

    @property
    def notes(self) -> tuple[str, ...]:
        return self.index.notes

    def pieces(self) -> Iterator[Piece]:
        """Everything in it but directories, in order of path."""
        for file in self.index.files:
            path = os.fsdecode(file.path)
            yield Piece(path, str(self.directory / path), file.kind, file.refs, os.fsdecode(file.target))

    def is_whole(self) -> bool:
        """Whether every file is there with its size: what a glance tells."""
        try:
            return all(
                file.kind is EntryKind.LINK or os.lstat(self.directory / os.fsdecode(file.path)).st_size == file.size
                for file in self.index.files
            )
        except OSError:
            return False


def counted(packages: int) -> str:
    """`1 package`, `12 packages`."""
    return f"{packages} package" + ("" if packages == 1 else "s")


def cache_directory() -> Path:
    """Where trees are kept: in the user's cache, as XDG says."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gridcontrol" / "vendor"


class Cache:
    """The trees below `top`, by key."""

    def __init__(self, top: Path) -> None:
        self._top = top

    def get(self, key: str) -> Vendored | None:
        """The tree of this key, unless it is not there, or not whole."""
        place = self._top / key
        try:
            index = msgspec.msgpack.decode((place / _INDEX).read_bytes(), type=_Index)
        except (OSError, msgspec.MsgspecError, ValueError):
            return None
        found = Vendored(place / TREE, index)
        if not found.is_whole():
            return None
        with contextlib.suppress(OSError):
            os.utime(place)
        return found

    def put(self, key: str, fetch: Callable[[Path], Fetched]) -> Vendored:
        """Have `fetch` fill a directory `tree` in the one it is given, and keep it under this key."""
        with _writing(self._top):
            self._top.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._prune()
            place = self._top / f"{_NEW}{secrets.token_hex(8)}"
            (place / TREE).mkdir(mode=0o700, parents=True)
        try:
            fetched = fetch(place)
            with _writing(self._top):
                index = _Index(*fetched, tuple(_read_tree(place / TREE)))
                (place / _INDEX).write_bytes(msgspec.msgpack.encode(index))
                return self._settle(place, key)
        finally:
            shutil.rmtree(place, ignore_errors=True)

    def _settle(self, new: Path, key: str) -> Vendored:
        """Rename it into place, unless another deploy was faster; what is there and is not whole gives way."""
        place = self._top / key
        for _ in range(_TRIES):
            with contextlib.suppress(OSError):
                new.rename(place)
            if found := self.get(key):
                return found
            with contextlib.suppress(OSError):
                place.rename(self._top / f"{_NEW}{secrets.token_hex(8)}")
        raise OSError(f"{key} cannot be put in its place")

    def _prune(self) -> None:
        entries = [entry for entry in os.scandir(self._top) if entry.is_dir(follow_symlinks=False)]
        aged = sorted(((entry.stat().st_mtime, entry) for entry in entries), key=lambda one: one[0], reverse=True)
        old = time.time() - STALE
        building = [entry for used, entry in aged if entry.name.startswith(_NEW) and used < old]
        kept = [entry for _, entry in aged if not entry.name.startswith(_NEW)]
        for entry in building + kept[KEPT:]:
            shutil.rmtree(entry.path, ignore_errors=True)


def _read_tree(tree: Path) -> Iterator[_File]:
    """Every file and link in order of path; ProjectInvalid for one that no release can hold."""
    for above, directories, names in os.walk(tree):
        directories.sort()
        links = [name for name in directories if os.path.islink(os.path.join(above, name))]
        for name in sorted(names + links):
            place = os.path.join(above, name)
            yield _read_file(place, os.path.relpath(place, tree))


def _read_file(place: str, path: str) -> _File:
    status = os.lstat(place)
    if stat.S_ISLNK(status.st_mode):
        return _File(os.fsencode(path), EntryKind.LINK, target=os.fsencode(os.readlink(place)))
    if not stat.S_ISREG(status.st_mode):
        raise ProjectInvalid(f"a package holds a device, FIFO or socket: {path}", hint="do without that package")
    kind = EntryKind.EXECUTABLE if status.st_mode & stat.S_IXUSR else EntryKind.FILE
    return _File(os.fsencode(path), kind, tuple(_refs(place, status.st_size)))


def _refs(place: str, size: int) -> Iterator[ChunkRef]:
    chunking = Chunking()
    with open(place, "rb", buffering=0) as file:
        pieces = cut_stream(file, chunking) if size > chunking.min_size else filter(None, [file.read()])
        for piece in pieces:
            yield ChunkRef(ChunkHash(chunk_hash(piece)), len(piece))


@contextlib.contextmanager
def _writing(top: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        hint = "XDG_CACHE_HOME names another place for caches"
        raise DependencyError(f"cannot keep packages in {top}: {exc.strerror or exc}", hint=hint) from exc
