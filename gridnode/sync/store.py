"""Chunks on disk: packs, only ever appended to, and an index of where each chunk lies in them.

A chunk is written, its pack fsynced, and only then it counts as held. Every byte is verified when it is read; a chunk
that is not what its name says is named in the quarantine, and not held any more, so it is fetched again.
"""

import contextlib
import errno
import fcntl
import os
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TypeVar

import structlog

from gridnode.errors import ChunkInvalid, ChunkMissing, SyncError
from gridnode.model import ChunkHash
from gridnode.sync.chunk import Codec, EncodedChunk, encode, verify
from gridnode.sync.pack import HEAD, Damage, Record, pack_record, parse_record, scan
from gridnode.sync.pack_files import PackFiles, Reserve
from gridnode.sync.pack_index import PackIndex, Place

log = structlog.get_logger()
T = TypeVar("T")

PACK_SIZE = 64 * 1024 * 1024
"""Bytes after which a new pack is begun."""
RESERVE = 8 * 1024 * 1024
"""Bytes kept for when the disk is full."""
MAX_DEAD = 0.3
"""A pack with more than this share in no use is written anew."""
_BATCH = 8 * 1024 * 1024
"""Bytes written, after which they are fsynced together."""
_TRIES = 5


class DiskChunkStore:
    """A ChunkStore below `directory`, which one process at a time may open; SyncError when another has it.

    on_invalid: told of each chunk that proved bad, in the thread that read it. pack_size, reserve: bytes.
    """

    def __init__(self, directory: Path, *, pack_size: int = PACK_SIZE, reserve: int = RESERVE) -> None:
        self._directory = directory / "packs"
        self._pack_size = pack_size
        self.on_invalid: Callable[[ChunkHash], None] = lambda _chunk: None
        self._writing = threading.Lock()
        with _translated(self._directory):
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = _lock(directory / "chunks.lock")
        try:
            shutil.rmtree(directory / "chunks", ignore_errors=True)  # one file each, before there were packs
            self._files = PackFiles(self._directory)
            with _translated(self._directory):
                self._index = PackIndex(self._directory / "index.sqlite")
                self._last, self._end = self._recover()
                self._reserve = Reserve(self._directory / "reserve", reserve)
                self._reserve.take()
        except BaseException:
            os.close(self._lock)
            raise
        self._compacting = threading.Lock()

    def close(self) -> None:
        """Let another process open the directory."""
        with self._writing:
            self._index.close()
            os.close(self._lock)

    # -- reading ----------------------------------------------------------------------------------------------------

    def has(self, chunk: ChunkHash) -> bool:
        """Whether the chunk can be announced."""
        return self._index.find(chunk) is not None

    def missing(self, chunks: Iterable[ChunkHash]) -> list[ChunkHash]:
        """Those not held, in the order given, each once."""
        return self._index.missing(chunks)

    def get(self, chunk: ChunkHash) -> bytes:
        """Its verified bytes; ChunkMissing, or ChunkInvalid after dropping the bad copy."""
        return self._read(chunk)[1]

    def get_encoded(self, chunk: ChunkHash) -> EncodedChunk:
        """As `get`, in the form it is stored in: verified, ready to travel."""
        return self._read(chunk)[0]

    def hashes(self) -> Iterator[ChunkHash]:
        """Every chunk held, in the order they lie on disk; one that moves meanwhile may come twice."""
        return (chunk for chunk, _ in self._index.chunks())

    def count(self) -> int:
        """How many chunks are held."""
        return self._index.count()

    def quarantined(self) -> dict[ChunkHash, str]:
        """The chunks that proved bad and were not put again since, and why."""
        return self._index.quarantined()

    def _read(self, chunk: ChunkHash) -> tuple[EncodedChunk, bytes]:
        place = Place(0, 0, 0)
        for _ in range(_TRIES):
            found = self._index.find(chunk)
            if found is None:
                raise ChunkMissing(f"no chunk {chunk.hex()}")
            place = found
            try:
                encoded = self._parse(chunk, place)
                return encoded, verify(chunk, encoded)
            except FileNotFoundError:
                continue  # its pack was written anew between the look and the read
            except ChunkInvalid as exc:
                self._set_aside(chunk, place, exc.message)
                raise
        self._set_aside(chunk, place, "its pack is gone")
        raise ChunkInvalid(f"chunk {chunk.hex()}: its pack is gone")

    def _parse(self, chunk: ChunkHash, place: Place) -> EncodedChunk:
        """The record there, which is that chunk's; raises FileNotFoundError when the pack is gone."""
        try:
            name, encoded = parse_record(self._files.read(*place))
        except FileNotFoundError:
            raise
        except OSError as exc:
            if exc.errno == errno.EIO:
                raise ChunkInvalid(f"chunk {chunk.hex()} cannot be read: {exc.strerror}") from exc
            raise _cannot_use(self._directory, exc) from exc
        if name != chunk:
            raise ChunkInvalid(f"chunk {name.hex()} lies where {chunk.hex()} should")
        return encoded

    def _set_aside(self, chunk: ChunkHash, place: Place, why: str) -> None:
        log.warning("a chunk on disk is bad; it is fetched again", chunk=chunk.hex(), pack=place.pack, why=why)
        self._index.quarantine(chunk, place, why)
        self.on_invalid(chunk)

    # -- writing ----------------------------------------------------------------------------------------------------

    def put(self, chunk: ChunkHash, content: bytes) -> None:
        """Keep `content` for good; ChunkInvalid when it does not hash to `chunk`."""
        self.put_encoded(chunk, encode(content))

    def put_encoded(self, chunk: ChunkHash, encoded: EncodedChunk) -> None:
        """As `put`, for a chunk that travelled."""
        self.put_batch([(chunk, encoded)])

    def put_batch(self, chunks: Iterable[tuple[ChunkHash, EncodedChunk]]) -> None:
        """As `put_encoded` for many at the cost of one; those before a bad one may be kept."""
        batch: dict[ChunkHash, bytes] = {}
        size = 0
        for chunk, encoded in chunks:
            content = verify(chunk, encoded)
            raw = EncodedChunk(Codec.RAW, encoded.length, content)
            # How well it is compressed is a sender's choice, which need not cost us room.
            batch[chunk] = pack_record(chunk, raw if len(encoded.payload) > encoded.length else encoded)
            size += len(batch[chunk])
            if size >= _BATCH:
                self._commit(batch)
                batch, size = {}, 0
        self._commit(batch)

    def delete(self, chunks: Iterable[ChunkHash]) -> None:
        """Forget these chunks, bad ones too; those not held are fine. `compact` frees their room."""
        gone = list(chunks)
        with _translated(self._directory):
            self._freeing(lambda: self._index.remove(gone))

    def sweep(self, live: set[ChunkHash]) -> int:
        """Remove every chunk that is not in `live`; returns how many went."""
        dead = [chunk for chunk in self.hashes() if chunk not in live]
        self.delete(dead)
        self.compact()
        return len(dead)

    def compact(self) -> int:
        """Drop packs of which nothing is used, and write anew those with much in no use; bytes freed."""
        with self._compacting, _translated(self._directory):
            freed = self._freeing(self._compact)
            self._reserve.take()
        return freed

    def _compact(self) -> int:
        freed = 0
        live = self._index.live()
        sizes = self._files.sizes()
        for pack in sorted(sizes, key=lambda one: live.get(one, 0)):
            if sizes[pack] - live.get(pack, 0) > MAX_DEAD * sizes[pack]:
                freed += self._rewrite(pack, sizes[pack])
        return freed

    def _freeing(self, action: Callable[[], T]) -> T:
        """What frees room may take the reserve's, if it does not go otherwise."""
        try:
            return action()
        except (OSError, SyncError):
            if not self._reserve.give():
                raise
            return action()

    def _commit(self, batch: dict[ChunkHash, bytes]) -> None:
        with self._writing, _translated(self._directory):
            fresh = self._index.missing(batch)
            if fresh:
                pack, end, records = self._append([(chunk, batch[chunk]) for chunk in fresh])
                self._indexed(end, partial(self._index.add, pack, end, records))

    def _append(self, raw: list[tuple[ChunkHash, bytes]], *, avoid: int = -1) -> tuple[int, int, list[Record]]:
        """Write records to the last pack, or a new one, durably, without calling them held."""
        if self._end >= self._pack_size or self._last in (0, avoid):
            self._end = self._files.create(self._last + 1)
            self._last += 1
        records, at = [], self._end
        for chunk, record in raw:
            records.append(Record(chunk, at, len(record)))
            at += len(record)
        try:
            return self._last, self._files.append(self._last, self._end, [record for _, record in raw]), records
        except OSError:
            # After an fsync that failed nobody knows what is on the disk: nothing is written behind it any more.
            if self._end == len(HEAD):
                self._files.remove(self._last)
            self._end = self._pack_size
            raise

    def _indexed(self, end: int, note: Callable[[], None]) -> None:
        """Call what was appended held; where the index refuses, it was never there."""
        try:
            note()
        except BaseException:
            self._files.cut(self._last, self._end)
            raise
        self._end = end

    def _rewrite(self, pack: int, size: int) -> int:
        """Move what is used of the pack to the end of the last one, and remove it; bytes freed."""
        moved = 0
        for group in _groups(self._index.lying_in(pack)):
            with self._writing:
                raw = [(one.chunk, self._sound(pack, one)) for one in group]
                kept = [(chunk, record) for chunk, record in raw if record]
                if kept:
                    to, end, records = self._append(kept, avoid=pack)
                    self._indexed(end, partial(self._index.move, pack, to, end, records))
                moved += sum(len(record) for _, record in kept)
        with self._writing:
            if self._index.lying_in(pack):
                return -moved  # chunks came to it meanwhile: the next time
            if pack == self._last:
                self._end = self._pack_size
            self._index.forget([pack])
            self._files.remove(pack)
        return size - moved

    def _sound(self, pack: int, one: Record) -> bytes:
        """The record as it lies there, or nothing when it is bad."""
        raw = self._files.read(pack, one.offset, one.size)
        try:
            parse_record(raw)
        except ChunkInvalid as exc:
            self._set_aside(one.chunk, Place(pack, one.offset, one.size), exc.message)
            return b""
        return raw

    # -- opening ----------------------------------------------------------------------------------------------------

    def _recover(self) -> tuple[int, int]:
        """Make index and packs agree, whatever a crash left; the last pack and where it ends, 0 and 0 for none."""
        sizes, ends = self._files.sizes(), self._index.ends()
        self._index.forget(pack for pack, end in ends.items() if sizes.get(pack, -1) < end)
        last = (0, 0)
        for pack, size in sizes.items():
            known = ends.get(pack, 0)
            last = pack, known if size == known > 0 else self._scan(pack, known if known < size else 0, size)
        return last

    def _scan(self, pack: int, start: int, size: int) -> int:
        """Index what lies from `start` on, and cut the torn tail off; where the pack ends now."""
        records: list[Record] = []
        for found in scan(lambda at, length: self._files.read(pack, at, length), start):
            if isinstance(found, Damage):
                log.warning("part of a pack is damaged", pack=pack, start=found.offset, end=found.end)
            else:
                records.append(found)
        end = records[-1].end if records else start
        if not end:
            self._files.remove(pack)
            return self._pack_size
        if end < size:
            log.info("cut the torn end of a pack", pack=pack, size=size - end)
            self._files.cut(pack, end)
        self._index.add(pack, end, records)
        return end


def _groups(records: list[Record]) -> Iterator[list[Record]]:
    group: list[Record] = []
    for record in records:
        group.append(record)
        if sum(one.size for one in group) >= _BATCH:
            yield group
            group = []
    if group:
        yield group


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
