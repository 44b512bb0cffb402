"""A release as a directory: built aside, made read-only, fsynced, then renamed to its root's name.

A file that an earlier release on this disk has too is shared with it (reflink, else hard link); others are written
from chunks, as is one that cannot be shared.
"""

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from gridnode.errors import ManifestInvalid, SyncError
from gridnode.model import ChunkHash, Root
from gridnode.sync import ChunkStore
from gridnode.sync.chunk import MAX_CHUNK
from gridnode.sync.earlier import EarlierFiles
from gridnode.sync.manifest import ChunkList, Entry, EntryKind, name_text, root_hash
from gridnode.sync.tree import iter_chunks, iter_files

_ASIDE = ".new-"
_ZEROS = bytes(MAX_CHUNK)
"""A chunk of nothing else becomes a hole, as it was in a sparse file."""
_DIRECTORY_MODE = 0o555
_FILE_MODES = {EntryKind.FILE: 0o444, EntryKind.EXECUTABLE: 0o555}


def materialise(root: Root, store: ChunkStore, releases_dir: Path) -> Path:
    """The release's directory, complete and durable; SyncError leaves nothing behind."""
    root_hash(root)
    final = releases_dir / root
    with _translated(releases_dir):
        if final.is_dir():
            return final
        aside = Path(tempfile.mkdtemp(prefix=_ASIDE, dir=releases_dir))
        try:
            _seal(aside, _fill(aside, root, store, EarlierFiles(releases_dir, store.get)))
            aside.rename(final)
            _fsync(releases_dir)
        except BaseException:
            _delete(aside)
            raise
    return final


def remove(path: Path) -> None:
    """Remove a release's directory, or what a crash left of one; fine when it is gone."""
    with _translated(path.parent):
        if path.is_symlink() or not path.is_dir():
            path.unlink(missing_ok=True)
            return
        if path.name.startswith(_ASIDE):
            _delete(path)
            return
        # Renamed first, so that a removal that is cut short never looks like a whole release.
        aside = Path(tempfile.mkdtemp(prefix=_ASIDE, dir=path.parent))
        path.rename(aside)
        _delete(aside)


def _fill(top: Path, root: Root, store: ChunkStore, earlier: EarlierFiles) -> set[str]:
    """Everything in its place; the paths of the files that were written."""
    written: set[str] = set()
    for path, entry in iter_files(root, store.get):
        place = top / path
        if isinstance(entry.ref, ChunkList):
            if not earlier.take(entry, entry.ref, _FILE_MODES[entry.kind], place):
                _write(place, entry, entry.ref, store)
                written.add(str(place))
        elif entry.kind is EntryKind.LINK:
            place.symlink_to(name_text(entry.ref))
        else:
            place.mkdir(mode=0o700)
    return written


def _write(place: Path, entry: Entry, content: ChunkList, store: ChunkStore) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(place, flags, 0o600), "wb") as file:
        for ref in iter_chunks(content, store.get):
            chunk = store.get(ChunkHash(ref.hash))
            if len(chunk) != ref.length:
                raise ManifestInvalid(f"chunk {ref.hash.hex()} has {len(chunk)} bytes, {ref.length} stated")
            if chunk == _ZEROS[: len(chunk)]:
                file.seek(len(chunk), os.SEEK_CUR)
            else:
                file.write(chunk)
        file.truncate()
        os.fchmod(file.fileno(), _FILE_MODES[entry.kind])


def _seal(top: Path, written: set[str]) -> None:
    """Everything to disk, files after all are written (one pass of the journal), directories last and read-only."""
    for where, _, names in os.walk(top, topdown=False):
        for name in names:
            path = os.path.join(where, name)
            if path in written:
                _fsync(Path(path))
        os.chmod(where, _DIRECTORY_MODE)
        _fsync(Path(where))


def _delete(top: Path) -> None:
    for where, _, _ in os.walk(top):
        os.chmod(where, 0o700)
    shutil.rmtree(top, ignore_errors=True)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        full = exc.errno in (errno.ENOSPC, errno.EDQUOT)
        hint = "free some space there, then deploy again" if full else None
        raise SyncError(f"cannot write {path}: {exc.strerror}", hint=hint) from exc
