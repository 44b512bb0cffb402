"""A seeded simulation of a grid under load: nodes with queues, routers that see old reports, ways to place calls."""

import heapq
import itertools
import math
import random
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from gridnode.model import Load, NodeId
from gridnode.placement import Candidate, Gauge, rank

REPORT_EVERY = 0.5
HOP = 0.0003
MEAN = 0.01
"""Seconds a call takes a node of speed 1, on average."""


@dataclass(frozen=True)
class Scenario:
    """nodes: (slots, speed). load: (from this second, part of all slots at speed 1 that is busy).

    changes: (at this second, node, speed).

    wide: nodes run every call at once, as asynchronous handlers do; stalls have speed 0.
    """

    name: str
    nodes: tuple[tuple[int, float], ...]
    load: tuple[tuple[float, float], ...]
    routers: int = 1
    seconds: float = 30.0
    changes: tuple[tuple[float, int, float], ...] = ()
    wide: bool = False


SCENARIOS = (
    Scenario("idle, like nodes", ((4, 1.0),) * 3, ((0, 0.05),)),
    Scenario("busy, like nodes", ((4, 1.0),) * 3, ((0, 0.85),)),
    Scenario("sizes 1, 2, 4, 8", ((1, 1.0), (2, 1.0), (4, 1.0), (8, 1.0)), ((0, 0.2),)),
    Scenario("one of three 10x slower, light load", ((4, 1.0), (4, 1.0), (4, 0.1)), ((0, 0.05),)),
    Scenario("one of three 10x slower, half load", ((4, 1.0), (4, 1.0), (4, 0.1)), ((0, 0.4),)),
    Scenario("the same, asynchronous handlers", ((4, 1.0), (4, 1.0), (4, 0.1)), ((0, 0.4),), wide=True),
    Scenario(
        "one becomes 10x slower, then recovers", ((4, 1.0),) * 3, ((0, 0.3),), 3, 60.0, ((15, 2, 0.1), (30, 2, 1.0))
    ),
    Scenario("one stalls for 2 s", ((4, 1.0),) * 3, ((0, 0.3),), 3, 30.0, ((10, 2, 0.0), (12, 2, 1.0))),
    Scenario("load steps 20, 90, 20%", ((4, 1.0),) * 3, ((0, 0.2), (10, 0.9), (15, 0.2)), 3),
    Scenario("ten nodes, ten routers, 85%", ((4, 1.0),) * 10, ((0, 0.85),), 10, 20.0),
    Scenario("ten nodes of speeds 0.5 to 2, ten routers", ((4, 0.5), (4, 2.0)) * 5, ((0, 0.8),), 10, 20.0),
)


@dataclass(eq=False)
class Sim:
    """One simulated node. work: seconds at speed 1 that each call inside still needs."""

    slots: int
    speed: float
    wide: bool
    running: dict[int, float] = field(default_factory=dict)
    waiting: deque[tuple[int, float]] = field(default_factory=deque)
    since: float = 0.0
    version: int = 0

    @property
    def inside(self) -> int:
        return len(self.running) + len(self.waiting)

    def advance(self, now: float) -> list[int]:
        """Let time pass; the calls that are done."""
        spent, self.since = (now - self.since) * self.speed, now
        done = []
        for call in list(self.running):
            self.running[call] -= spent
            if self.running[call] <= 1e-9:
                del self.running[call]
                done.append(call)
        self.fill()
        return done

    def fill(self) -> None:
        while self.waiting and (self.wide or len(self.running) < self.slots):
            call, work = self.waiting.popleft()
            self.running[call] = work

    def next_done(self) -> float:
        self.version += 1
        if not self.running or not self.speed:
            return math.inf
        return self.since + min(self.running.values()) / self.speed


Choose = Callable[[int, float], int]
"""Which node the call through this router goes to, now."""


class Policy:
    """How calls are placed. One for all routers of a run."""

    def __init__(self, scenario: Scenario, dice: random.Random) -> None:
        self.scenario = scenario
        self.dice = dice
        self.count = len(scenario.nodes)

    def choose(self, router: int, now: float) -> int:
        raise NotImplementedError

    def done(self, router: int, node: int, took: float, now: float) -> None:
        """A call came back."""

    def reported(self, node: int, inside: int, now: float) -> None:
        """Every router hears the load of a node."""


class RoundRobin(Policy):
    def __init__(self, scenario: Scenario, dice: random.Random) -> None:
        super().__init__(scenario, dice)
        self.turns = [itertools.count(dice.randrange(self.count)) for _ in range(scenario.routers)]

    def choose(self, router: int, now: float) -> int:
        return next(self.turns[router]) % self.count


class Random(Policy):
    def choose(self, router: int, now: float) -> int:
        return self.dice.randrange(self.count)


class Ours(RoundRobin):
    """The product's own: gridnode.placement, fed as the router feeds it."""

    def __init__(self, scenario: Scenario, dice: random.Random) -> None:
        super().__init__(scenario, dice)
        self.candidates = [
            [Candidate(Gauge(NodeId(str(n)), Load(0, slots), 0.0)) for n, (slots, _) in enumerate(scenario.nodes)]
            for _ in range(scenario.routers)
        ]

    def choose(self, router: int, now: float) -> int:
        ranked = rank(self.candidates[router], next(self.turns[router]), self.dice.getrandbits(16), now)
        ranked[0].gauge.mine += 1
        return int(ranked[0].node)

    def done(self, router: int, node: int, took: float, now: float) -> None:
        candidate = self.candidates[router][node]
        candidate.gauge.mine -= 1
        candidate.measured(took, now)

    def reported(self, node: int, inside: int, now: float) -> None:
        for candidates in self.candidates:
            candidates[node].gauge.report(Load(inside, self.scenario.nodes[node][0]), now)


POLICIES: dict[str, type[Policy]] = {"ours": Ours, "round robin": RoundRobin, "random": Random}


@dataclass
class Result:
    """latencies: seconds, of every call; shares: calls that each node got."""

    latencies: list[float]
    shares: list[int]

    def percentile(self, part: float) -> float:
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(len(ordered) * part))]


def arrivals(scenario: Scenario, dice: random.Random) -> Iterator[tuple[float, int, float]]:
    """(time, router, work): the same for every policy."""
    slots = sum(slots for slots, _ in scenario.nodes)
    now = 0.0
    while True:
        part = next(part for start, part in reversed(scenario.load) if start <= now)
        now += dice.expovariate(part * slots / MEAN)
        if now >= scenario.seconds:
            return
        yield now, dice.randrange(scenario.routers), MEAN * dice.uniform(0.5, 1.5)


class Run:
    """One scenario under one policy."""

    def __init__(self, scenario: Scenario, policy: type[Policy], seed: int) -> None:
        self.scenario = scenario
        self.policy = policy(scenario, random.Random(seed + 1))
        self.nodes = [Sim(slots, speed, scenario.wide) for slots, speed in scenario.nodes]
        self.calls: list[tuple[float, int, int]] = []  # (arrived, router, node)
        self.result = Result([], [0] * len(self.nodes))
        self.order = itertools.count()
        self.events: list[tuple[float, int, Callable[[float], None]]] = []
        self.coming = arrivals(scenario, random.Random(seed))
        self._next_arrival()
        for number in range(len(self.nodes)):
            self._at(REPORT_EVERY * number / len(self.nodes), lambda now, number=number: self._report(number, now))
        for time, number, speed in scenario.changes:
            self._at(time, lambda now, number=number, speed=speed: self._change(number, speed, now))

    def run(self) -> Result:
        while len(self.result.latencies) < len(self.calls) or self.coming_left:
            time, _, act = heapq.heappop(self.events)
            act(time)
        return self.result

    def _at(self, time: float, act: Callable[[float], None]) -> None:
        heapq.heappush(self.events, (time, next(self.order), act))

    def _next_arrival(self) -> None:
        one = next(self.coming, None)
        self.coming_left = one is not None
        if one:
            time, router, work = one
            self._at(time, lambda now: self._arrive(router, work, now))

    def _arrive(self, router: int, work: float, now: float) -> None:
        node = self.policy.choose(router, now)
        call = len(self.calls)
        self.calls.append((now, router, node))
        self.result.shares[node] += 1
        self._at(now + HOP, lambda later: self._enter(node, call, work, later))
        self._next_arrival()

    def _enter(self, number: int, call: int, work: float, now: float) -> None:
        node = self.nodes[number]
        self._settle(number, now)
        node.waiting.append((call, work))
        node.fill()
        self._watch(number)

    def _settle(self, number: int, now: float) -> None:
        for call in self.nodes[number].advance(now):
            self._at(now + HOP, lambda later, call=call: self._answered(call, later))

    def _watch(self, number: int) -> None:
        node = self.nodes[number]
        due = node.next_done()
        version = node.version
        if due < math.inf:
            self._at(due, lambda now: self._look(number, version, now))

    def _look(self, number: int, version: int, now: float) -> None:
        if self.nodes[number].version == version:
            self._settle(number, now)
            self._watch(number)

    def _answered(self, call: int, now: float) -> None:
        arrived, router, node = self.calls[call]
        self.result.latencies.append(now - arrived)
        self.policy.done(router, node, now - arrived, now)

    def _report(self, number: int, now: float) -> None:
        self.policy.reported(number, self.nodes[number].inside, now)
        if self.coming_left:
            self._at(now + REPORT_EVERY, lambda later: self._report(number, later))

    def _change(self, number: int, speed: float, now: float) -> None:
        self._settle(number, now)
        self.nodes[number].speed = speed
        self._watch(number)


def simulate(scenario: Scenario, policy: type[Policy], seed: int) -> Result:
    return Run(scenario, policy, seed).run()
