"""Whole grids of membership cores, simulated in one process; every run is reproduced by its seed."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from gridnode.membership import (
    Dial,
    DialFailed,
    Event,
    FoundSelf,
    LinkedUp,
    LinkLost,
    Membership,
    MembershipLimits,
    Sighted,
    TellSightings,
    Tick,
)
from gridnode.model import Address, MemberState, NodeId, NodeRecord, Sighting
from gridnode.settings import Settings

ALIVE, DEAD = MemberState.ALIVE, MemberState.DEAD
SETTINGS = Settings(_env_file=None)  # type: ignore[call-arg]


def node(number: int) -> NodeId:
    return NodeId(f"{number:040x}")


def address(number: int) -> Address:
    return Address(f"10.0.{number // 256}.{number % 256}", 7400)


def record(number: int, incarnation: int) -> NodeRecord:
    return NodeRecord(node(number), f"n{number}", incarnation, 0, (address(number),), "1", 0)


def state(membership: Membership, number: int) -> MemberState | None:
    member = membership.get(node(number))
    return member.state if member else None


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
