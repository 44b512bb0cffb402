"""A project directory, read and ready to deploy: its manifest, its tasks, and its chunks on demand."""

import contextlib
import os
import stat
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path

from gridctl.code import with_code
from gridctl.grafts import Graft, pieces_of
from gridctl.gridtoml import GRID_TOML, Configured, configure
from gridctl.tasks import TASKS_DIR, check_programs, find_tasks
from gridnode.errors import ManifestInvalid, ProjectInvalid
from gridnode.model import ChunkHash, TaskSpec
from gridnode.sync.chunk import Chunking, ChunkRef, chunk_hash
from gridnode.sync.cut import cut_stream
from gridnode.sync.ignore import IGNORE_FILE, Ignore
from gridnode.sync.manifest import MAX_DEPTH, EntryKind, check_target
from gridnode.sync.tree import DEFAULT_BOUNDS, Manifest, Source, build

Progress = Callable[[int, int], None]
"""Bytes read so far, bytes in all."""
Packages = Callable[[tuple[TaskSpec, ...], Collection[str]], Collection[Graft]]
"""What to add to a project of these tasks, which has these names in its directory."""
Seen = dict[str, tuple[tuple[int, ...], tuple[ChunkRef, ...]]]
"""By path: what told that the file had not changed, and its chunks."""

_MAX_SOURCE = 8 * 1024 * 1024
_SETTLED = 2_000_000_000
"""Nanoseconds; as long as the coarsest step of a file system's clock."""


@dataclass(frozen=True, slots=True)
class Project:
    """What was found. Chunks are read from the files again when asked for, so memory stays flat."""

    name: str
    directory: Path
    manifest: Manifest
    tasks: tuple[TaskSpec, ...]
    chunks: dict[ChunkHash, int]
    _places: dict[ChunkHash, tuple[str, int]] = field(repr=False)
    """File, from the directory or absolute where it is not in there, and offset."""

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return self.manifest.size

    @property
    def files(self) -> int:
        """How many there are."""
        return self.manifest.files

    def read_chunk(self, chunk: ChunkHash) -> bytes:
        """The bytes of a chunk of `chunks`, tree nodes included; ProjectInvalid when its file changed meanwhile."""
        node = self.manifest.nodes.get(chunk)
        if node is not None:
            return node
        path, offset = self._places[chunk]
        with _reading(self.directory, path) as file:
            file.seek(offset)
            content = file.read(self.chunks[chunk])
        if chunk_hash(content) != chunk:
            raise _changed(path)
        return content


@dataclass(frozen=True, slots=True)
class _Found:
    """One entry of the directory. size: bytes of a regular file; stamp: changes with its content; target: a link's."""

    path: str
    kind: EntryKind
    size: int = 0
    target: str = ""
    stamp: tuple[int, ...] = ()


def scan(
    directory: Path,
    *,
    on_progress: Progress | None = None,
    packages: Packages | None = None,
    seen: Seen | None = None,
) -> Project:
    """Read the whole project once; ProjectInvalid says what stands in the way of deploying it.

    packages: finds those that the project asks for, which become part of it as if they were its own files.
    seen: what an earlier scan read, and then what this one did: a file that did not change is not read again.
    """
    directory, found = _entries(directory)
    tasks = tuple(one.spec for one in _configured(directory, found))
    grafts = packages(tasks, {one.path.partition("/")[0] for one in found}) if packages else ()
    ingest = _Ingest(directory, sum(one.size for one in found), on_progress, seen)
    try:
        sources = [*map(ingest.source, found), *ingest.grafted(grafts)]
        manifest = build(sources, ingest.chunking)
    except ManifestInvalid as exc:
        raise ProjectInvalid(f"cannot deploy {directory}: {exc.message}") from exc
    if seen is not None:
        seen.clear()
        seen.update(ingest.seen)
    tasks = with_code(tasks, sources, lambda path: _source(directory, path))
    ingest.chunks.update((name, len(content)) for name, content in manifest.nodes.items())
    name = os.fsencode(directory.name).decode("utf-8", "replace") or "project"
    return Project(name, directory, manifest, tasks, ingest.chunks, ingest.places)


def scan_files(directory: Path, on_progress: Progress | None = None) -> Project:
    """A directory that is no project, read once, without tasks; ProjectInvalid."""
    directory = directory.resolve()
    if not directory.is_dir():
        raise ProjectInvalid(f"{directory} is no directory")
    found = _walk(directory)
    ingest = _Ingest(directory, sum(one.size for one in found), on_progress)
    try:
        manifest = build([*map(ingest.source, found)], ingest.chunking)
    except ManifestInvalid as exc:
        raise ProjectInvalid(f"cannot push {directory}: {exc.message}") from exc
    ingest.chunks.update((name, len(content)) for name, content in manifest.nodes.items())
    return Project(directory.name, directory, manifest, (), ingest.chunks, ingest.places)


def configured_tasks(directory: Path) -> tuple[Configured, ...]:
    """The tasks of a project as they would be deployed, and where each of their settings is from."""
    return _configured(*_entries(directory))


def _entries(directory: Path) -> tuple[Path, list[_Found]]:
    """The resolved directory, and what is in it."""
    directory = directory.resolve()
    if not (directory / TASKS_DIR).is_dir() or (directory / TASKS_DIR).is_symlink():
        raise ProjectInvalid(
            f"no {TASKS_DIR}/ directory in {directory}", hint="`gridctl sample NAME` makes a project to start from"
        )
    return directory, _walk(directory)


def _configured(directory: Path, found: list[_Found]) -> tuple[Configured, ...]:
    """grid.toml counts also where .gridignore keeps it from the nodes, as .gridignore itself does."""
    tasks = find_tasks(((one.path, one.kind) for one in found), lambda path: _source(directory, path))
    config = directory / GRID_TOML
    if os.path.lexists(config) and (config.is_symlink() or not config.is_file()):
        raise ProjectInvalid(f"{GRID_TOML} is not a plain file", hint="it says how tasks run: `gridctl config -h`")
    configured = configure(tasks, _source(directory, GRID_TOML) if config.exists() else b"")
    kinds = {one.path: one.kind for one in found}
    check_programs((one.spec for one in configured), kinds, lambda path: _source(directory, path))
    return configured


def _walk(top: Path) -> list[_Found]:
    """Everything that is not ignored, in order of path."""
    found: list[_Found] = []
    for one in _walk_directory(top, "", Ignore()):
        found.append(one)
        if len(found) > DEFAULT_BOUNDS.entries:
            raise ProjectInvalid(
                f"more than {DEFAULT_BOUNDS.entries} files in {top}",
                hint=f"list what tasks do not need in {IGNORE_FILE}",
            )
    return found


def _walk_directory(top: Path, directory: str, ignore: Ignore) -> Iterator[_Found]:
    prefix = f"{directory}/" if directory else ""
    with _unreadable(directory or "."), os.scandir(top / directory) as listing:
        entries = sorted(listing, key=lambda entry: os.fsencode(entry.name))
    if any(entry.name == IGNORE_FILE and entry.is_file(follow_symlinks=False) for entry in entries):
        ignore = ignore.below(directory, _source(top, prefix + IGNORE_FILE))
    for entry in entries:
        path = prefix + entry.name
        if ignore.ignores(path, is_dir=entry.is_dir(follow_symlinks=False)):
            continue
        if path.count("/") > MAX_DEPTH:
            raise ProjectInvalid(
                f"{path} is below more than {MAX_DEPTH} directories", hint=f"move it up, or list it in {IGNORE_FILE}"
            )
        one = _classify(path, entry)
        yield one
        if one.kind is EntryKind.DIRECTORY:
            yield from _walk_directory(top, path, ignore)


def _classify(path: str, entry: os.DirEntry[str]) -> _Found:
    with _unreadable(path):
        status = entry.stat(follow_symlinks=False)
        if stat.S_ISLNK(status.st_mode):
            return _link(path, os.readlink(entry.path))
    if stat.S_ISDIR(status.st_mode):
        return _Found(path, EntryKind.DIRECTORY)
    if not stat.S_ISREG(status.st_mode):
        raise ProjectInvalid(f"{path} is a device, FIFO or socket", hint=f"remove it or list it in {IGNORE_FILE}")
    if status.st_mode & (stat.S_ISUID | stat.S_ISGID):
        raise ProjectInvalid(f"{path} is setuid or setgid", hint=f"chmod ug-s {path}")
    kind = EntryKind.EXECUTABLE if status.st_mode & stat.S_IXUSR else EntryKind.FILE
    return _Found(path, kind, status.st_size, stamp=_stamp(status))


def _stamp(status: os.stat_result) -> tuple[int, ...]:
    """Changes with the file's content: nobody can set ctime."""
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino


def _link(path: str, target: str) -> _Found:
    try:
        check_target(os.fsencode(target), path.count("/"))
    except ManifestInvalid as exc:
        raise ProjectInvalid(f"{path}: {exc.message}", hint=f"copy the file, or list it in {IGNORE_FILE}") from exc
    return _Found(path, EntryKind.LINK, target=target)


class _Ingest:
    """Turns entries into tree sources, keeping where each chunk lies."""

    def __init__(self, directory: Path, total: int, on_progress: Progress | None, known: Seen | None = None) -> None:
        self.chunking = Chunking()
        self.seen: Seen = {}
        self._known = known or {}
        self._stamp: tuple[int, ...] = ()
        self.chunks: dict[ChunkHash, int] = {}
        self.places: dict[ChunkHash, tuple[str, int]] = {}
        self._directory = directory
        self._total = total
        self._done = 0
        self._on_progress = on_progress

    def source(self, one: _Found) -> Source:
        refs = self._refs(one) if one.kind in (EntryKind.FILE, EntryKind.EXECUTABLE) else ()
        return Source(tuple(one.path.split("/")), one.kind, refs, one.target)

    def _refs(self, one: _Found) -> tuple[ChunkRef, ...]:
        """Of a file that was read before and has not changed since, or of what is read now."""
        stamp, refs = self._known.get(one.path, ((), ()))
        if stamp and stamp == one.stamp:
            self._place(one.path, refs)
            self._count(one.size)
        else:
            # A file that was written a moment ago may be written again with the same times: its stamp says nothing.
            settled = time.time_ns() - max(one.stamp[:2], default=0) > _SETTLED
            refs = tuple(self._read(one))
            stamp = one.stamp if settled and self._stamp == one.stamp else ()
        self.seen[one.path] = stamp, refs
        return refs

    def _place(self, path: str, refs: Collection[ChunkRef]) -> None:
        offset = 0
        for ref in refs:
            self.chunks[ref.hash] = ref.length
            self.places.setdefault(ref.hash, (path, offset))
            offset += ref.length

    def grafted(self, grafts: Collection[Graft]) -> Iterator[Source]:
        """Files whose chunks are known: they are read only where a node lacks one."""
        for path, piece in pieces_of(grafts):
            self._place(piece.place, piece.refs)
            yield Source(tuple(path.split("/")), piece.kind, piece.refs, piece.target)

    def _read(self, one: _Found) -> Iterator[ChunkRef]:
        offset = 0
        with _reading(self._directory, one.path) as file:
            self._stamp = _stamp(os.fstat(file.fileno()))
            for content in self._cut(file, one):
                ref = ChunkRef(chunk_hash(content), len(content))
                self.chunks[ref.hash] = ref.length
                self.places.setdefault(ref.hash, (one.path, offset))
                offset += ref.length
                self._count(ref.length)
                yield ref
            if offset != one.size or _stamp(os.fstat(file.fileno())) != self._stamp:
                raise _changed(one.path)

    def _cut(self, file: BufferedReader, one: _Found) -> Iterator[bytes | memoryview]:
        if one.size > self.chunking.min_size:
            yield from cut_stream(file, self.chunking)
        elif content := file.read(one.size + 1):
            _check_no_secret(one.path, content)
            yield content

    def _count(self, length: int) -> None:
        self._done += length
        if self._on_progress:
            self._on_progress(self._done, self._total)


def _check_no_secret(path: str, content: bytes) -> None:
    """ProjectInvalid for a Gridfile or a card by another name: every task on every node could read it."""
    is_gridfile = b"grid_password" in content and b"grid1-" in content
    if is_gridfile or (b"issuer_key" in content and b"PRIVATE KEY" in content):
        raise ProjectInvalid(
            f"{path} holds a grid's secret, and every task could read it", hint=f"move it, or list it in {IGNORE_FILE}"
        )


def _source(directory: Path, path: str) -> bytes:
    """A small file that gridctl itself reads."""
    with _reading(directory, path) as file:
        content = file.read(_MAX_SOURCE + 1)
    if len(content) > _MAX_SOURCE:
        raise ProjectInvalid(f"{path} is larger than {_MAX_SOURCE} bytes")
    return content


def _changed(path: str) -> ProjectInvalid:
    return ProjectInvalid(
        f"{path} changed while it was being deployed",
        hint="run `gridctl deploy` again, and with --checksum if it says so still",
    )


@contextlib.contextmanager
def _reading(directory: Path, path: str) -> Iterator[BufferedReader]:
    """The file, unbuffered; never through a link, and without waiting for the other end of a FIFO."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with _unreadable(path), open(os.open(directory / path, flags), "rb") as file:
        yield file


@contextlib.contextmanager
def _unreadable(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise ProjectInvalid(
            f"cannot read {path}: {exc.strerror}", hint=f"make it readable, or list it in {IGNORE_FILE}"
        ) from exc
