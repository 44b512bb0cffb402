"""The membership core: tables of events, and whole grids simulated in one process, every run by its seed."""

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from gridnode.membership import (
    Changed,
    Dial,
    DialFailed,
    Effect,
    Event,
    FoundSelf,
    LeaveHeard,
    LinkedUp,
    LinkLost,
    Membership,
    MembershipLimits,
    RecordHeard,
    Sighted,
    TellSightings,
    Tick,
)
from gridnode.model import Address, Load, MemberState, NodeId, NodeRecord, Sighting
from gridnode.settings import Settings

ALIVE, SUSPECT, DEAD, LEFT = MemberState.ALIVE, MemberState.SUSPECT, MemberState.DEAD, MemberState.LEFT
SETTINGS = Settings(_env_file=None)  # type: ignore[call-arg]
LIMITS = MembershipLimits(suspect_after=2.0)


def node(number: int) -> NodeId:
    return NodeId(f"{number:040x}")


def address(number: int) -> Address:
    return Address(f"10.0.{number // 256}.{number % 256}", 7400)


def record(number: int, incarnation: int = 1, revision: int = 0, load: int = 0) -> NodeRecord:
    return NodeRecord(node(number), f"n{number}", incarnation, revision, (address(number),), "1", 0, Load(load, 1))


ME, OTHER, THIRD = 5, 3, 9


def core(limits: MembershipLimits = LIMITS) -> Membership:
    return Membership(node(ME), limits)


def linked(*numbers: int) -> Membership:
    membership = core()
    for number in numbers:
        membership.handle(LinkedUp(record(number)), 0.0)
    return membership


def dials(effects: list[Effect]) -> list[Address]:
    return [effect.address for effect in effects if isinstance(effect, Dial)]


def changes(effects: list[Effect]) -> list[tuple[MemberState | None, MemberState]]:
    return [(effect.before, effect.member.state) for effect in effects if isinstance(effect, Changed)]


def state(membership: Membership, number: int) -> MemberState | None:
    member = membership.get(node(number))
    return member.state if member else None


def dialled(membership: Membership, seconds: float, start: float = 0.0) -> list[float]:
    """When it dials within `seconds`, every dial failing at once."""
    times = []
    for step in range(int(seconds * 20)):
        now = start + step / 20
        for target in dials(membership.handle(Tick(), now)):
            times.append(now)
            membership.handle(DialFailed(target), now)
    return times


# -- tables ---------------------------------------------------------------------------------------------------------


def test_a_sighting_is_dialled_once_and_makes_no_member() -> None:
    membership = core()
    for _ in range(3):
        assert membership.handle(Sighted(Sighting(address(THIRD), node(THIRD))), 0.0) == []
    assert dials(membership.handle(Tick(), 0.0)) == [address(THIRD)]
    assert dials(membership.handle(Tick(), 100.0)) == [], "one dial is under way"
    assert membership.members() == []


def test_of_two_nodes_the_lower_dials_first() -> None:
    membership = core()
    membership.handle(Sighted(Sighting(address(OTHER), node(OTHER))), 0.0)
    assert dials(membership.handle(Tick(), 0.4)) == []
    assert dials(membership.handle(Tick(), 0.5)) == [address(OTHER)]


def test_its_own_sightings_and_addresses_are_not_dialled() -> None:
    membership = core()
    membership.handle(Sighted(Sighting(address(1), node(ME))), 0.0)
    membership.handle(Sighted(Sighting(address(2)), seed=True), 0.0)
    assert dials(membership.handle(Tick(), 0.0)) == [address(2)]
    membership.handle(FoundSelf(address(2)), 0.0)
    membership.handle(Sighted(Sighting(address(2), node(OTHER))), 1.0)
    assert dials(membership.handle(Tick(), 100.0)) == []


def test_a_dial_that_fails_is_tried_ever_more_rarely() -> None:
    membership = core()
    membership.handle(Sighted(Sighting(address(9)), seed=True), 0.0)
    times = dialled(membership, 60)
    gaps = [round(later - before, 2) for before, later in itertools.pairwise(times)]
    assert gaps[:5] == [0.25, 0.5, 1.0, 2.0, 4.0]
    assert set(gaps[5:]) == {5.0}


def test_a_seed_is_never_given_up_and_a_mere_sighting_is() -> None:
    membership = core()
    membership.handle(Sighted(Sighting(address(1)), seed=True), 0.0)
    membership.handle(Sighted(Sighting(address(2))), 0.0)
    dialled(membership, 600)
    assert set(membership._addresses) == {address(1)}
    assert dialled(membership, 10, start=600)


def test_a_handshake_makes_a_member() -> None:
    membership = core()
    assert changes(membership.handle(LinkedUp(record(OTHER), address(OTHER)), 1.0)) == [(None, ALIVE)]
    member = membership.get(node(OTHER))
    assert member
    assert (member.record, member.state, member.since) == (record(OTHER), ALIVE, 1.0)
    assert dials(membership.handle(Tick(), 50.0)) == []


def test_a_newcomer_hears_where_the_others_are() -> None:
    membership = linked(OTHER)
    told = [effect for effect in membership.handle(LinkedUp(record(THIRD)), 1.0) if isinstance(effect, TellSightings)]
    assert told == [TellSightings(node(THIRD), (Sighting(address(OTHER), node(OTHER)),))]


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([LinkLost(node(OTHER))], SUSPECT),
        ([LinkLost(node(OTHER)), LinkedUp(record(OTHER))], ALIVE),
        ([LinkLost(node(OTHER)), 1.9], SUSPECT),
        ([LinkLost(node(OTHER)), 2.0], DEAD),
        ([LinkLost(node(OTHER)), 2.0, LinkedUp(record(OTHER))], ALIVE),
        ([LinkLost(node(OTHER)), 2.0, LinkLost(node(OTHER))], DEAD),
        ([LeaveHeard(node(OTHER))], LEFT),
        ([LeaveHeard(node(OTHER)), LinkLost(node(OTHER)), 5.0], LEFT),
        ([LeaveHeard(node(OTHER)), LinkLost(node(OTHER)), LinkedUp(record(OTHER, 2))], ALIVE),
        ([LeaveHeard(node(OTHER)), LinkedUp(record(OTHER, 2))], ALIVE),
        ([LinkLost(node(OTHER)), 25 * 3600.0], DEAD),
        ([LinkLost(node(OTHER)), 2.0, 25 * 3600.0], None),
        ([LinkLost(node(THIRD)), LeaveHeard(node(THIRD))], ALIVE),
    ],
    ids=str,
)
def test_states(events: list[Event | float], expected: MemberState | None) -> None:
    """A number is a tick at that time."""
    membership = linked(OTHER)
    for event in events:
        if isinstance(event, float):
            membership.handle(Tick(), event)
        else:
            membership.handle(event, 0.0)
    assert state(membership, OTHER) == expected


def test_a_lost_member_is_dialled_again_at_once() -> None:
    membership = linked(OTHER, THIRD)
    membership.handle(LinkLost(node(THIRD)), 10.0)
    assert dials(membership.handle(Tick(), 10.0)) == [address(THIRD)]


def test_only_newer_records_replace_older_ones() -> None:
    membership = core()
    membership.handle(LinkedUp(record(OTHER, 2, 5)), 0.0)
    for late in (record(OTHER, 2, 5, load=9), record(OTHER, 2, 4, load=9), record(OTHER, 1, 99, load=9)):
        assert membership.handle(RecordHeard(late), 1.0) == []
    newer = record(OTHER, 2, 6, load=1)
    assert changes(membership.handle(RecordHeard(newer), 1.0)) == [(ALIVE, ALIVE)]
    member = membership.get(node(OTHER))
    assert member
    assert member.record == newer


def test_a_record_from_nobody_we_are_linked_to_is_nothing() -> None:
    membership = linked(OTHER)
    assert membership.handle(RecordHeard(record(THIRD)), 0.0) == []
    membership.handle(LinkLost(node(OTHER)), 0.0)
    assert membership.handle(RecordHeard(record(OTHER, 9)), 0.0) == []


def test_a_restart_is_taken_even_when_its_clock_went_back() -> None:
    membership = core()
    membership.handle(LinkedUp(record(OTHER, 9)), 0.0)
    membership.handle(LinkLost(node(OTHER)), 1.0)
    membership.handle(LinkedUp(record(OTHER, 2)), 1.5)
    member = membership.get(node(OTHER))
    assert member
    assert member.record.incarnation == 2


# -- hostile peers --------------------------------------------------------------------------------------------------


def test_what_peers_tell_is_bounded() -> None:
    limits = MembershipLimits(max_members=10, max_addresses=50)
    membership = core(limits)
    for number in range(10, 2000):
        membership.handle(Sighted(Sighting(address(number), node(number))), 0.0)
        membership.handle(LinkedUp(record(number)), 0.0)
    assert len(membership.members()) == 10
    assert len(membership._addresses) <= 50
    membership.handle(Sighted(Sighting(address(1)), seed=True), 0.0)
    assert address(1) in membership._addresses, "a seed is the operator's word"


def test_a_flood_of_sightings_makes_no_flood_of_dials() -> None:
    membership = core()
    for number in range(10, 4000):
        membership.handle(Sighted(Sighting(address(number), node(number))), 0.0)
    membership.handle(Sighted(Sighting(address(1)), seed=True), 0.0)
    first = dials(membership.handle(Tick(), 0.5))
    assert address(1) in first
    assert len(first) <= 64
    tried = {target for step in range(2, 400) for target in dials(membership.handle(Tick(), step / 2))}
    assert len(tried) > 3900, "each has its turn"


@pytest.mark.parametrize("bad", [Address("h", 0), Address("h", -1), Address("h", 65536), Address("", 1)], ids=str)
def test_what_is_no_address_is_not_remembered(bad: Address) -> None:
    membership = core()
    membership.handle(Sighted(Sighting(bad, node(THIRD))), 0.0)
    membership.handle(Sighted(Sighting(Address("h" * 300, 1))), 0.0)
    assert membership._addresses == {}


def test_a_lie_about_where_a_member_is_does_not_hide_it() -> None:
    """A peer says that OTHER's address is THIRD's, who is linked: OTHER must still be dialled when it is lost."""
    membership = linked(OTHER, THIRD)
    membership.handle(Sighted(Sighting(address(OTHER), node(THIRD))), 1.0)
    membership.handle(LinkLost(node(OTHER)), 2.0)
    assert address(OTHER) in {target for step in range(6) for target in dials(membership.handle(Tick(), 2 + step / 2))}


# -- whole grids ----------------------------------------------------------------------------------------------------


@dataclass
class Simulated:
    """One node: when it ticks, and the peers it holds a link to."""

    number: int
    seeds: tuple[int, ...]
    incarnation: int = 1
    core: Membership = field(init=False)
    links: set[int] = field(default_factory=set)
    dials: list[float] = field(default_factory=list)
    up: bool = True

    def __post_init__(self) -> None:
        limits = MembershipLimits(suspect_after=SETTINGS.suspect_after)
        self.core = Membership(node(self.number), limits)


class Grid:
    """N nodes on a network that delays, loses dials, splits and heals. Steps of 50 ms."""

    STEP = 0.05

    def __init__(self, count: int, seed: int, loss: float) -> None:
        self.dice = random.Random(seed)
        self.loss = loss
        self.now = 0.0
        self.split: set[int] = set()
        self.later: list[tuple[float, int, int, Event]] = []
        self.silent: dict[tuple[int, int], float] = {}
        seeds = [tuple({0, self.dice.randrange(count)}) for _ in range(count)]
        self.nodes = [Simulated(number, seeds[number]) for number in range(count)]
        for one in self.nodes:
            self.boot(one)

    def boot(self, one: Simulated) -> None:
        for seed in one.seeds:
            self.handle(one, Sighted(Sighting(address(seed)), seed=True))

    def reach(self, a: int, b: int) -> bool:
        return self.nodes[a].up and self.nodes[b].up and (a in self.split) == (b in self.split)

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            self.now += self.STEP
            due = [item for item in self.later if item[0] <= self.now]
            self.later = [item for item in self.later if item[0] > self.now]
            for _, at, incarnation, event in due:
                if self.nodes[at].up and self.nodes[at].incarnation == incarnation:
                    self.deliver(at, event)
            for one in self.nodes:
                if one.up and self.ticks(one):
                    self.notice_silence(one)
                    self.handle(one, Tick())

    def ticks(self, one: Simulated) -> bool:
        every = round(SETTINGS.tick / self.STEP)
        return (round(self.now / self.STEP) + one.number) % every == 0

    def notice_silence(self, one: Simulated) -> None:
        for peer in list(one.links):
            since = self.silent.get((one.number, peer))
            if since is not None and self.now - since > SETTINGS.silent_after:
                self.post(one.number, LinkLost(node(peer)), 0.0)  # an aborted link is lost a turn later

    def lose(self, a: int, b: int) -> None:
        self.silent.pop((a, b), None)
        if b in self.nodes[a].links:
            self.nodes[a].links.discard(b)
            self.handle(self.nodes[a], LinkLost(node(b)))

    def post(self, at: int, event: Event, delay: float | None = None) -> None:
        wait = self.dice.uniform(0.001, 0.08) if delay is None else delay
        self.later.append((self.now + wait, at, self.nodes[at].incarnation, event))

    def deliver(self, at: int, event: Event) -> None:
        if isinstance(event, LinkLost):
            self.lose(at, int(event.node, 16))
        else:
            self.handle(self.nodes[at], event)

    def handle(self, one: Simulated, event: Event) -> None:
        for effect in one.core.handle(event, self.now):
            match effect:
                case Dial(target):
                    one.dials.append(self.now)
                    self.dial(one.number, target)
                case TellSightings(to, sightings) if int(to, 16) in one.links and self.reach(one.number, int(to, 16)):
                    for sighting in sightings:
                        self.post(int(to, 16), Sighted(sighting))

    def dial(self, a: int, target: Address) -> None:
        b = int(target.host.split(".")[2]) * 256 + int(target.host.split(".")[3])
        if a == b:
            self.post(a, FoundSelf(target))
        elif not self.reach(a, b) or self.dice.random() < self.loss:
            refused = self.nodes[a].up and not self.nodes[b].up
            self.post(a, DialFailed(target), None if refused else 5.0)
        else:
            for here, there, where in ((a, b, target), (b, a, None)):
                self.nodes[here].links.add(there)
                self.silent.pop((here, there), None)
                self.post(here, LinkedUp(record(there, self.nodes[there].incarnation), where), 0.0)

    def kill(self, number: int, silently: bool) -> None:
        victim = self.nodes[number]
        victim.up = False
        for peer in victim.links:
            if silently:
                self.silent[peer, number] = self.now
            else:
                self.post(peer, LinkLost(node(number)))
        victim.links = set()

    def restart(self, number: int) -> None:
        for peer in self.nodes:
            self.lose(peer.number, number)
        old = self.nodes[number]
        self.nodes[number] = Simulated(number, old.seeds, old.incarnation + 1, dials=old.dials)
        self.boot(self.nodes[number])

    def partition(self, some: set[int]) -> None:
        self.split = some
        for one in self.nodes:
            for peer in one.links:
                if not self.reach(one.number, peer):
                    self.silent[one.number, peer] = self.now

    def heal(self) -> None:
        self.split = set()

    def pairs(self) -> Iterator[tuple[Simulated, Simulated]]:
        up = [one for one in self.nodes if one.up]
        yield from ((one, other) for one in up for other in up if one is not other)

    def unlinked(self) -> list[str]:
        return [
            f"{one.number} sees {other.number} {state(one.core, other.number)}"
            for one, other in self.pairs()
            if self.reach(one.number, other.number)
            and not (other.number in one.links and state(one.core, other.number) is ALIVE)
        ]


def busiest_second(times: list[float]) -> int:
    return max((sum(start <= other < start + 1 for other in times) for start in times), default=0)


@pytest.mark.parametrize("seed", range(12))
def test_everybody_ends_up_linked_to_everybody(seed: int) -> None:
    count = random.Random(seed).randint(3, 20)
    grid = Grid(count, seed, loss=0.0)
    grid.run(15)
    assert grid.unlinked() == []
    grid.run(60)
    assert grid.unlinked() == []
    for one in grid.nodes:
        assert len(one.dials) <= 3 * count
        assert [at for at in one.dials if at > 20] == [], "a full mesh has nothing to dial"


@pytest.mark.parametrize("seed", range(8))
def test_also_when_dials_get_lost(seed: int) -> None:
    count = random.Random(seed).randint(3, 12)
    grid = Grid(count, seed, loss=0.3)
    grid.run(60)
    assert grid.unlinked() == []
    assert max(busiest_second(one.dials) for one in grid.nodes) <= 2 * count


@pytest.mark.parametrize("silently", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_the_dead_are_marked_within_5_seconds_and_return(seed: int, silently: bool) -> None:
    count = random.Random(seed).randint(4, 12)
    grid = Grid(count, seed, loss=0.0)
    grid.run(20)
    victims = grid.dice.sample(range(count), grid.dice.randint(1, count // 2))
    for victim in victims:
        grid.kill(victim, silently)
    grid.run(5.0)
    states = {(one.number, victim): state(one.core, victim) for one in grid.nodes if one.up for victim in victims}
    assert set(states.values()) == {DEAD}
    assert grid.unlinked() == []
    grid.run(60)
    for one in grid.nodes:
        assert busiest_second([at for at in one.dials if at > 26]) <= 2 * count
    for victim in victims:
        grid.restart(victim)
    grid.run(25)
    assert grid.unlinked() == []


@pytest.mark.parametrize("seed", range(6))
def test_a_partition_heals(seed: int) -> None:
    count = random.Random(seed).randint(4, 14)
    grid = Grid(count, seed, loss=0.05)
    grid.run(30)
    assert grid.unlinked() == []
    away = set(grid.dice.sample(range(count), count // 2))
    grid.partition(away)
    grid.run(20)
    assert grid.unlinked() == [], "both sides stay whole"
    assert {state(one.core, other) for one in grid.nodes if one.number in away for other in range(count)} == {
        None,
        ALIVE,
        DEAD,
    }
    grid.heal()
    grid.run(30)
    assert grid.unlinked() == []
    assert all(len(one.core._addresses) <= count for one in grid.nodes)


def test_a_run_is_reproduced_by_its_seed() -> None:
    def run() -> list[list[float]]:
        grid = Grid(7, 42, loss=0.2)
        grid.run(20)
        return [one.dials for one in grid.nodes]

    assert run() == run()
