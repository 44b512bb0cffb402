import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridnode.errors import ChunkInvalid
from gridnode.model import ChunkHash
from gridnode.sync.chunk import MAX_CHUNK, Codec, EncodedChunk, chunk_hash, encode
from gridnode.sync.pack import HEAD, OVERHEAD, Damage, Record, pack_record, parse_record, scan

CONTENTS = [b"abc", b"a" * 5000, b"", bytes(range(256)) * 9]
RAW = [pack_record(chunk_hash(content), encode(content)) for content in CONTENTS]
PACK = HEAD + b"".join(RAW)


def found(pack: bytes, start: int = 0) -> list[Record | Damage]:
    return list(scan(lambda at, size: pack[at : at + size], start))


def names(pack: bytes) -> list[ChunkHash]:
    return [one.chunk for one in found(pack) if isinstance(one, Record)]


def test_golden_record() -> None:
    assert RAW[0].hex() == (
        "a7474372ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad0000000003000000038e570ac9616263"
    )
    assert len(RAW[0]) == OVERHEAD + 3


@given(st.binary(max_size=300))
def test_a_record_is_read_back(content: bytes) -> None:
    assert parse_record(pack_record(chunk_hash(content), encode(content))) == (chunk_hash(content), encode(content))


@given(st.data())
def test_a_bit_that_flipped_is_seen(data: st.DataObject) -> None:
    raw = bytearray(data.draw(st.sampled_from(RAW)))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(ChunkInvalid):
        parse_record(bytes(raw))


@given(st.binary(max_size=200))
def test_garbage_is_no_record(raw: bytes) -> None:
    with pytest.raises(ChunkInvalid):
        parse_record(raw)


def test_what_is_too_large_for_a_chunk_is_not_packed() -> None:
    with pytest.raises(ChunkInvalid):
        pack_record(chunk_hash(b""), EncodedChunk(Codec.ZSTD, 1, bytes(MAX_CHUNK + 1)))


def test_a_pack_is_scanned_from_any_record() -> None:
    records = found(PACK)
    assert names(PACK) == [chunk_hash(content) for content in CONTENTS]
    assert [one.end for one in records] == [one.offset for one in records[1:]] + [len(PACK)]
    assert found(PACK, records[2].offset) == records[2:]
    assert found(PACK, len(PACK)) == found(b"") == found(HEAD) == []


@given(st.integers(0, len(PACK)))
def test_a_torn_tail_is_passed_over(end: int) -> None:
    whole = [one for one in found(PACK) if one.end <= end]
    assert found(PACK[:end]) == whole
    assert found(PACK[:end] + bytes(100)) == whole


@given(st.integers(len(HEAD), len(PACK) - 1), st.binary(min_size=1, max_size=80))
def test_damage_costs_the_records_it_touches(at: int, patch: bytes) -> None:
    damaged = (PACK[:at] + patch + PACK[at + len(patch) :])[: len(PACK)]
    touched = {one.chunk for one in found(PACK) if PACK[one.offset : one.end] != damaged[one.offset : one.end]}
    assert names(damaged) == [chunk_hash(content) for content in CONTENTS if chunk_hash(content) not in touched]


def test_damage_in_the_middle_is_told() -> None:
    first, second, third, _ = found(PACK)
    damaged = bytearray(PACK)
    damaged[second.offset + 10] ^= 1
    assert found(bytes(damaged))[:3] == [first, Damage(second.offset, second.end), third]


def test_a_pack_without_its_head_is_scanned_too() -> None:
    assert names(b"".join(RAW)) == names(b"GRIDPK9\n" + b"".join(RAW)) == names(PACK)


def test_records_across_the_window_are_found() -> None:
    """More than is read at once, with a long stretch of damage between."""
    large = [bytes([n]) * 3 for n in range(3)]
    raw = [pack_record(chunk_hash(one), encode(one)) for one in large]
    noise = bytes(3 * MAX_CHUNK - 1) + b"\xa7GCr" * 3
    pack = HEAD + raw[0] + noise + raw[1] + noise + raw[2] + noise
    assert names(pack) == [chunk_hash(one) for one in large]


@given(st.binary(max_size=500))
def test_any_bytes_can_be_scanned(pack: bytes) -> None:
    assert names(pack) == []
