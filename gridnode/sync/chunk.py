"""Chunks: their hash, and the form they are stored and travel in. Cutting is in cut.py."""

import enum
import hashlib
from typing import NamedTuple

import msgspec
import zstandard

from gridnode.errors import ChunkInvalid
from gridnode.model import ChunkHash

Content = bytes | bytearray | memoryview

HASH_SIZE = 32
MAX_CHUNK = 4 * 1024 * 1024
"""Bytes: the most any chunk, tree nodes included, may hold."""
KEEP_BELOW = 0.95
"""A compressed form is kept when it is smaller than this share of the original."""
_LEVEL = 1


class Codec(enum.IntEnum):
    RAW = 0
    ZSTD = 1


class Chunking(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """How files are cut and named; every manifest states its own. Sizes in bytes."""

    algorithm: str = "fastcdc-2020-nc2"
    min_size: int = 16 * 1024
    avg_size: int = 64 * 1024
    max_size: int = 256 * 1024
    hash: str = "sha256"


class ChunkRef(NamedTuple):
    """A chunk by name, and how many bytes it stands for."""

    hash: ChunkHash
    length: int


class EncodedChunk(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A chunk as stored and sent. length: bytes once decoded."""

    codec: int
    length: int
    payload: bytes


def chunk_hash(content: Content) -> ChunkHash:
    """The name of these bytes."""
    return ChunkHash(hashlib.sha256(content).digest())


def encode(content: bytes) -> EncodedChunk:
    """Compressed when that saves enough; ChunkInvalid past MAX_CHUNK."""
    if len(content) > MAX_CHUNK:
        raise ChunkInvalid(f"chunk of {len(content)} bytes, at most {MAX_CHUNK} allowed")
    # One compressor per call: they are not safe to share between threads, and making one costs 4 µs.
    packed = zstandard.ZstdCompressor(level=_LEVEL).compress(content)
    if len(packed) < KEEP_BELOW * len(content):
        return EncodedChunk(Codec.ZSTD, len(content), packed)
    return EncodedChunk(Codec.RAW, len(content), content)


def decode(encoded: EncodedChunk) -> bytes:
    """The bytes, `encoded.length` of them and never more; ChunkInvalid otherwise. The hash is the caller's to check."""
    if not 0 <= encoded.length <= MAX_CHUNK:
        raise ChunkInvalid(f"chunk of {encoded.length} bytes, at most {MAX_CHUNK} allowed")
    match encoded.codec:
        case Codec.RAW:
            content = encoded.payload
        case Codec.ZSTD:
            content = _decompress(encoded)
        case _:
            raise ChunkInvalid(f"chunk with unknown codec {encoded.codec}")
    if len(content) != encoded.length:
        raise ChunkInvalid(f"chunk holds {len(content)} bytes instead of {encoded.length}")
    return content


def verify(chunk: ChunkHash, encoded: EncodedChunk) -> bytes:
    """The decoded bytes, which hash to `chunk`; ChunkInvalid otherwise."""
    content = decode(encoded)
    got = chunk_hash(content)
    if got != chunk:
        raise ChunkInvalid(f"chunk {chunk.hex()} holds bytes that hash to {got.hex()}")
    return content


def _decompress(encoded: EncodedChunk) -> bytes:
    try:
        # The decoder allocates what the payload's own header states, so that is checked before it runs.
        if zstandard.frame_content_size(encoded.payload) != encoded.length:
            raise ChunkInvalid(f"compressed chunk does not state its length of {encoded.length} bytes")
        return zstandard.ZstdDecompressor().decompress(encoded.payload, allow_extra_data=False)
    except zstandard.ZstdError as exc:
        raise ChunkInvalid(f"compressed chunk is malformed: {exc}") from exc
