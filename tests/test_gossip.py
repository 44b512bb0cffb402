"""What nodes tell of each other: signed, bounded, and safe to read whatever it is."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from gridnode import gossip, messages
from gridnode.errors import BodyInvalid
from gridnode.gossip import Gossip, SignedRecord, is_genuine, read_record, sign_record
from gridnode.identity import node_id, public_key_of, sign
from gridnode.model import Address, Claim, NodeId, NodeRecord, RecordVersion, TaskName

SEED, OTHER = b"s" * 32, b"o" * 32
ME = node_id(public_key_of(SEED))
RECORD = NodeRecord(ME, "web1", 5, 3, (Address("10.0.0.1", 7400),), "1", 0, labels={"zone": "eu"}, served="ab" * 16)


def test_a_record_comes_out_as_it_went_in() -> None:
    raw = sign_record(SEED, RECORD)
    record, signed = read_record(raw)
    assert record == RECORD
    assert is_genuine(signed)
    assert len(raw) < 400


def test_nobody_else_can_sign_it_or_change_it() -> None:
    with pytest.raises(BodyInvalid, match="not of the node whose key it shows"):
        read_record(sign_record(OTHER, RECORD))
    _, signed = read_record(sign_record(SEED, RECORD))
    body = messages.encode(replace(RECORD, revision=9))
    record, changed = read_record(messages.encode(SignedRecord(body, signed.key, signed.signature)))
    assert record.revision == 9
    assert not is_genuine(changed)


def test_what_a_newer_version_adds_is_passed_on_untouched() -> None:
    body = messages.encode(messages.decode(messages.encode(RECORD), dict[str, Any]) | {"of_the_future": [1]})
    key = public_key_of(SEED)
    raw = messages.encode(SignedRecord(body, key, sign(SEED, b"node record", body)))
    record, signed = read_record(raw)
    assert record == RECORD
    assert is_genuine(signed)


@pytest.mark.parametrize(
    "bad",
    [
        replace(RECORD, tasks=(TaskName("echo"),)),
        replace(RECORD, name="n" * 300),
        replace(RECORD, refuted=-1),
        replace(RECORD, served="no digest"),
        replace(RECORD, labels={"a b": "c"}),
        replace(RECORD, labels={f"label{number}": "" for number in range(65)}),
        replace(RECORD, addresses=(Address("h", 0),)),
        replace(RECORD, addresses=(Address("h" * 255, 1),) * 64),
    ],
    ids=lambda record: str(record)[:60],
)
def test_records_out_of_bounds_are_refused(bad: NodeRecord) -> None:
    with pytest.raises(BodyInvalid):
        read_record(sign_record(SEED, bad))


def test_versions_and_asks_come_out_as_they_went_in() -> None:
    versions = (RecordVersion(ME, 1, 2, 3), RecordVersion(NodeId("f" * 40), 0, 0, 0))
    buckets = frozenset({0, 63})
    assert gossip.decode_versions(gossip.encode_versions(buckets, versions)) == (buckets, versions)
    assert gossip.decode_ask(gossip.encode_ask([ME])) == (ME,)
    told = Gossip((b"x",), (Claim(ME, 1, 2, True, True),))
    assert gossip.decode_gossip(gossip.encode_gossip(told.news, told.claims)) == told
    assert gossip.decode_digest(bytes(512)) == bytes(512)


@pytest.mark.parametrize(
    ("decode", "body"),
    [
        (gossip.decode_gossip, messages.encode(Gossip((b"",) * 129))),
        (gossip.decode_gossip, messages.encode(Gossip((), (Claim(ME, 1, 1),) * 513))),
        (gossip.decode_gossip, messages.encode(Gossip((), (Claim(NodeId("x" * 40), 1, 1),)))),
        (gossip.decode_gossip, messages.encode(Gossip((), (Claim(ME, -1, 1),)))),
        (gossip.decode_digest, bytes(511)),
        (gossip.decode_versions, messages.encode([[0] * 65, []])),
        (gossip.decode_versions, messages.encode([[0], [[b"short", 1, 1, 1]]])),
        (gossip.decode_versions, messages.encode([[0], [[bytes(20), 1 << 60, 1, 1]]])),
        (gossip.decode_ask, messages.encode([bytes(20)] * 129)),
        (gossip.decode_ask, messages.encode([b"short"])),
    ],
)
def test_bounds(decode: Callable[[bytes], Any], body: bytes) -> None:
    with pytest.raises(BodyInvalid):
        decode(body)


@given(
    st.binary(max_size=200)
    | st.builds(
        messages.encode,
        st.recursive(
            st.integers(-(2**40), 2**63) | st.binary(max_size=40) | st.text(max_size=40) | st.none(),
            lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=5),
            max_leaves=20,
        ),
    )
)
def test_garbage_is_refused_as_such(body: bytes) -> None:
    for decode in (gossip.decode_gossip, gossip.decode_versions, gossip.decode_ask, gossip.decode_digest, read_record):
        try:
            decode(body)
        except BodyInvalid:
            continue
