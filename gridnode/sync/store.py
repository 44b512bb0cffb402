"""Chunks on disk: one file each, chunks/<first byte>/<hash>, written aside, fsynced, then renamed.

A file is a header (magic, codec, length once decoded) and the payload. A file that is not what its name says
is dropped when it is read, so the chunk counts as missing again.
"""

import contextlib
import errno
import fcntl
import itertools
import os
import stat
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path

from gridnode.errors import ChunkInvalid, ChunkMissing, SyncError
from gridnode.model import ChunkHash
from gridnode.sync.chunk import HASH_SIZE, MAX_CHUNK, EncodedChunk, encode, verify

_HEADER = struct.Struct(">3sBI")
_MAGIC = b"GC1"
_ASIDE = ".new-"
_BATCH = 256
"""Files written before they are fsynced and renamed together."""


class DiskChunkStore:
    """A ChunkStore below `directory`, which one process at a time may open; SyncError when another has it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory / "chunks"
        self._aside = itertools.count()
        with _translated(self._directory):
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = _lock(directory / "chunks.lock")
            for path in self._directory.glob(f"*/{_ASIDE}*"):
                path.unlink()

    def close(self) -> None:
        """Let another process open the directory."""
        os.close(self._lock)

    def has(self, chunk: ChunkHash) -> bool:
        """Whether the chunk can be announced."""
        try:
            found = os.lstat(self._path(chunk))
        except OSError:
            return False
        return stat.S_ISREG(found.st_mode) and found.st_size >= _HEADER.size

    def missing(self, chunks: Iterable[ChunkHash]) -> list[ChunkHash]:
        """Those not held, in the order given, each once."""
        return [chunk for chunk in dict.fromkeys(chunks) if not self.has(chunk)]

    def get(self, chunk: ChunkHash) -> bytes:
        """Its verified bytes; ChunkMissing, or ChunkInvalid after dropping the bad copy."""
        return self._read(chunk)[1]

    def get_encoded(self, chunk: ChunkHash) -> EncodedChunk:
        """As `get`, in the form it is stored in: verified, ready to travel."""
        return self._read(chunk)[0]

    def put(self, chunk: ChunkHash, content: bytes) -> None:
        """Keep `content` for good; ChunkInvalid when it does not hash to `chunk`."""
        self.put_encoded(chunk, encode(content))

    def put_encoded(self, chunk: ChunkHash, encoded: EncodedChunk) -> None:
        """As `put`, for a chunk that travelled."""
        self.put_batch([(chunk, encoded)])

    def put_batch(self, chunks: Iterable[tuple[ChunkHash, EncodedChunk]]) -> None:
        """As `put_encoded` for many at the cost of one; those before a bad one may be kept."""
        remaining = iter(chunks)
        while batch := list(itertools.islice(remaining, _BATCH)):
            for chunk, encoded in batch:
                verify(chunk, encoded)
            self._commit([item for item in batch if not self.has(item[0])])

    def hashes(self) -> Iterator[ChunkHash]:
        """Every chunk held; files of other names are passed over."""
        with _translated(self._directory):
            for path in self._directory.glob("??/*"):
                with contextlib.suppress(ValueError):
                    chunk = ChunkHash(bytes.fromhex(path.name))
                    if len(chunk) == HASH_SIZE and self._path(chunk) == path:
                        yield chunk

    def delete(self, chunks: Iterable[ChunkHash]) -> None:
        """Forget these chunks; those not held are fine."""
        with _translated(self._directory):
            for chunk in chunks:
                self._path(chunk).unlink(missing_ok=True)

    def sweep(self, live: set[ChunkHash]) -> int:
        """Remove every chunk that is not in `live`; returns how many went."""
        dead = [chunk for chunk in self.hashes() if chunk not in live]
        self.delete(dead)
        return len(dead)

    def _path(self, chunk: ChunkHash) -> Path:
        name = chunk.hex()
        return self._directory / name[:2] / name

    def _read(self, chunk: ChunkHash) -> tuple[EncodedChunk, bytes]:
        path = self._path(chunk)
        try:
            encoded = _parse(_contents(path))
            return encoded, verify(chunk, encoded)
        except FileNotFoundError as exc:
            raise ChunkMissing(f"no chunk {path.name}") from exc
        except OSError as exc:
            raise _cannot_use(path, exc) from exc
        except ChunkInvalid:
            self.delete([chunk])
            raise

    def _commit(self, batch: list[tuple[ChunkHash, EncodedChunk]]) -> None:
        written: dict[Path, Path] = {}
        with _translated(self._directory):
            try:
                for chunk, encoded in batch:
                    path = self._path(chunk)
                    aside = path.with_name(f"{_ASIDE}{next(self._aside)}")
                    written[aside] = path
                    _write(aside, encoded)
                for aside in written:
                    _fsync(aside)
                for aside, path in written.items():
                    aside.rename(path)
                for directory in {path.parent for path in written.values()}:
                    _fsync(directory)
            except OSError:
                for aside in written:
                    aside.unlink(missing_ok=True)
                raise


@contextlib.contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise _cannot_use(path, exc) from exc


def _cannot_use(path: Path, exc: OSError) -> SyncError:
    full = exc.errno in (errno.ENOSPC, errno.EDQUOT)
    hint = "free some space there, then deploy again" if full else None
    return SyncError(f"cannot use {path}: {exc.strerror}", hint=hint)


def _lock(path: Path) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as exc:
        os.close(descriptor)
        raise SyncError(f"{path.parent} is in use by another gridnode") from exc
    return descriptor


def _contents(path: Path) -> bytes:
    """The file's bytes, no more than a chunk can take."""
    with open(path, "rb", opener=_no_follow) as file:
        return file.read(_HEADER.size + MAX_CHUNK + 1)


def _no_follow(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW)


def _parse(content: bytes) -> EncodedChunk:
    if len(content) < _HEADER.size or not content.startswith(_MAGIC):
        raise ChunkInvalid("not a chunk file")
    _, codec, length = _HEADER.unpack_from(content)
    return EncodedChunk(codec, length, content[_HEADER.size :])


def _write(path: Path, encoded: EncodedChunk) -> None:
    path.parent.mkdir(mode=0o700, exist_ok=True)
    with open(path, "xb") as file:
        file.write(_HEADER.pack(_MAGIC, encoded.codec, encoded.length))
        file.write(encoded.payload)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
