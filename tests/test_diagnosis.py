"""What nodes say of their health, as hostile as it may be."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridnode import messages
from gridnode.diagnosis import (
    MAX_CHECKS,
    MAX_PEERS,
    MAX_TEXT,
    MAX_TIMES,
    Check,
    Diagnosis,
    RoundTrip,
    Verdict,
    decode_count,
    decode_diagnosis,
    decode_round_trips,
)
from gridnode.errors import BodyInvalid
from gridnode.model import NodeId

GOOD = Check("disk", Verdict.OK, "fine")
NODE = NodeId("ab" * 20)


def test_there_and_back() -> None:
    found = Diagnosis(5, 7, (GOOD, Check("card", Verdict.WRONG, "ended", "another")))
    assert decode_diagnosis(messages.encode(found)) == found
    trips = (RoundTrip(NODE, "a", (1, 2)), RoundTrip(NODE, "b", error="no answer"))
    assert decode_round_trips(messages.encode(trips)) == trips
    assert [decode_count(b""), decode_count(messages.encode(MAX_TIMES))] == [1, MAX_TIMES]


@pytest.mark.parametrize(
    ("decode", "value"),
    [
        (decode_diagnosis, Diagnosis(1, 1, (GOOD,) * (MAX_CHECKS + 1))),
        (decode_diagnosis, Diagnosis(1, 1, (Check("x", Verdict.OK, "x" * (MAX_TEXT + 1)),))),
        (decode_diagnosis, Diagnosis(0, 1, ())),
        (decode_diagnosis, Diagnosis(1, -1, ())),
        (decode_round_trips, (RoundTrip(NODE, "a"),) * (MAX_PEERS + 1)),
        (decode_round_trips, (RoundTrip(NODE, "a", (1,) * (MAX_TIMES + 1)),)),
        (decode_round_trips, (RoundTrip(NODE, "a", (-1,)),)),
        (decode_round_trips, (RoundTrip(NODE, "x" * (MAX_TEXT + 1)),)),
        (decode_round_trips, (RoundTrip(NodeId("x" * 65), "a"),)),
        (decode_count, 0),
        (decode_count, MAX_TIMES + 1),
        (decode_count, "many"),
    ],
)
def test_past_a_bound(decode: Callable[[bytes], Any], value: Any) -> None:
    with pytest.raises(BodyInvalid):
        decode(messages.encode(value))


VALUES = st.recursive(st.integers(-(1 << 63), (1 << 64) - 1) | st.text() | st.none(), st.lists)


@given(st.binary(max_size=200) | VALUES.map(msgspec.msgpack.encode))
def test_garbage(body: bytes) -> None:
    for decode in (decode_diagnosis, decode_round_trips, decode_count):
        with suppress(BodyInvalid):
            decode(body)
