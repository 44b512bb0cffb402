"""Meshes of real links on loopback: they find each other, hear of each other, and miss each other."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

import msgspec
import pytest

from gridnode import gossip, messages
from gridnode import mesh as module
from gridnode.errors import BodyInvalid, GridError, LinkClosed, NodeNotFound
from gridnode.gossip import sign_record
from gridnode.identity import Credentials, node_id, public_key_of
from gridnode.link import LinkLimits
from gridnode.link.client import dial
from gridnode.link.pool import LinkPool
from gridnode.link.protocol import Link
from gridnode.link.server import LinkServer
from gridnode.link.tls import client_context, server_context
from gridnode.membership import Membership, MembershipLimits
from gridnode.mesh import Mesh
from gridnode.model import Address, Load, MemberState, NodeId, NodeRecord, Role, Sighting, TaskName
from gridnode.wire import Frame, Op
from tests.fakes.peers import TLS_IDENTITY, node_credentials, until

LIMITS = MembershipLimits(suspect_after=0.3, redial_first=0.02, yield_dial=0.05, gossip_every=0.05, compare_every=0.2)
TICK = 0.02
NAMES = ("one", "two", "three")
CREDENTIALS = [node_credentials(name) for name in NAMES]
SEEDS = {
    credentials.node: name.encode().ljust(32, b"-")[:32][::-1]
    for credentials, name in zip(CREDENTIALS, NAMES, strict=True)
}


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
        core = Membership(self.id, LIMITS, b"salt")
        sign = partial(sign_record, SEEDS[self.id])
        self.mesh = Mesh(record, core, self.links, dialler, self._changed, self.linked.append, self._heard, sign)
        ops = {(Role.NODE, int(Op.TASKS)): self.mesh.task_list}
        self.end = LinkServer(self.mesh, ops, {}, lambda task: 1.0, 1.0)
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

    def sees_id(self, node: NodeId) -> MemberState | None:
        member = self.mesh.get(node)
        return member.state if member else None

    def record_of(self, other: "Station") -> NodeRecord:
        return next(member.record for member in self.mesh.members() if member.record.id == other.id)

    def seed(self, other: "Station") -> None:
        self.mesh.sighted(Sighting(other.address), seed=True)

    def halt(self) -> None:
        """It does nothing of its own any more."""
        for job in self._jobs:
            job.cancel()

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
    await until(lambda: any(known.is_self for known in one.mesh._membership._dialling.addresses.places.values()))
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
    accepted, started = len(other.accepted), asyncio.get_running_loop().time()
    for claim in range(1, 30):
        other.mesh.update(at_once=True, until=claim * 1000)
    await until(lambda: one.record_of(other).until == 29_000)
    await until(lambda: len(other.accepted) > accepted)
    await until(lambda: bool(_dialled(one, other)) and one.links.get(other.id) is not None)
    assert len(other.accepted) - accepted <= 2 + asyncio.get_running_loop().time() - started


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
    old: Any = one.links.get(two.id)
    two.halt()
    old.last_heard = 0.0
    old.ping = lambda: None
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


async def test_a_second_machine_with_the_same_key_is_refused_with_advice(
    pair: tuple[Station, Station], stations: list[Station], complaints: list[dict[str, Any]]
) -> None:
    one, two = pair
    twin = Station(two.credentials, incarnation=2)
    stations.append(twin)
    await twin.open()
    twin.seed(one)
    twin.seed(two)
    await until(lambda: len(complaints) >= 3)
    assert all("was a disk cloned?" in said["hint"] and "node.key" in said["hint"] for said in complaints)
    assert one.record_of(two).incarnation == 1
    held = one.links.get(two.id)
    assert held
    assert held.is_open
    assert one.sees(two) is MemberState.ALIVE


@pytest.fixture
def complaints(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What is logged as an error."""
    said: list[dict[str, Any]] = []
    monkeypatch.setattr(module.log, "error", lambda event, **fields: said.append(fields), raising=False)
    return said


async def test_tasks_are_told_once_and_shared(stations: list[Station]) -> None:
    one, two, three = stations
    names = tuple(TaskName(f"task-{number}") for number in range(1500))
    for station in stations:
        station.mesh.update(tasks=names)
    assert len(messages.encode(one.mesh.shown())) < 400
    one.seed(two)
    three.seed(two)
    await until(lambda: three.sees(one) and three.record_of(one).tasks == names == three.record_of(two).tasks)
    assert three.record_of(one).tasks is three.record_of(two).tasks is names, "it had the list itself"
    two.mesh.update(at_once=True, tasks=names[1:])
    await until(lambda: one.record_of(two).tasks == names[1:] == three.record_of(two).tasks)


async def test_lists_that_nobody_has_are_asked_for_a_few_at_a_time_and_not_without_end(
    pair: tuple[Station, Station], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = pair
    link: Any = two.links.get(one.id)
    asked: list[Frame] = []
    monkeypatch.setattr(two.end, "called", lambda link, frame: asked.append(frame))
    made_up = [
        NodeRecord(node_id(public_key_of(seed)), "made up", 5, 0, (), "1", 0, served=f"{number:032x}")
        for number, seed in enumerate(FORTY)
    ]
    for record, seed in zip(made_up, FORTY, strict=True):
        link.event(Op.GOSSIP, gossip.encode_gossip((sign_record(seed, record),), ()))
    await until(lambda: len(one.mesh.members()) == 42 and asked)
    assert {frame.op for frame in asked} == {Op.TASKS}
    assert len(asked) <= 16
    for frame in asked:
        link.reply_error(frame.call_id, BodyInvalid("no such list"))
    await until(lambda: not one.mesh._hearsay._fetches)
    for record in made_up[: len(asked)]:
        one.mesh._hearsay.want(record)
    assert not one.mesh._hearsay._fetches, "not again before all is asked for anew"


FORTY = [bytes([number]) * 32 for number in range(1, 41)]


async def test_what_a_peer_says_of_another_counts_if_that_has_signed_it(pair: tuple[Station, Station]) -> None:
    one, two = pair
    three = CREDENTIALS[2].node
    record = NodeRecord(three, "three", 5, 0, (Address("127.0.0.1", 1),), "1", 0)
    forged = msgspec.structs.replace(record, id=one.id, incarnation=9)
    link: Any = two.links.get(one.id)
    own = sign_record(SEEDS[three], record)
    broken = own[:-1] + bytes([own[-1] ^ 1])
    for news in (sign_record(SEEDS[two.id], record), sign_record(SEEDS[three], forged), broken):
        link.event(Op.GOSSIP, gossip.encode_gossip((news,), ()))
    link.event(999)
    await until(lambda: one.events)
    assert [member.record.id for member in one.mesh.members()] == [one.id, two.id]
    link.event(Op.GOSSIP, gossip.encode_gossip((own,), ()))
    await until(lambda: one.mesh.get(three))


async def test_a_frozen_peer_is_suspected_and_dropped_unless_it_is_heard_again(pair: tuple[Station, Station]) -> None:
    one, two = pair
    two.halt()
    theirs: Any = two.links.get(one.id)
    link: Any = one.links.get(two.id)
    theirs._transport.pause_reading()
    link.last_heard -= LIMITS.silent_after
    await until(lambda: one.sees(two) is MemberState.SUSPECT)
    assert one.mesh.alive() == []
    theirs._transport.resume_reading()
    await until(lambda: one.sees(two) is MemberState.ALIVE)
    assert link.is_open, "what is inside goes on"
    theirs._transport.pause_reading()
    link.last_heard -= LIMITS.silent_after
    await until(lambda: one.sees(two) is MemberState.DEAD)
    assert not link.is_open, "calls in it are over"


async def test_in_a_larger_grid_peers_are_linked_on_demand(stations: list[Station]) -> None:
    one, two, three = stations
    for station in stations:
        core = station.mesh._membership
        core._dialling.limits = core.limits = dataclasses.replace(
            core.limits, full=1, probe_every=1e9, idle_after=0.3, probed_after=0.0
        )
    one.seed(two)
    three.seed(two)
    await until(lambda: one.sees(three) is three.sees(one) is MemberState.ALIVE)
    link = await one.mesh.reach(three.id)
    assert link.is_open
    assert link.peer
    assert link.peer.node == three.id
    with pytest.raises(NodeNotFound, match="ffff"):
        await one.mesh.reach(NodeId("f" * 40))
    assert one.mesh._waiting == {}


async def test_a_peer_that_cannot_be_reached_is_waited_for_a_moment(
    pair: tuple[Station, Station], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = pair
    monkeypatch.setattr(module, "_REACHED_WITHIN", 0.1)
    nowhere = NodeRecord(CREDENTIALS[2].node, "three", 5, 0, (), "1", 0)
    link: Any = two.links.get(one.id)
    link.event(Op.GOSSIP, gossip.encode_gossip((sign_record(SEEDS[nowhere.id], nowhere),), ()))
    await until(lambda: one.sees_id(nowhere.id) is MemberState.ALIVE)
    with pytest.raises(LinkClosed, match="not linked"):
        await one.mesh.reach(nowhere.id)
    assert one.mesh._waiting == {}


GARBAGE: list[tuple[int, bytes]] = [
    (op, body)
    for op in (Op.GOSSIP, Op.DIGEST, Op.VERSIONS, Op.RECORDS_ASK, Op.LOAD, Op.REFUSED)
    for body in (b"", b"\xff", b"\x91" * 50_000, messages.encode([1, "x", {}]), messages.encode({"id": 1}))
]


async def test_garbage_from_a_peer_is_dropped(pair: tuple[Station, Station]) -> None:
    one, two = pair
    link: Any = two.links.get(one.id)
    for op, body in GARBAGE:
        link.event(op, body)
    link.event(999, b"of the future")
    await until(lambda: one.events)
    assert [(node, frame.op) for node, frame in one.events] == [(two.id, 999)]
    assert one.sees(two) is MemberState.ALIVE
    assert len(one.mesh.members()) == 2


async def test_addresses_that_cannot_be_dialled_do_no_harm(pair: tuple[Station, Station]) -> None:
    one, two = pair
    link: Any = two.links.get(one.id)
    three = CREDENTIALS[2].node
    bad = (Address("a\x7fb", 1), Address("..", 5), Address("x" * 200, 1))
    for number, hostile in enumerate((bad, bad[1:])):
        record = NodeRecord(three, "three", 5, number, hostile, "1", 0)
        link.event(Op.GOSSIP, gossip.encode_gossip((sign_record(SEEDS[three], record),), ()))
    await until(lambda: one.sees_id(three) is MemberState.DEAD)
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
