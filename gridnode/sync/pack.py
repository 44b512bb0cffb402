"""Packs, the files that chunks lie in: HEAD, then records one after the other, only ever appended.

    record = magic 4 | hash 32 | codec 1 | length 4 | size 4 | crc 4 | payload, size bytes     numbers big-endian

length: of the chunk once decoded. crc: CRC-32 of the record without it; it finds records, the hash proves chunks.
"""

import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from gridnode.errors import ChunkInvalid
from gridnode.model import ChunkHash
from gridnode.sync.chunk import MAX_CHUNK, EncodedChunk

HEAD: Final = b"GRIDPK1\n"
_MAGIC: Final = b"\xa7GCr"
_FIELDS: Final = struct.Struct(">4s32sBII")
_CRC: Final = struct.Struct(">I")
OVERHEAD: Final = _FIELDS.size + _CRC.size
"""Bytes of a record besides the payload."""
MAX_RECORD: Final = OVERHEAD + MAX_CHUNK
_WINDOW: Final = 2 * MAX_RECORD

Read = Callable[[int, int], bytes]
"""Up to so many bytes (the second) of a pack from an offset (the first); fewer at its end only."""


class Record(NamedTuple):
    """Where a chunk's record lies in a pack. size: of the whole record, bytes."""

    chunk: ChunkHash
    offset: int
    size: int

    @property
    def end(self) -> int:
        return self.offset + self.size


class Damage(NamedTuple):
    """Bytes of a pack that are no record, with records after them."""

    offset: int
    end: int


def pack_record(chunk: ChunkHash, encoded: EncodedChunk) -> bytes:
    """The record; ChunkInvalid when the payload is larger than any chunk."""
    if len(encoded.payload) > MAX_CHUNK:
        raise ChunkInvalid(f"chunk that takes {len(encoded.payload)} bytes, at most {MAX_CHUNK} allowed")
    fields = _FIELDS.pack(_MAGIC, chunk, encoded.codec, encoded.length, len(encoded.payload))
    return b"".join((fields, _CRC.pack(zlib.crc32(encoded.payload, zlib.crc32(fields))), encoded.payload))


def parse_record(raw: bytes) -> tuple[ChunkHash, EncodedChunk]:
    """What a whole record holds; ChunkInvalid unless every byte is as it was written. The hash is not computed."""
    size = _record_size(raw, 0)
    if size is None or len(raw) != size:
        raise ChunkInvalid("the record of a chunk is damaged: its header is no header")
    _, chunk, codec, length, _ = _FIELDS.unpack_from(raw)
    payload = raw[OVERHEAD:]
    (crc,) = _CRC.unpack_from(raw, _FIELDS.size)
    if zlib.crc32(payload, zlib.crc32(raw[: _FIELDS.size])) != crc:
        raise ChunkInvalid("the record of a chunk is damaged: its checksum differs")
    return ChunkHash(chunk), EncodedChunk(codec, length, payload)


def scan(read: Read, start: int = 0) -> Iterator[Record | Damage]:
    """The records from `start`, where one begins, or the pack, and the damage between them, in order.

    What follows the last record, if anything, is a torn tail: nothing is said of it.
    """
    at = len(HEAD) if start == 0 and read(0, len(HEAD)) == HEAD else start
    good = at
    window, base, last = b"", at, False
    while True:
        if not last and at - base + MAX_RECORD > len(window):
            window, base = read(at, _WINDOW), at
            last = len(window) < _WINDOW
        record = _record_at(window, at - base)
        if record is None:
            found = window.find(_MAGIC, at - base + 1)
            if found >= 0:
                at = base + found
            elif last:
                return
            else:
                at = base + len(window) - len(_MAGIC) + 1
            continue
        if at > good:
            yield Damage(good, at)
        yield Record(record[0], at, record[1])
        at = good = at + record[1]


def _record_size(raw: bytes, at: int) -> int | None:
    """Of the record that begins there, as its header says; None when that is none."""
    if len(raw) - at < OVERHEAD or not raw.startswith(_MAGIC, at):
        return None
    _, _, _, length, size = _FIELDS.unpack_from(raw, at)
    return OVERHEAD + size if max(length, size) <= MAX_CHUNK else None


def _record_at(window: bytes, at: int) -> tuple[ChunkHash, int] | None:
    size = _record_size(window, at)
    if size is None or at + size > len(window):
        return None
    try:
        return parse_record(window[at : at + size])[0], size
    except ChunkInvalid:
        return None
