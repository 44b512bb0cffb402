import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridnode.discovery.dht_wire import KSIZE, NAMES, encode, read_request, read_response, split
from gridnode.discovery.peer_record import MAX_VALUE
from gridnode.discovery.sealed import MAX_DATAGRAM

ID, KEY = b"i" * 20, b"k" * 20


def test_requests() -> None:
    for request in [("ping", (ID,)), ("store", (ID, KEY, b"v")), ("find_node", (ID, KEY)), ("find_value", (ID, KEY))]:
        assert read_request(encode(request)) == request


@pytest.mark.parametrize(
    "request_",
    [
        ("stun", ()),
        ("__init__", (ID,)),
        ("ping", ()),
        ("ping", (ID[:19],)),
        ("ping", (ID, ID)),
        ("store", (ID, KEY, bytes(MAX_VALUE + 1))),
        ("store", (ID, "k" * 20, b"v")),
        ("find_node", (ID, KEY + b"!")),
        ["find_node", [ID, KEY], 3],
        {"find_node": [ID, KEY]},
    ],
)
def test_requests_that_are_none(request_: object) -> None:
    assert read_request(encode(request_)) is None


def test_responses() -> None:
    found = [(ID, "10.0.0.1", 7400), (KEY, "fd00::1", 1)]
    assert read_response("ping", encode(ID)) == ID
    assert read_response("store", encode(True)) is True
    assert read_response("find_node", encode(found)) == found
    assert read_response("find_value", encode(found)) == found
    assert read_response("find_value", encode({"value": b"v"})) == {"value": b"v"}


@pytest.mark.parametrize(
    ("name", "response"),
    [
        ("ping", True),
        ("ping", ID[:5]),
        ("ping", []),
        ("store", ID),
        ("store", {"value": b"v"}),
        ("find_node", {"value": b"v"}),
        ("find_node", True),
        ("find_node", [(ID, "10.0.0.1", 7400)] * (KSIZE + 1)),
        ("find_node", [(ID, 5, 7400)]),
        ("find_value", {}),
        ("find_value", {"value": b"v", "more": b"w"}),
        ("find_value", {"value": ["unhashable"]}),
        ("stun", ID),
    ],
)
def test_responses_to_something_else(name: str, response: object) -> None:
    assert read_response(name, encode(response)) is None


def test_contacts_nobody_can_send_to_are_left_out() -> None:
    found = [(ID, "224.0.0.1", 7400), (ID, "name", 7400), (ID, "10.0.0.1", 0), (b"short", "10.0.0.1", 7400)]
    assert read_response("find_node", encode([*found, (KEY, "10.0.0.1", 7400)])) == [(KEY, "10.0.0.1", 7400)]


def test_the_largest_of_each_fits_into_a_datagram() -> None:
    longest = [(ID, "fd00:1234:5678:9abc:def0:1234:5678:9abc", 65535)] * KSIZE
    sealed = 1 + 20 + 36
    assert len(encode(longest)) + sealed <= MAX_DATAGRAM
    assert len(encode(("store", (ID, KEY, bytes(MAX_VALUE))))) + sealed <= 1280
    assert len(encode({"value": bytes(MAX_VALUE)})) + sealed <= 1280


@given(st.binary(max_size=100))
def test_garbage_is_nothing(garbage: bytes) -> None:
    assert read_request(garbage) is None
    assert all(not read_response(name, garbage) for name in NAMES if name != "store"), "at most: nobody is nearer"
    parts = split(garbage)
    assert parts is None or parts[1] == garbage[1:21]


def test_a_deep_nest_is_nothing() -> None:
    assert read_request(b"\x91" * 1300) is None
    assert read_response("find_node", b"\x91" * 1300) is None


JSONISH = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.binary(max_size=25) | st.text(max_size=25),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
)


@given(st.sampled_from(sorted(NAMES)), JSONISH)
def test_any_message_is_read_or_refused(name: str, message: object) -> None:
    body = msgspec.msgpack.encode(message)
    read_request(body)
    read_response(name, body)
