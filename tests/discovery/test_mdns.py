import base64
import itertools
import os
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridnode.discovery.interfaces import multicast_interfaces
from gridnode.discovery.mdns import MdnsDiscovery
from gridnode.identity import SEAL_WINDOW, seal, unseal
from gridnode.model import Address, NodeId, Sighting
from tests.fakes.peers import until

KEY, OTHER_KEY = b"k" * 32, b"o" * 32
ME, PEER = NodeId("aa" * 20), NodeId("bb" * 20)
ADDRESSES = (Address("10.0.0.1", 7400), Address("fd00::1", 7400))
NONCES = itertools.count(1)


def discovery(
    node: NodeId = ME, key: bytes = KEY, addresses: tuple[Address, ...] = ADDRESSES, skew: float = 0.0
) -> MdnsDiscovery:
    return MdnsDiscovery(
        node,
        lambda: addresses,
        lambda payload: seal(key, payload, time.time() + skew, next(NONCES).to_bytes(12, "big")),
        lambda sealed: unseal(key, sealed, time.time()),
        multicast_interfaces,
    )


def announced(**options: Any) -> dict[bytes, bytes | None]:
    """The TXT record of a peer."""
    return dict(discovery(PEER, **options)._info().properties)


def test_a_peers_announcement_gives_its_sightings() -> None:
    assert discovery()._read(announced()) == [Sighting(address, PEER) for address in ADDRESSES]


def test_one_with_many_addresses_fits() -> None:
    many = tuple(Address(f"fd00:1234:5678:9abc:def0:1234:5678:{n:x}", 7400) for n in range(1, 17))
    record = announced(addresses=many)
    assert all(len(value or b"") <= 200 for value in record.values())
    assert len(discovery()._read(record)) == 16


def test_another_grid_reads_nothing_and_learns_nothing() -> None:
    record = announced()
    assert discovery(key=OTHER_KEY)._read(record) == []
    shown = b"".join(value or b"" for value in record.values())
    for secret in (PEER.encode(), PEER[:8].encode(), b"10.0.0.1"):
        assert secret not in shown
        assert secret not in base64.b64decode(shown)


def test_the_instance_name_tells_nothing_and_changes() -> None:
    names = {discovery(PEER)._info().name for _ in range(3)}
    assert len(names) == 3
    assert not any(PEER[:8] in name for name in names)


def test_an_old_announcement_is_not_replayed() -> None:
    assert discovery()._read(announced(skew=-SEAL_WINDOW - 60)) == []
    assert discovery()._read(announced(skew=SEAL_WINDOW + 60)) == []


def test_a_name_instead_of_an_address_is_announced_too() -> None:
    """`advertise` takes names."""
    named = (Address("node1.example", 7400), Address("10.0.0.1", 7400))
    assert discovery()._read(announced(addresses=named)) == [Sighting(address, PEER) for address in named]


def sealed(payload: bytes) -> dict[bytes, bytes | None]:
    box = base64.b64encode(seal(KEY, payload, time.time(), next(NONCES).to_bytes(12, "big")))
    return {b"p%d" % (at // 200): box[at : at + 200] for at in range(0, len(box), 200)}


PAYLOADS = [b"", b"\xff", b"garbage", b"\x91" * 1200, msgspec.msgpack.encode([1, 2]), msgspec.msgpack.encode([PEER])]


@pytest.mark.parametrize("payload", PAYLOADS, ids=lambda payload: ascii(payload[:6]))
def test_garbage_inside_a_seal_is_nothing(payload: bytes) -> None:
    assert discovery()._read(sealed(payload)) == []


RECORDS = st.dictionaries(
    st.sampled_from([b"p0", b"p1", b"p2", b"p9", b"x"]), st.none() | st.binary(max_size=255) | st.just(b"QUJD")
)


@given(RECORDS)
def test_garbage_in_a_txt_record_is_nothing(record: dict[bytes, bytes | None]) -> None:
    assert discovery()._read(record) == []


@given(st.integers(0, 10**6), st.integers(1, 255))
def test_a_flipped_bit_is_noticed(at: int, flip: int) -> None:
    record = {key: bytearray(value or b"") for key, value in announced().items()}
    part = record[sorted(record)[at % len(record)]]
    part[at % len(part)] ^= flip
    assert discovery()._read({key: bytes(value) for key, value in record.items()}) == []


@pytest.fixture
async def started() -> AsyncIterator[Callable[..., Any]]:
    running: list[MdnsDiscovery] = []

    async def start(seen: list[Sighting], **options: Any) -> None:
        one = discovery(**options)
        running.append(one)
        await one.start(seen.append)

    yield start
    for one in running:
        await one.close()


@pytest.mark.skipif(os.environ.get("GRID_NO_MULTICAST") == "1", reason="this machine lets no multicast through")
async def test_two_nodes_of_a_grid_see_each_other_and_no_stranger(started: Callable[..., Any]) -> None:
    mine: list[Sighting] = []
    peers: list[Sighting] = []
    strangers: list[Sighting] = []
    await started(mine)
    await started(peers, node=PEER)
    await started(strangers, key=OTHER_KEY, node=NodeId("cc" * 20))
    await until(lambda: {one.node for one in mine} == {PEER} and {one.node for one in peers} == {ME})
    assert {one.address for one in mine} == set(ADDRESSES)
    assert strangers == []
