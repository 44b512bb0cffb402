"""Files of the releases that are on disk already, so that one which did not change is not written again.

A release's files are read-only, and its tasks see them through a read-only mount: none can change what is shared.
"""

import errno
import fcntl
import os
import stat
from pathlib import Path

from gridnode.errors import SyncError
from gridnode.model import Root
from gridnode.sync.manifest import ChunkList, Entry, EntryKind, root_hash
from gridnode.sync.tree import Get, iter_files

_FICLONE = 0x40049409
_UNSUPPORTED = {errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL, errno.EXDEV, errno.ENOSYS, errno.EPERM}
_CANNOT_LINK = {errno.EMLINK, errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.ENOENT, errno.ENOSYS}


class EarlierFiles:
    """The files of every complete release below `releases_dir`, found by their content through their trees."""

    def __init__(self, releases_dir: Path, get: Get) -> None:
        self._places: dict[tuple[EntryKind, ChunkList], Path] = {}
        self._reflinks = True
        for path in sorted(releases_dir.iterdir()):
            self._learn(path, get)

    def take(self, entry: Entry, content: ChunkList, mode: int, place: Path) -> bool:
        """Whether `place` is that file now, its bytes shared with an earlier one; False leaves nothing there."""
        source = self._places.get((entry.kind, content))
        return source is not None and _is_sound(source, entry.size, mode) and self._share(source, place, mode)

    def _learn(self, directory: Path, get: Get) -> None:
        """A directory that is no release, or whose tree is not here any more, has nothing for us."""
        try:
            root_hash(Root(directory.name))
            for path, entry in iter_files(Root(directory.name), get):
                if isinstance(entry.ref, ChunkList):
                    self._places.setdefault((entry.kind, entry.ref), directory / path)
        except SyncError:
            return

    def _share(self, source: Path, place: Path, mode: int) -> bool:
        if self._reflinks:
            self._reflinks = _reflink(source, place, mode)
            if self._reflinks:
                return True
        try:
            os.link(source, place, follow_symlinks=False)
        except OSError as exc:
            if exc.errno in _CANNOT_LINK:
                return False
            raise
        return True


def _is_sound(source: Path, size: int, mode: int) -> bool:
    """Whether it looks as we left it."""
    try:
        found = os.lstat(source)
    except OSError:
        return False
    return stat.S_ISREG(found.st_mode) and stat.S_IMODE(found.st_mode) == mode and found.st_size == size


def _reflink(source: Path, place: Path, mode: int) -> bool:
    """Whether the file system made a copy that shares its blocks; False leaves nothing there."""
    origin = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        copy = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.ioctl(copy, _FICLONE, origin)
            os.fchmod(copy, mode)
            os.fsync(copy)
        except OSError as exc:
            os.unlink(place)
            if exc.errno in _UNSUPPORTED:
                return False
            raise
        finally:
            os.close(copy)
    finally:
        os.close(origin)
    return True
