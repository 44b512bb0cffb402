"""Meshes of real links on loopback: they find each other, hear of each other, and miss each other."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from gridnode import mesh as module
from gridnode import messages
from gridnode.errors import GridError
from gridnode.identity import Credentials
from gridnode.link import LinkLimits
from gridnode.link.client import dial
from gridnode.link.pool import LinkPool
from gridnode.link.protocol import Link
from gridnode.link.server import LinkServer
from gridnode.link.tls import client_context, server_context
from gridnode.membership import Membership, MembershipLimits
from gridnode.mesh import Mesh
from gridnode.model import Address, Load, MemberState, NodeId, NodeRecord, Sighting
from gridnode.wire import Frame, Op
from tests.fakes.peers import TLS_IDENTITY, node_credentials, until

LIMITS = MembershipLimits(suspect_after=0.15, redial_first=0.02, yield_dial=0.05, gossip_every=0.1)
TICK = 0.02
CREDENTIALS = [node_credentials(name) for name in ("one", "two", "three")]


class Station:
    """One node's mesh, listening."""

    def __init__(self, credentials: Credentials, incarnation: int = 1) -> None:
        self.credentials = credentials
        self.id = credentials.node
        self.incarnation = incarnation
        self.changes = 0
        self.linked: list[Link] = []
        self.events: list[tuple[NodeId, Frame]] = []
        self._jobs: list[asyncio.Task[None]] = []

    async def open(self, port: int = 0) -> None:
        self.accepted: list[Link] = []
        self.server = await asyncio.get_running_loop().create_server(
            self._accept, "127.0.0.1", port, ssl=server_context(self.credentials), ssl_shutdown_timeout=0.1
        )
        self.address = Address(*self.server.sockets[0].getsockname()[:2])
        record = NodeRecord(self.id, "n", self.incarnation, 0, (self.address,), "1", 0)
        self.links = LinkPool(self.id, 0.5)
        context = client_context(self.credentials)

        async def reach(address: Address) -> Link:
            return await dial(address, self.end, context, TLS_IDENTITY, LinkLimits())

        dialler: Callable[[Address], Awaitable[Link]] = reach
        core = Membership(self.id, LIMITS)
        self.mesh = Mesh(record, core, self.links, dialler, self._changed, self.linked.append, self._heard)
        self.end = LinkServer(self.mesh, {}, {}, lambda task: 1.0, 1.0)
        self._jobs = [asyncio.create_task(self.mesh.run(TICK))]

    def _accept(self) -> Link:
        self.accepted.append(Link(self.end, LinkLimits(), TLS_IDENTITY))
        return self.accepted[-1]

    def _changed(self) -> None:
        self.changes += 1

    def _heard(self, node: NodeId, frame: Frame) -> None:
        self.events.append((node, frame))

    def sees(self, other: "Station") -> MemberState | None:
        member = self.mesh.get(other.id)
        return member.state if member else None

    def record_of(self, other: "Station") -> NodeRecord:
        member = self.mesh.get(other.id)
        assert member
        return member.record

    def seed(self, other: "Station") -> None:
        self.mesh.sighted(Sighting(other.address), seed=True)

    async def stop(self) -> None:
        """As after a goodbye."""
        await self.mesh.leave()
        await self.kill()

    async def kill(self) -> None:
        self.server.close()
        jobs = [*self._jobs, *self.mesh._dials]
        for job in jobs:
            job.cancel()
        await asyncio.wait(jobs)
        for link in [*(link for _, link in self.links), *self.accepted]:
            link.abort(GridError("killed"))


@pytest.fixture
async def stations() -> AsyncIterator[list[Station]]:
    stations = [Station(credentials) for credentials in CREDENTIALS]
    for station in stations:
        await station.open()
    yield stations
    for station in stations:
        await station.kill()


@pytest.fixture
async def pair(stations: list[Station]) -> tuple[Station, Station]:
    one, two = stations[:2]
    one.seed(two)
    await until(lambda: one.sees(two) is two.sees(one) is MemberState.ALIVE)
    return one, two


async def test_two_that_dial_each_other_end_with_one_link(stations: list[Station]) -> None:
    one, two = stations[:2]
    one.seed(two)
    two.seed(one)
    await until(lambda: one.sees(two) is two.sees(one) is MemberState.ALIVE)
    await until(lambda: not one.links._surplus and not two.links._surplus)
    assert (len(one.links), len(two.links)) == (1, 1)
    assert [(record.id, link.is_open) for record, link in one.mesh.alive()] == [(two.id, True)]
    assert [member.record.id for member in one.mesh.members()] == [one.id, two.id]


async def test_a_third_is_found_by_hearsay(stations: list[Station]) -> None:
    one, two, three = stations
    one.seed(two)
    three.seed(two)
    await until(lambda: one.sees(three) is three.sees(one) is MemberState.ALIVE)


async def test_its_own_address_among_the_seeds_is_no_peer(stations: list[Station]) -> None:
    one = stations[0]
    one.seed(one)
    await until(lambda: any(known.is_self for known in one.mesh._membership._addresses.values()))
    assert (len(one.links), len(one.mesh.members())) == (0, 1)


async def test_what_a_node_says_of_itself_is_heard(pair: tuple[Station, Station]) -> None:
    one, two = pair
    one.mesh.update(load=Load(3, 4))
    await until(lambda: two.record_of(one).load == Load(3, 4))
    revision = one.mesh.record().revision
    one.mesh.update(load=Load(3, 4))
    assert one.mesh.record().revision == revision
    one.mesh.update(at_once=True, tasks=("echo",))
    await until(lambda: two.record_of(one).tasks == ("echo",))


async def test_a_dead_peer_is_missed_and_taken_back(pair: tuple[Station, Station], stations: list[Station]) -> None:
    one, two = pair
    port = two.address.port
    await two.kill()
    await until(lambda: one.sees(two) is MemberState.DEAD)
    assert one.mesh.alive() == []
    again = Station(two.credentials, incarnation=2)
    stations.append(again)
    await again.open(port)
    await until(lambda: one.sees(two) is again.sees(one) is MemberState.ALIVE)
    assert one.record_of(two).incarnation == 2
    assert len(one.linked) == 2


@pytest.mark.parametrize("first", [True, False], ids=["who dialled", "who was dialled"])
async def test_a_link_is_dialled_anew_when_a_certificate_lasts_longer(
    pair: tuple[Station, Station], first: bool
) -> None:
    """Whichever side's; the old link goes when it carries nothing, and nobody is missed meanwhile."""
    a, b = pair
    one, other = (a, b) if first is bool(_dialled(a, b)) else (b, a)
    held = _dialled(a, b) or _dialled(b, a)
    assert held
    changes = other.changes
    one.mesh.update(at_once=True, until=1000)
    one.mesh.dial_anew()
    await until(lambda: (_dialled(a, b) or _dialled(b, a) or held) is not held)
    await until(lambda: not held.is_open)
    await until(lambda: other.record_of(one).until == 1000)
    assert a.sees(b) is b.sees(a) is MemberState.ALIVE
    assert len(a.links) == len(b.links) == 1
    assert other.changes > changes, "what routes calls takes the new link"


async def test_a_peer_that_claims_more_and_more_is_dialled_once_a_second(pair: tuple[Station, Station]) -> None:
    a, b = pair
    one, other = (a, b) if _dialled(a, b) else (b, a)
    accepted = len(other.accepted)
    for claim in range(1, 30):
        other.mesh.update(at_once=True, until=claim * 1000)
    await until(lambda: one.record_of(other).until == 29_000)
    await until(lambda: len(other.accepted) > accepted)
    await until(lambda: bool(_dialled(one, other)) and one.links.get(other.id) is not None)
    assert len(other.accepted) - accepted <= 2


def _dialled(one: Station, other: Station) -> Link | None:
    """The link in use from one to the other, if it dialled it."""
    link = one.links.get(other.id)
    return link if link and link.address else None


async def test_a_goodbye_is_told_from_a_death(pair: tuple[Station, Station]) -> None:
    one, two = pair
    await two.stop()
    await until(lambda: one.sees(two) is MemberState.LEFT and not one.links.get(two.id))


@pytest.mark.parametrize("turned", [False, True], ids=["lower id", "higher id"])
async def test_one_that_is_back_before_it_was_missed_hears_of_our_ledger(
    pair: tuple[Station, Station], stations: list[Station], turned: bool
) -> None:
    """Its old link may stand for seconds after a power failure, and would win over the new one."""
    one, two = sorted(pair, key=lambda station: station.id, reverse=turned)
    reborn = Station(two.credentials, incarnation=2)
    stations.append(reborn)
    await reborn.open()
    reborn.seed(one)
    await until(lambda: reborn.sees(one) is MemberState.ALIVE)
    await until(lambda: one.record_of(two).incarnation == 2)
    held = one.links.get(two.id)
    assert held is one.linked[-1]
    assert held
    held.event(Op.LEDGER_DIGEST, b"ours")
    await until(lambda: reborn.events)


GARBAGE: list[tuple[int, bytes]] = [
    (op, body)
    for op in (Op.RECORD, Op.GOSSIP, Op.LEAVE)
    for body in (b"", b"\xff", b"\x91" * 50_000, messages.encode([1, "x", {}]), messages.encode({"id": 1}))
    if op is not Op.LEAVE
]


async def test_garbage_from_a_peer_is_dropped(pair: tuple[Station, Station]) -> None:
    one, two = pair
    link: Any = two.links.get(one.id)
    for op, body in GARBAGE:
        link.event(op, body)
    link.event(Op.RECORD, messages.encode(NodeRecord(CREDENTIALS[2].node, "x", 9, 9, (), "1", 0)))
    link.event(999, b"of the future")
    await until(lambda: one.events)
    assert [(node, frame.op) for node, frame in one.events] == [(two.id, 999)]
    assert one.sees(two) is MemberState.ALIVE
    assert len(one.mesh.members()) == 2


async def test_addresses_that_cannot_be_dialled_do_no_harm(pair: tuple[Station, Station]) -> None:
    one, two = pair
    link: Any = two.links.get(one.id)
    bad = [Address("a\0b", 1), Address("..", 5), Address("x" * 200, 1), Address("h", 2**40), Address("", -1)]
    link.event(Op.GOSSIP, messages.encode([Sighting(address) for address in bad]))
    await until(lambda: one.mesh._membership._addresses.keys() & set(bad))
    await until(lambda: not any(job.get_name() == "dial" and job.done() for job in one.mesh._dials))
    assert one.sees(two) is MemberState.ALIVE


async def test_events_reach_all_but_one(stations: list[Station]) -> None:
    one, two, three = stations
    one.seed(two)
    one.seed(three)
    await until(lambda: len(one.links) == 2)
    one.mesh.tell(Op.LEDGER_DOCUMENTS, b"news", two.id)
    one.mesh.tell(Op.LEDGER_DIGEST, b"all")
    await until(lambda: len(three.events) == 2 and two.events)
    assert [frame.op for _, frame in two.events] == [Op.LEDGER_DIGEST]


async def test_who_drains_is_known_as_such_when_the_drain_returns(pair: tuple[Station, Station]) -> None:
    one, two = pair
    await one.mesh.drain()
    assert two.record_of(one).draining
    assert not one.record_of(two).draining


async def test_a_peer_that_does_not_answer_holds_a_drain_up_for_a_moment(
    pair: tuple[Station, Station], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = pair
    monkeypatch.setattr(module, "_TOLD_WITHIN", 0.1)
    monkeypatch.setattr(two.end, "called", lambda link, frame: None)
    async with asyncio.timeout(5):
        await one.mesh.drain()
