from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gridnode import messages
from gridnode.errors import BodyInvalid
from gridnode.messages import CallMeta, ChunkPart, Hello
from gridnode.model import (
    Address,
    ChunkHash,
    Load,
    NodeId,
    NodeRecord,
    ReleaseState,
    ReleaseStatus,
    Root,
    Runtime,
    Sighting,
    TaskName,
)

RECORD = NodeRecord(NodeId("ab" * 20), "a", 1, 0, (Address("h", 7400),), "1", 0)
DEEP_JSON = b'{"version":1,"more":' + b"[" * 30_000 + b"]" * 30_000 + b"}"
DEEP_PACK = b"\x91" * 200_000 + b"\xc0"


def test_hellos_go_round() -> None:
    for hello in (Hello(1), Hello(1, RECORD), Hello(1, bulk=True)):
        assert messages.decode_hello(messages.encode_hello(hello)) == hello


def test_unknown_fields_of_a_hello_are_ignored() -> None:
    assert messages.decode_hello(b'{"version":1,"of_the_future":[1]}') == Hello(1)


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"[]", b"null", b'{"version":"1"}', b'{"version":1,"record":{}}', b"\xff", DEEP_JSON]
)
def test_a_malformed_hello_is_body_invalid(body: bytes) -> None:
    with pytest.raises(BodyInvalid):
        messages.decode_hello(body)


def test_call_metadata() -> None:
    assert messages.decode_call_meta(b"") == CallMeta()
    assert messages.decode_call_meta(b'{"id":"a","attempt":2,"node":"b","x":0}') == CallMeta("a", 2, "b")
    for garbage in (b"{", b"[]", b'{"attempt":"x"}', b"\x00", b'{"x":' + b"[" * 4000 + b"]" * 4000 + b"}"):
        with pytest.raises(BodyInvalid):
            messages.decode_call_meta(garbage)


VALUES = st.recursive(st.integers(-(2**63), 2**63) | st.text() | st.binary(), st.lists)
KINDS: list[Any] = [NodeRecord, list[Sighting], list[ChunkPart], list[bytes], NodeId]


@pytest.mark.parametrize("kind", KINDS, ids=str)
@settings(max_examples=50)
@given(body=st.binary(max_size=200) | VALUES.map(messages.encode))
def test_garbage_is_only_ever_body_invalid(kind: Any, body: bytes) -> None:
    try:
        messages.decode(body, kind)
    except BodyInvalid:
        return


@pytest.mark.parametrize("kind", [*KINDS, Any], ids=str)
def test_a_deep_body_is_body_invalid(kind: Any) -> None:
    with pytest.raises(BodyInvalid):
        messages.decode(DEEP_PACK, kind)


def test_a_deep_unknown_field_is_body_invalid() -> None:
    raw = bytearray(msgspec.msgpack.encode(RECORD))
    raw[0] += 1
    with pytest.raises(BodyInvalid):
        messages.decode(bytes(raw) + msgspec.msgpack.encode("more") + DEEP_PACK, NodeRecord)


def test_hashes_are_bounded() -> None:
    good = [bytes([n]) * 32 for n in range(3)]
    assert messages.decode_hashes(messages.encode(good), 3) == [ChunkHash(item) for item in good]
    for bad in (good, [b"x" * 31], [b""], "text", {1: 2}, [1]):
        with pytest.raises(BodyInvalid):
            messages.decode_hashes(messages.encode(bad), 2)


@pytest.mark.parametrize(
    "change",
    [
        {"addresses": (Address("h", 0),)},
        {"addresses": (Address("h", 10**18),)},
        {"addresses": (Address("h", 1),) * 65},
        {"incarnation": -1},
        {"revision": 1 << 60},
        {"load": Load(1 << 60, 1)},
        {"name": "x" * 300},
        {"name": "bell\a"},
        {"tasks": (TaskName("t"),) * 5000},
        {"release": ReleaseStatus(1, Root("ab" * 32), ReleaseState.FAILED, error="x" * 5000)},
        {"release": ReleaseStatus(1, Root("ab"), ReleaseState.ACTIVE)},
        {"runtime": Runtime("x86_64", "--help")},
        {"runtime": Runtime("x86_64", "3.13\n")},
        {"runtime": Runtime("../x", "3.13")},
        {"runtime": Runtime("x86_64", "3.13", "2." + "1" * 9)},
    ],
)
def test_a_record_that_no_honest_node_would_send_is_refused(change: dict[str, Any]) -> None:
    hostile = msgspec.structs.replace(RECORD, **change)
    with pytest.raises(BodyInvalid):
        messages.decode_record(messages.encode(hostile))
    with pytest.raises(BodyInvalid):
        messages.decode_hello(messages.encode_hello(Hello(1, hostile)))
