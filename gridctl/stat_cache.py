"""What an earlier deploy read of a project: by file, how its status was and which chunks it is made of.

A file whose status is the same is not read again. It is only a cache: whatever is wrong with it, files are read.
"""

import contextlib
import hashlib
import os
import tempfile
from pathlib import Path

import msgspec

from gridctl.project import Seen
from gridctl.vendored import cache_directory
from gridnode import __version__
from gridnode.sync.chunk import HASH_SIZE, Chunking, ChunkRef

__all__ = ["StatCache"]

_KEPT = 32
"""Projects remembered; beyond, those deployed longest ago are not."""
_MAX_SIZE = 256 * 1024 * 1024


class _Index(msgspec.Struct, array_like=True):
    """files: path → (status, chunks). Only the same version, which cuts and refuses alike, reads it."""

    version: str
    chunking: Chunking
    directory: bytes
    files: dict[bytes, tuple[tuple[int, ...], tuple[ChunkRef, ...]]]


class StatCache:
    """directory: the project's, resolved. below: where such caches are kept, by default in the user's cache."""

    def __init__(self, directory: Path, below: Path | None = None) -> None:
        self._directory = os.fsencode(directory.resolve())
        self._below = below or cache_directory().parent / "files"
        self._path = self._below / hashlib.sha256(self._directory).hexdigest()[:32]

    def load(self) -> Seen:
        """What `save` kept last; nothing when there is none, or it is of no use."""
        try:
            if self._path.stat().st_size > _MAX_SIZE:
                return {}
            raw = self._path.read_bytes()
            content = raw[HASH_SIZE:]
            if hashlib.sha256(content).digest() != raw[:HASH_SIZE]:
                return {}
            index = msgspec.msgpack.decode(content, type=_Index)
        except (OSError, msgspec.MsgspecError, ValueError, RecursionError):
            return {}
        if (index.version, index.chunking, index.directory) != (__version__, Chunking(), self._directory):
            return {}
        return {os.fsdecode(path): found for path, found in index.files.items()}

    def save(self, seen: Seen) -> None:
        """Keep it for the next time, if that goes."""
        files = {os.fsencode(path): (stamp, refs) for path, (stamp, refs) in seen.items() if stamp}
        content = msgspec.msgpack.encode(_Index(__version__, Chunking(), self._directory, files))
        with contextlib.suppress(OSError):
            self._below.mkdir(mode=0o700, parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self._below, prefix=".new-", delete=False) as file:
                try:
                    file.write(hashlib.sha256(content).digest() + content)
                    file.close()
                    os.replace(file.name, self._path)
                except OSError:
                    os.unlink(file.name)
                    raise
            self._prune()

    def _prune(self) -> None:
        known = sorted(self._below.iterdir(), key=lambda path: path.stat().st_mtime_ns, reverse=True)
        for path in known[_KEPT:]:
            path.unlink(missing_ok=True)
