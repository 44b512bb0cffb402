"""Real sockets on the loopback interface throughout."""

import asyncio
import itertools
import os
import socket
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from gridnode import certificate
from gridnode.discovery import dht as kad
from gridnode.discovery.dht import key_of
from gridnode.discovery.dht_discovery import DhtDiscovery
from gridnode.discovery.dht_wire import encode
from gridnode.discovery.peer_record import sign_record
from gridnode.discovery.sealed import SealedDatagrams
from gridnode.identity import DAY, Credentials, issue_leaf, mint_card, seal
from gridnode.model import Address, NodeId, Sighting
from tests.fakes.peers import AUTHORITY, FOREIGN, NOW, PATIENCE, node_credentials, until

pytestmark = pytest.mark.usefixtures("jobs_end")
KEY = AUTHORITY.network_key


class Peer:
    """One DHT node. seen: by node, where it is said to listen."""

    def __init__(self, name: str, contacts: list[Address], key: bytes = KEY, host: str = "127.0.0.1") -> None:
        self.credentials: Credentials = node_credentials(name)
        self.id = self.credentials.node
        self.contacts = contacts
        self.addresses = [Address(f"{name}.example", 7400)]
        self.seen: dict[NodeId, set[Address]] = {}
        self.dht = DhtDiscovery(self.credentials, key, (host, 0), lambda: self.addresses, lambda: self.contacts)
        self.host = host

    def on_sighting(self, sighting: Sighting) -> None:
        assert sighting.node
        self.seen.setdefault(sighting.node, set()).add(sighting.address)

    @property
    def address(self) -> Address:
        return Address(self.host or "127.0.0.1", self.dht.port)

    @property
    def protocol(self) -> Any:
        return self.dht._protocol


Start = Callable[..., Any]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    running: list[Peer] = []

    async def begin(name: str, contacts: list[Address], **options: Any) -> Peer:
        peer = Peer(name, contacts, **options)
        await peer.dht.start(peer.on_sighting)
        running.append(peer)
        return peer

    yield begin
    for peer in running:
        await peer.dht.close()


def send(to: Peer, *datagrams: bytes) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for datagram in datagrams:
            sock.sendto(datagram, ("127.0.0.1", to.dht.port))


async def test_those_who_know_one_seed_learn_of_each_other(start: Start) -> None:
    seed = await start("seed", [])
    peers = [await start(f"peer-{number}", [seed.address]) for number in range(4)]
    began = time.monotonic()
    everyone = {peer.id for peer in [seed, *peers]}
    for peer in [seed, *peers]:
        await until(lambda peer=peer: set(peer.seen) == everyone - {peer.id}, "all sightings")  # type: ignore[misc]
    assert peers[0].seen[peers[1].id] == {Address("peer-1.example", 7400)}
    assert time.monotonic() - began < PATIENCE


async def test_one_seed_of_several_that_are_down_is_enough(start: Start) -> None:
    seed = await start("seed", [])
    down = [Address("127.0.0.1", 9), Address("no-such-host.invalid", 7400), Address("127.0.0.1", 10)]
    one = await start("one", [*down, seed.address])
    other = await start("other", [seed.address, *down])
    await until(lambda: other.id in one.seen and one.id in other.seen)


async def test_a_seed_may_be_a_name(start: Start) -> None:
    seed = await start("seed", [], host="")
    peer = await start("peer", [Address("localhost", seed.dht.port)], host="")
    await until(lambda: seed.id in peer.seen and peer.id in seed.seen)


async def test_both_kinds_of_address_on_one_socket(start: Start) -> None:
    seed = await start("seed", [], host="")
    four = await start("four", [Address("127.0.0.1", seed.dht.port)])
    await until(lambda: seed.id in four.seen)
    if seed.dht._socket.reaches("::1"):
        six = await start("six", [Address("::1", seed.dht.port)], host="::1")
        await until(lambda: seed.id in six.seen)


async def test_a_seed_that_comes_later_is_found(start: Start) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as reserved:
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
    peer = await start("peer", [Address("127.0.0.1", port)])
    await until(lambda: peer.dht._job is not None)
    late = Peer("late", [])
    late.dht._listen = ("127.0.0.1", port)
    await late.dht.start(late.on_sighting)
    try:
        await until(lambda: late.id in peer.seen and peer.id in late.seen)
    finally:
        await late.dht.close()


async def test_a_node_that_listens_elsewhere_says_so(start: Start) -> None:
    seed = await start("seed", [])
    peer = await start("peer", [seed.address])
    await until(lambda: peer.id in seed.seen)
    peer.addresses = [Address("elsewhere.example", 7400)]
    peer.dht.renew()
    await until(lambda: Address("elsewhere.example", 7400) in seed.seen[peer.id])


async def test_a_node_whose_card_is_renewed_says_so_with_the_longer_chain(start: Start) -> None:
    seed = await start("seed", [])
    peer = await start("peer", [seed.address])
    await until(lambda: peer.id in seed.seen)
    name = b"peer".ljust(32, b"-")
    card = mint_card(AUTHORITY, "peer", NOW, 100 * DAY, name)
    longer = issue_leaf(card, name[::-1], NOW)
    assert longer.node == peer.id
    peer.dht.show(longer)

    def shown() -> bytes:
        return seed.dht._records.get(key_of(peer.id), time.time()) or b""

    issuer = certificate.from_pem(card.issuer).public_bytes(Encoding.DER)
    await until(lambda: issuer in shown())


async def test_strangers_hear_nothing_and_are_not_heard(start: Start) -> None:
    seed = await start("seed", [])
    stranger = await start("stranger", [seed.address], key=FOREIGN.network_key)
    peer = await start("peer", [seed.address])
    await until(lambda: peer.id in seed.seen)
    assert stranger.seen == {}
    assert stranger.protocol.contacts() == []
    assert stranger.id not in seed.seen


def request(name: str, *args: bytes, message_id: bytes = b"m" * 20) -> bytes:
    message = b"\0" + message_id + encode((name, args))
    return SealedDatagrams(KEY).seal(message, time.time(), os.urandom(12))


async def test_a_member_writes_its_own_record_and_no_other(start: Start) -> None:
    seed = await start("seed", [])
    mine, bob = node_credentials("mallory"), node_credentials("bob")
    value = sign_record(mine, [Address("10.0.0.1", 7400)], time.time(), 600)
    sender = bytes.fromhex(mine.node)
    send(seed, request("store", sender, key_of(bob.node), value))
    send(seed, request("store", sender, os.urandom(20), b"garbage"))
    send(seed, request("store", sender, key_of(mine.node), value))
    await until(lambda: mine.node in seed.seen)
    assert [record.node for record in seed.dht._records] == [mine.node]


async def test_the_contacts_that_one_invents_are_bounded(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one address there is one, of one machine a few, and of all a bounded number."""
    monkeypatch.setattr(kad, "MAX_AT_ONE_IP", 20)
    seed = await start("seed", [])
    send(seed, *(request("ping", os.urandom(20)) for _ in range(200)))
    await until(lambda: len(seed.protocol.router.contacts()) == 1)
    for port in range(1, 100):
        seed.protocol.rpc_ping(("127.0.0.1", port), os.urandom(20))
    assert len(seed.protocol.router.contacts()) == 20
    for number in range(3000):
        seed.protocol.rpc_ping((f"10.0.{number // 250}.{number % 250}", 7400), os.urandom(20))
    assert len(seed.protocol.router.contacts()) == kad.MAX_CONTACTS
    assert len(seed.protocol.rpc_find_node(("127.0.0.1", 1), os.urandom(20), os.urandom(20))) == 16


async def test_ids_at_the_edge_of_a_bucket_break_nothing(start: Start) -> None:
    """Midpoints of the ranges that kademlia splits, each said twice."""
    seed = await start("seed", [])
    edges = [((1 << bits) - 1).to_bytes(20, "big") for bits in range(1, 161)]
    for number, edge in enumerate([*edges, *edges]):
        seed.protocol.rpc_ping((f"10.0.0.{number % 160 + 1}", 7400), edge)
    assert len(seed.protocol.router.contacts()) > 100
    peer = await start("peer", [seed.address])
    await until(lambda: seed.id in peer.seen)
    for edge in edges:
        assert len(seed.protocol.rpc_find_node(("127.0.0.1", 1), edge, edge)) <= 16


class Liar(asyncio.DatagramProtocol):
    """A member that answers every request with `answer`."""

    def __init__(self, answer: Callable[[str, list[bytes]], object]) -> None:
        self.sealed, self.answer = SealedDatagrams(KEY), answer
        self.asked = 0

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        message = self.sealed.open(data, time.time())
        if message and message[0] == 0:
            self.asked += 1
            name, args = msgspec.msgpack.decode(message[21:], type=tuple[str, list[bytes]])
            reply = b"\1" + message[1:21] + encode(self.answer(name, args))
            self.transport.sendto(self.sealed.seal(reply, time.time(), os.urandom(12)), addr)


ANSWERS: dict[str, Callable[[str, list[bytes]], object]] = {
    "nothing": lambda name, args: None,
    "text": lambda name, args: "x" * 1000,
    "unhashable values": lambda name, args: {"value": ["x"]} if name == "find_value" else b"l" * 20,
    "a forged record": lambda name, args: {"value": b"forged"} if name == "find_value" else b"l" * 20,
    "many contacts": lambda name, args: [(b"l" * 20, "10.0.0.1", 7400)] * 30 if "find" in name else b"l" * 20,
    "its own id": lambda name, args: args[0] if name == "ping" else [(args[0], "127.0.0.1", 7400)],
}


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
async def test_a_member_that_lies_leads_nobody_astray(start: Start, answer: Any) -> None:
    loop = asyncio.get_running_loop()
    transport, liar = await loop.create_datagram_endpoint(lambda: Liar(answer), ("127.0.0.1", 0))
    seed = await start("seed", [])
    peer = await start("peer", [Address("127.0.0.1", transport.get_extra_info("sockname")[1]), seed.address])
    try:
        await until(lambda: seed.id in peer.seen and peer.id in seed.seen and liar.asked)
        assert set(peer.seen) == {seed.id}
    finally:
        transport.close()


async def test_one_that_always_knows_somebody_nearer_is_not_followed_for_ever(start: Start) -> None:
    loop, ids = asyncio.get_running_loop(), itertools.count(1)

    def answer(name: str, args: list[bytes]) -> object:
        nearer = (int.from_bytes(args[-1], "big") ^ (1 << 40) - next(ids)).to_bytes(20, "big")
        return b"l" * 20 if name == "ping" else [(nearer, "127.0.0.1", port)]

    transport, liar = await loop.create_datagram_endpoint(lambda: Liar(answer), ("127.0.0.1", 0))
    port = transport.get_extra_info("sockname")[1]
    seed = await start("seed", [])
    peer = await start("peer", [Address("127.0.0.1", port), seed.address])
    try:
        await until(lambda: liar.asked > 50)
        await until(lambda: seed.id in peer.seen, seconds=30)
        assert len(peer.protocol.router.contacts()) <= kad.MAX_CONTACTS
        assert len(peer.protocol._waiting) <= kad._MAX_WAITING
    finally:
        transport.close()


def garbage() -> bytes:
    return os.urandom(300)


def announcement() -> bytes:
    return seal(KEY, bytes(300), time.time(), os.urandom(12))


REPLAYED = request("ping", b"r" * 20)
FLOODS: dict[str, Callable[[], bytes]] = {"garbage": garbage, "other seals": announcement, "replays": lambda: REPLAYED}


@pytest.mark.parametrize("one", FLOODS.values(), ids=FLOODS)
async def test_a_flood_costs_little_and_stops_nobody(start: Start, one: Callable[[], bytes]) -> None:
    """100,000 datagrams as fast as they go out, by another thread."""
    seed = await start("seed", [])
    first = await start("first", [seed.address])
    await until(lambda: first.id in seed.seen)
    datagrams = [one() for _ in range(1000)]
    before = time.thread_time()
    began = time.monotonic()
    await asyncio.to_thread(lambda: [send(seed, *datagrams) for _ in range(100)])
    spent, took = time.thread_time() - before, time.monotonic() - began
    assert spent < 0.25 + 0.4 * took, f"{spent:.2f} s of CPU in {took:.2f} s of flood"
    second = await start("second", [seed.address])
    await until(lambda: second.id in seed.seen and first.id in second.seen)
    assert len(seed.protocol._sealed._recent) < 1000
