"""Bodies of pub/sub: they come back as they went, and garbage is refused."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridnode import messages
from gridnode.errors import BodyInvalid, BodyTooLarge, TopicInvalid
from gridnode.event_wire import (
    MAX_EVENTS,
    MAX_INTEREST,
    MAX_PATTERNS,
    Interest,
    decode_batch,
    decode_interest,
    decode_patterns,
    decode_publications,
    encode_batch,
)
from gridnode.topics import MAX_PAYLOAD, Batch, Event
from gridnode.wire import MAX_CALL_BODY

EVENT = Event("a.b", b'{"n":1}', "0f", 12.5, 3)
DECODERS = (decode_batch, decode_publications, decode_patterns, decode_interest)


def test_batches_come_back_as_they_went() -> None:
    batch = Batch([EVENT, Event("c", b"1", "1", 1.0)], {"a.b": 3, "": 1})
    assert decode_batch(encode_batch(9, batch)) == (9, batch)


def test_the_largest_event_fits_into_one_frame() -> None:
    event = Event("x" * 200, b'"%s"' % (b"y" * (MAX_PAYLOAD - 2)), "f" * 32, 1e9, 8)
    assert len(encode_batch(1 << 62, Batch([event], {}))) <= MAX_CALL_BODY


@pytest.mark.parametrize(
    "change",
    [
        {"topic": "a..b"},
        {"topic": "a.*"},
        {"payload": b"{"},
        {"id": '"'},
        {"id": "x" * 65},
        {"id": "é"},
        {"time": float("nan")},
        {"time": float("inf")},
        {"depth": -1},
    ],
)
def test_events_out_of_bounds(change: dict[str, Any]) -> None:
    event = msgspec.structs.replace(EVENT, **change)
    with pytest.raises(BodyInvalid):
        decode_batch(encode_batch(1, Batch([event], {})))


@pytest.mark.parametrize("dropped", [{"a": 0}, {"a": -1}, {"*": 1}, {"a": 1 << 60}, {f"t{n}": 1 for n in range(99)}])
def test_counters_out_of_bounds(dropped: dict[str, int]) -> None:
    with pytest.raises(BodyInvalid):
        decode_batch(encode_batch(1, Batch([], dropped)))


def test_too_many() -> None:
    for body, decode in (
        (encode_batch(1, Batch([EVENT] * (MAX_EVENTS + 1), {})), decode_batch),
        (messages.encode([["a", b"1"]] * (MAX_EVENTS + 1)), decode_publications),
        (messages.encode(["a"] * (MAX_PATTERNS + 1)), decode_patterns),
        (messages.encode([]), decode_patterns),
        (messages.encode(Interest(1, None, tuple(f"t{n}" for n in range(MAX_INTEREST + 1)))), decode_interest),
        (messages.encode(Interest(-1)), decode_interest),
        (messages.encode(Interest(1, None, ("a..b",))), decode_interest),
    ):
        with pytest.raises(BodyInvalid):
            decode(body)


def test_publications_are_checked() -> None:
    assert decode_publications(messages.encode([["a.b", b"1"]])) == [("a.b", b"1")]
    for body, error in (
        ([["a b", b"1"]], TopicInvalid),
        ([["a", b"x"]], BodyInvalid),
        ([["a", b"1"], ["b", b'"%s"' % (b"y" * MAX_PAYLOAD)]], BodyTooLarge),
    ):
        with pytest.raises(error):
            decode_publications(messages.encode(body))


@given(
    st.binary(max_size=200)
    | st.recursive(st.none() | st.integers(-(1 << 63), (1 << 64) - 1) | st.text() | st.binary(), st.lists).map(
        messages.encode
    )
)
def test_garbage_is_refused(body: bytes) -> None:
    for decode in DECODERS:
        try:
            decode(body)
        except (BodyInvalid, TopicInvalid):
            continue
