"""Pieces: cut alike on both sides, within their bounds; sets of them as ints; hostile bodies about them."""

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gridnode import messages
from gridnode.errors import BodyInvalid
from gridnode.messages import MAX_GET, ChunkPart
from gridnode.model import ChunkHash, Root
from gridnode.sync.chunk import MAX_CHUNK, chunk_hash
from gridnode.sync.piece_wire import (
    Have,
    PieceGet,
    PieceParts,
    decode_get,
    decode_have,
    decode_parts,
    encode_get,
    encode_have,
    encode_parts,
)
from gridnode.sync.pieces import MAX_CHUNKS, MAX_PIECE, MAX_PIECES, MIN_PIECE, batches, bits_of, cut, pieces_in

ROOT = Root("ab" * 32)


def key(number: int) -> ChunkHash:
    return chunk_hash(str(number).encode())


@given(st.lists(st.integers(1, MAX_CHUNK), max_size=200))
@example([1] * 5000)
@example([MAX_CHUNK] * 400)
def test_pieces_hold_every_chunk_once_in_order_within_their_bounds(lengths: list[int]) -> None:
    chunks = {key(n): length for n, length in enumerate(lengths)}
    layout = cut(ROOT, chunks)
    assert [chunk for piece in layout.pieces for chunk in piece.chunks] == list(chunks)
    assert layout.size == sum(lengths)
    for piece in layout.pieces:
        assert piece.size == sum(chunks[one] for one in piece.chunks)
        assert 0 < len(piece.chunks) <= MAX_CHUNKS
        assert piece.size <= MAX_PIECE


def test_a_tree_has_at_least_256_pieces_where_they_are_not_too_small() -> None:
    layout = cut(ROOT, {key(n): 64 * 1024 for n in range(4096)})
    assert 256 <= len(layout.pieces) <= 300
    assert len(cut(ROOT, {key(n): 64 * 1024 for n in range(16)}).pieces) == 16 * 64 * 1024 // MIN_PIECE
    assert cut(ROOT, {}).pieces == ()


def test_a_piece_is_held_when_none_of_its_chunks_is_missing() -> None:
    layout = cut(ROOT, {key(n): MIN_PIECE for n in range(4)})
    assert layout.held([]) == layout.everything == 0b1111
    assert layout.held([key(2)]) == 0b1011


@given(st.sets(st.integers(0, 5000)))
def test_a_set_and_its_pieces(pieces: set[int]) -> None:
    assert list(pieces_in(bits_of(pieces))) == sorted(pieces)


@given(st.lists(st.integers(1, 3_000_000), max_size=300))
def test_batches_are_bounded(lengths: list[int]) -> None:
    chunks = {key(n): length for n, length in enumerate(lengths)}
    found = list(batches(chunks, chunks, MAX_GET, 1 << 20))
    assert [chunk for batch in found for chunk in batch] == list(chunks)
    for batch in found:
        assert len(batch) == 1 or (len(batch) <= MAX_GET and sum(chunks[one] for one in batch) <= 1 << 20)


@given(st.integers(0, 3000), st.randoms(), st.booleans(), st.booleans(), st.booleans())
def test_have_there_and_back(count: int, chance: object, is_more: bool, asks: bool, fetches: bool) -> None:
    bits = bits_of(n for n in range(count) if hash((n, chance)) % 3 == 0)
    have = Have(ROOT, count, bits, is_more and bool(bits), asks, fetches)
    assert decode_have(encode_have(have)) == have


def test_the_other_bodies_there_and_back() -> None:
    get = PieceGet(ROOT, 7, (key(1), key(2)))
    assert decode_get(encode_get(get)) == get
    for parts in (PieceParts((ChunkPart(key(1), 0, 1, b"x"),)), PieceParts((), True), PieceParts((), True, 0b1011)):
        assert decode_parts(encode_parts(parts)) == parts


RAW = bytes.fromhex(ROOT)
HOSTILE = [
    [RAW, -1, b""],
    [RAW, MAX_PIECES + 1, b""],
    [RAW, 8, b"\xff\xff"],
    [RAW, 7, b"\xff"],
    [RAW, 8, b"", [8]],
    [RAW, 8, b"", [-1]],
    [RAW, 8, b"", [0] * 65],
    [b"short", 8, b"\xff"],
    [RAW, 1 << 63, b""],
    [],
    ["x"],
]


@pytest.mark.parametrize("body", HOSTILE, ids=lambda body: repr(body)[:40])
def test_what_cannot_be_held_is_refused(body: list[object]) -> None:
    with pytest.raises(BodyInvalid):
        decode_have(messages.encode(body))


@pytest.mark.parametrize(
    "body", [[RAW, 0, []], [RAW, -1, [b"x" * 32]], [RAW, 0, [b"x"]], [RAW, 0, [b"x" * 32] * 65], [b"", 0, [b"x" * 32]]]
)
def test_nor_can_it_be_asked(body: list[object]) -> None:
    with pytest.raises(BodyInvalid):
        decode_get(messages.encode(body))


def test_nor_given() -> None:
    for body in ([[], True, b"x" * (MAX_PIECES // 8 + 1)], [[[key(1), 0, 1, b"x"]] * 65]):
        with pytest.raises(BodyInvalid):
            decode_parts(messages.encode(body))


@given(st.binary(max_size=300) | st.recursive(st.none() | st.integers() | st.binary(), st.lists))
def test_garbage_is_a_bad_body(body: object) -> None:
    try:
        raw = body if isinstance(body, bytes) else msgspec.msgpack.encode(body)
    except (OverflowError, msgspec.MsgspecError):
        return
    for decode in (decode_have, decode_get, decode_parts):
        try:
            decode(raw)
        except BodyInvalid:
            continue
