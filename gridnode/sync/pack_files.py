"""The packs of one directory, by number: the only code that writes to them. OSError comes through."""

import os
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from gridnode.sync.pack import HEAD

_NAME = re.compile(r"([0-9]{8})\.pack")
_AT_ONCE = 512
"""Pieces in one system call; Linux takes 1024."""


class PackFiles:
    """directory: is there, and holds <number>.pack."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def sizes(self) -> dict[int, int]:
        """Bytes of each pack, by its number; files of other names, and links, are passed over."""
        found = {}
        with os.scandir(self._directory) as listing:
            for entry in listing:
                match = _NAME.fullmatch(entry.name)
                if match and entry.is_file(follow_symlinks=False):
                    found[int(match[1])] = entry.stat(follow_symlinks=False).st_size
        return dict(sorted(found.items()))

    def read(self, pack: int, offset: int, size: int) -> bytes:
        """Up to `size` bytes from there, fewer at the end only."""
        descriptor = self._open(pack, os.O_RDONLY)
        try:
            parts = []
            while size and (part := os.pread(descriptor, size, offset)):
                parts.append(part)
                offset, size = offset + len(part), size - len(part)
            return b"".join(parts)
        finally:
            os.close(descriptor)

    def create(self, pack: int) -> int:
        """Make it, durably; its size."""
        descriptor = self._open(pack, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        try:
            _write(descriptor, 0, [HEAD])
            os.fsync(descriptor)
            self._sync_names()
        except OSError:
            os.unlink(self._path(pack))
            raise
        finally:
            os.close(descriptor)
        return len(HEAD)

    def append(self, pack: int, end: int, pieces: Sequence[bytes]) -> int:
        """Write at `end`, where the pack ends, durably; its new end. What failed half way is cut off, if that goes."""
        descriptor = self._open(pack, os.O_WRONLY)
        try:
            after = _write(descriptor, end, pieces)
            os.fsync(descriptor)
        except OSError:
            _try_cut(descriptor, end)
            raise
        finally:
            os.close(descriptor)
        return after

    def cut(self, pack: int, end: int) -> None:
        """Make it end there, durably."""
        descriptor = self._open(pack, os.O_WRONLY)
        try:
            os.ftruncate(descriptor, end)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def remove(self, pack: int) -> None:
        """Remove it; fine when it is gone."""
        with suppress(FileNotFoundError):
            os.unlink(self._path(pack))
        self._sync_names()

    def _path(self, pack: int) -> Path:
        return self._directory / f"{pack:08}.pack"

    def _open(self, pack: int, flags: int) -> int:
        return os.open(self._path(pack), flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)

    def _sync_names(self) -> None:
        descriptor = os.open(self._directory, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


class Reserve:
    """A file that takes room, to have some where the disk is full: not even forgetting chunks goes without any."""

    def __init__(self, path: Path, size: int) -> None:
        self._path = path
        self._size = size

    def take(self) -> None:
        """Have the room, if the disk has it."""
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, self._size)
        except OSError:
            os.unlink(self._path)
        finally:
            os.close(descriptor)

    def give(self) -> bool:
        """Let others have it; whether there was any."""
        try:
            os.unlink(self._path)
        except FileNotFoundError:
            return False
        return True


def _write(descriptor: int, offset: int, pieces: Sequence[bytes]) -> int:
    """All of them; where they end."""
    for start in range(0, len(pieces), _AT_ONCE):
        group: list[bytes | memoryview] = list(pieces[start : start + _AT_ONCE])
        while group:
            written = os.pwritev(descriptor, group, offset)
            offset += written
            while group and written >= len(group[0]):
                written -= len(group.pop(0))
            if group:
                group[0] = memoryview(group[0])[written:]
    return offset


def _try_cut(descriptor: int, end: int) -> None:
    try:
        os.ftruncate(descriptor, end)
    except OSError:
        return  # it is written over, or cut when the store is opened again
