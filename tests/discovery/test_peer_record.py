import hashlib
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridnode.discovery import peer_record
from gridnode.discovery.peer_record import MAX_VALUE, PeerRecords, is_contact, open_record, sign_record
from gridnode.identity import DAY, Credentials, issue_leaf, mint_card, node_id, public_key_of
from gridnode.model import Address, NodeId
from tests.fakes.peers import ALICE, AUTHORITY, BOB, FOREIGN, NOW, OPERATOR

CA = ALICE.ca
ADDRESSES = (Address("10.0.0.1", 7400), Address("fd00::1", 7400), Address("node.example", 7401))


def key_of(node: NodeId) -> bytes:
    return hashlib.sha1(node.encode()).digest()


def value(who: Credentials = ALICE, now: float = NOW, ttl: float = 600.0, addresses: Any = ADDRESSES) -> bytes:
    return sign_record(who, addresses, now, ttl)


def parts(of: bytes) -> list[bytes]:
    return msgspec.msgpack.decode(of, type=list[bytes])


def forged(number: int, part: bytes) -> bytes:
    changed = parts(value())
    changed[number] = part
    return msgspec.msgpack.encode(changed)


def test_what_a_node_says_of_itself() -> None:
    record = open_record(value(), CA, NOW)
    assert record is not None
    assert (record.node, record.addresses) == (ALICE.node, ADDRESSES)
    assert record.issuer == ALICE.issuer


def test_it_fits_into_a_datagram_whatever_a_node_listens_on() -> None:
    many = [Address(f"fd00:1234:5678:9abc:def0:1234:5678:{n:x}", 7400) for n in range(64)]
    names = [Address("n" * 250, 7400), *(Address("n" * 62 + str(n), 7400) for n in range(8))]
    for addresses in (many, names):
        signed = value(addresses=addresses)
        record = open_record(signed, CA, NOW)
        assert len(signed) <= MAX_VALUE
        assert record is not None
        assert 0 < len(record.addresses) <= 8


@pytest.mark.parametrize(
    ("who", "now", "ttl"),
    [(ALICE, NOW - 700, 600), (ALICE, NOW + 3600, 600), (ALICE, NOW, 10 * 3600), (OPERATOR, NOW, 600)],
    ids=["expired", "from the future", "for ever", "of an operator"],
)
def test_what_is_not_believed(who: Credentials, now: float, ttl: float) -> None:
    if who is OPERATOR:
        with pytest.raises(ValueError, match="unpack"):
            value(who, now, ttl)
    else:
        assert open_record(value(who, now, ttl), CA, NOW) is None


def test_nobody_of_another_grid_and_nobody_whose_card_is_over() -> None:
    stranger = issue_leaf(mint_card(FOREIGN, "x", NOW, DAY, b"x" * 32), b"y" * 32, NOW)
    assert open_record(value(stranger), CA, NOW) is None
    old = issue_leaf(mint_card(AUTHORITY, "x", NOW - 30 * DAY, 29 * DAY, b"x" * 32), b"y" * 32, NOW - 29 * DAY)
    assert open_record(value(old), CA, NOW) is None


def test_nobody_for_another() -> None:
    """Alice's words with Bob's signature, or with Bob's certificate over her own."""
    mine, bobs = parts(value()), parts(value(BOB, addresses=ADDRESSES[1:]))
    for number in range(4):
        assert open_record(forged(number, bobs[number]), CA, NOW) is None
    assert open_record(msgspec.msgpack.encode([mine[0], *bobs[1:]]), CA, NOW) is None


def test_a_leaf_issues_nothing() -> None:
    """An operator's leaf is signed by the CA itself, and is no issuer of nodes."""
    leaf = OPERATOR.chain.decode()
    chain = Credentials(ALICE.node, ALICE.role, ALICE.issuer, ALICE.key, ALICE.chain.split(b"-----END")[0], CA)
    pem = chain.chain.decode() + "-----END CERTIFICATE-----\n" + leaf
    assert open_record(value(Credentials(ALICE.node, ALICE.role, "", ALICE.key, pem.encode(), CA)), CA, NOW) is None


def test_every_flipped_bit_is_noticed() -> None:
    for at in range(len(SIGNED)):
        for bit in range(8):
            changed = bytearray(SIGNED)
            changed[at] ^= 1 << bit
            assert open_record(bytes(changed), CA, NOW) is None, (at, bit)


SIGNED = value()


@given(st.binary(max_size=1300) | st.lists(st.binary(max_size=300), max_size=6).map(msgspec.msgpack.encode))
def test_garbage_is_nothing(garbage: bytes) -> None:
    records = PeerRecords(CA, key_of)
    assert open_record(garbage, CA, NOW) is None
    assert records.take(key_of(ALICE.node), garbage, NOW) is None
    assert len(records) == 0


CRAFTED = st.tuples(
    st.integers() | st.binary(max_size=4), st.integers(), st.integers(), st.lists(st.tuples(st.text(), st.integers()))
)


@given(CRAFTED)
def test_a_payload_out_of_bounds_is_nothing(payload: object) -> None:
    try:
        encoded = msgspec.msgpack.encode(payload)
    except OverflowError:
        return
    assert open_record(forged(0, encoded), CA, NOW) is None


def test_each_is_kept_under_its_own_key_alone() -> None:
    records = PeerRecords(CA, key_of)
    assert records.take(key_of(BOB.node), value(), NOW) is None
    assert records.take(key_of(ALICE.node), value(), NOW) is not None
    assert records.get(key_of(ALICE.node), NOW) == value()
    assert records.get(key_of(BOB.node), NOW) is None
    assert records.get(key_of(ALICE.node), NOW + 601) is None
    assert len(records) == 0


def test_the_newer_stays() -> None:
    records, key = PeerRecords(CA, key_of), key_of(ALICE.node)
    newer = value(now=NOW + 5, addresses=ADDRESSES[:1])
    assert records.take(key, value(), NOW) is not None
    assert records.take(key, newer, NOW + 5) is not None
    assert records.take(key, value(), NOW + 5) is None
    assert records.get(key, NOW + 5) == newer
    assert [record.addresses for record in records] == [ADDRESSES[:1]]


def test_one_card_fills_no_more_than_its_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_record, "MAX_OF_ISSUER", 3)
    monkeypatch.setattr(peer_record, "MAX_RECORDS", 5)
    records = PeerRecords(CA, key_of)
    stolen = mint_card(AUTHORITY, "stolen", NOW, DAY, b"s" * 32)
    for number in range(10):
        seed = bytes([number]) * 32
        records.take(key_of(node_id(public_key_of(seed))), value(issue_leaf(stolen, seed, NOW)), NOW)
    assert len(records) == 3
    assert records.take(key_of(ALICE.node), value(), NOW) is not None
    assert records.take(key_of(BOB.node), value(BOB), NOW) is not None
    assert len(records) == 5


@pytest.mark.parametrize("host", ["10.0.0.1", "127.0.0.1", "fd00::1", "2001:db8::1"])
def test_where_a_datagram_may_go(host: str) -> None:
    assert is_contact(host, 7400)
    assert not is_contact(host, 0)
    assert not is_contact(host, 65536)


@pytest.mark.parametrize(
    "host", ["", "name.example", "224.0.0.1", "255.255.255.255", "0.0.0.0", "::", "ff02::1", "fe80::1", "fe80::1%eth0"]
)
def test_where_none_may_go(host: str) -> None:
    assert not is_contact(host, 7400)
