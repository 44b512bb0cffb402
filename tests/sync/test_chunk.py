import contextlib
import hashlib

import msgspec
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from gridnode.errors import ChunkInvalid
from gridnode.model import ChunkHash
from gridnode.sync.chunk import MAX_CHUNK, Chunking, Codec, EncodedChunk, chunk_hash, decode, encode, verify


def test_a_chunk_is_named_by_the_sha256_of_its_bytes() -> None:
    assert chunk_hash(b"abc") == hashlib.sha256(b"abc").digest()
    assert chunk_hash(memoryview(b"abc")) == chunk_hash(b"abc")


@given(st.binary(max_size=5000), st.integers(1, 50))
def test_encode_and_decode_are_inverse(content: bytes, times: int) -> None:
    assert verify(chunk_hash(content * times), encode(content * times)) == content * times


def test_compression_is_kept_only_when_it_saves_enough() -> None:
    assert encode(b"a" * 10_000).codec == Codec.ZSTD
    noise = b"".join(hashlib.sha256(bytes([n])).digest() for n in range(200))
    assert encode(noise) == EncodedChunk(Codec.RAW, len(noise), noise)


def test_an_encoded_chunk_travels_as_one_array() -> None:
    encoded = encode(b"abc")
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(encoded)) == [0, 3, b"abc"]


BOMB = zstandard.ZstdCompressor().compress(bytes(64 * 1024 * 1024))
STREAMED = zstandard.ZstdCompressor(write_content_size=False).compress(b"a" * 100)


@pytest.mark.parametrize(
    "encoded",
    [
        EncodedChunk(Codec.ZSTD, 100, BOMB),
        EncodedChunk(Codec.ZSTD, 64 * 1024 * 1024, BOMB),
        EncodedChunk(Codec.ZSTD, 100, STREAMED),
        EncodedChunk(Codec.ZSTD, 100, zstandard.ZstdCompressor().compress(b"a" * 100) + b"tail"),
        EncodedChunk(Codec.ZSTD, 100, zstandard.ZstdCompressor().compress(b"a" * 100)[:-1]),
        EncodedChunk(Codec.ZSTD, 3, b"abc"),
        EncodedChunk(Codec.ZSTD, 0, b""),
        EncodedChunk(Codec.RAW, 2, b"abc"),
        EncodedChunk(Codec.RAW, -1, b""),
        EncodedChunk(Codec.RAW, MAX_CHUNK + 1, bytes(MAX_CHUNK + 1)),
        EncodedChunk(7, 3, b"abc"),
    ],
)
def test_what_does_not_decode_to_the_stated_length_is_refused(encoded: EncodedChunk) -> None:
    with pytest.raises(ChunkInvalid):
        decode(encoded)


@given(st.builds(EncodedChunk, st.integers(-1, 3), st.integers(-1, 300), st.binary(max_size=200)))
def test_garbage_decodes_to_its_length_or_is_refused(encoded: EncodedChunk) -> None:
    with contextlib.suppress(ChunkInvalid):
        assert len(decode(encoded)) == encoded.length


def test_bytes_of_another_name_are_refused() -> None:
    with pytest.raises(ChunkInvalid, match="hash to"):
        verify(ChunkHash(bytes(32)), encode(b"abc"))


def test_too_large_a_chunk_is_not_made() -> None:
    with pytest.raises(ChunkInvalid):
        encode(bytes(MAX_CHUNK + 1))


def test_the_chunking_of_this_version() -> None:
    assert msgspec.to_builtins(Chunking()) == ["fastcdc-2020-nc2", 16384, 65536, 262144, "sha256"]
