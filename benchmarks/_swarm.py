"""The swarm's own code between simulated nodes: a clock of events, uplinks and downlinks of real-looking bandwidths."""

import heapq
import itertools
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from gridnode.model import NodeId
from gridnode.sync.ration import Ration
from gridnode.sync.swarm import Announced, Ask, Effect, Event, Gained, Gone, Got, Refused, Swarm, SwarmLimits, Tick

MB = 1_000_000
TICK = 0.25
COALESCE = 0.05
"""Seconds for which a node collects what it got before it tells its peers."""
FULL_MESH = 64
PEERS = 16
"""Of a node, in a grid that is no full mesh."""
GIVE_UP = 100.0
"""Copies' times after which a simulation ends in any case."""


@dataclass(frozen=True)
class Ran:
    """One simulated spread. seconds: until the last node had it; one_copy: the tree's size over the slowest bandwidth.

    bound: seconds, one_copy (1 + log2 nodes / pieces); copies: what the origin sent, in sizes of the tree;
    waste: what came twice, in sizes of the tree, of all nodes; finished: when each node had it.
    """

    nodes: int
    pieces: int
    seconds: float
    one_copy: float
    bound: float
    copies: float
    waste: float
    finished: list[float]


@dataclass
class _Node:
    id: NodeId
    up: float
    down: float
    bits: int = 0
    swarm: Swarm | None = None
    peers: list["_Node"] = field(default_factory=list)
    waiting: list[tuple["_Node", Ask]] = field(default_factory=list)
    gave: dict[int, int] = field(default_factory=dict)
    is_sending: bool = False
    down_free: float = 0.0
    sent: int = 0
    fresh: int = 0
    dropped: set[tuple[NodeId, int]] = field(default_factory=set)
    is_dead: bool = False


class Simulation:
    """`nodes` of which the first has the tree. rates: bytes/s up and down of each; seed: all chance comes from it."""

    def __init__(
        self, rates: list[tuple[float, float]], size: int, pieces: int, seed: int, limits: SwarmLimits | None = None
    ) -> None:
        self.now = 0.0
        self._chance = random.Random(seed)
        self._sizes = [size // pieces] * pieces
        self._everything = (1 << pieces) - 1
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self.nodes = [_Node(NodeId(f"{n:040x}"), *rate) for n, rate in enumerate(rates)]
        self._by_id = {node.id: node for node in self.nodes}
        self.origin = self.nodes[0]
        self.origin.bits = self._everything
        self._ration = Ration(self._everything)
        self._told: dict[NodeId, int] = {}
        self.finished: list[float] = []
        self.got = 0
        self._lost = 0
        for node in self.nodes[1:]:
            node.swarm = Swarm(self._sizes, self._everything, self._chance.randrange, limits)
        self._link()

    def run(self) -> Ran:
        """Until every living node has all."""
        one_copy = sum(self._sizes) / min(self.origin.up, *(node.down for node in self.nodes[1:]))
        for node in self.nodes[1:]:
            self._told[node.id] = 0
            node.peers.sort(key=lambda other: other.id)
            for other in node.peers:
                if other.bits:
                    self._after(
                        self._delay(), lambda node=node, other=other: self._tell(node, Announced(other.id, other.bits))
                    )
            self._after(TICK * self._chance.random(), lambda node=node: self._tick(node))
        while self._queue and not self._is_done():
            self.now, _, do = heapq.heappop(self._queue)
            if self.now > GIVE_UP * one_copy:
                break
            do()
        size, count = sum(self._sizes), len(self.nodes)
        bound = one_copy * (1 + math.log2(count) / len(self._sizes))
        wasted = (self.got - size * len(self.finished)) / size
        return Ran(
            count,
            len(self._sizes),
            self.now if self._is_done() else math.inf,
            one_copy,
            bound,
            self.origin.sent / size,
            wasted,
            self.finished,
        )

    def kill(self, node: _Node) -> None:
        """It answers no more; its peers notice."""
        node.is_dead = True
        self._lost += node.bits != self._everything
        for peer in node.peers:
            self._after(1.0, partial(self._tell, peer, Gone(node.id)))

    # -- inside -----------------------------------------------------------------------------------------------------

    def _is_done(self) -> bool:
        return len(self.finished) >= len(self.nodes) - 1 - self._lost

    def _link(self) -> None:
        """A full mesh, or as many random links as a node has at least."""
        if len(self.nodes) <= FULL_MESH:
            for node in self.nodes:
                node.peers = [other for other in self.nodes if other is not node]
            return
        for node in self.nodes:
            for other in self._chance.sample(self.nodes, PEERS // 2):
                if other is not node and other not in node.peers:
                    node.peers.append(other)
                    other.peers.append(node)

    def _after(self, seconds: float, do: Callable[[], None]) -> None:
        heapq.heappush(self._queue, (self.now + seconds, next(self._order), do))

    def _delay(self) -> float:
        return 0.0005 + 0.02 * self._chance.random() ** 3

    def _tick(self, node: _Node) -> None:
        if node.bits != self._everything and not node.is_dead:
            self._tell(node, Tick())
            self._after(TICK, lambda: self._tick(node))

    def _tell(self, node: _Node, event: Event) -> None:
        if node.swarm and node.bits != self._everything and not node.is_dead:
            self._carry_out(node, node.swarm.handle(event, self.now))

    def _carry_out(self, node: _Node, effects: list[Effect]) -> None:
        for effect in effects:
            key = (effect.peer, effect.piece)
            if isinstance(effect, Ask):
                node.dropped.discard(key)
                self._after(self._delay(), partial(self._asked, node, effect))
            else:
                node.dropped.add(key)

    def _asked(self, node: _Node, ask: Ask) -> None:
        giver = self._by_id[ask.peer]
        if giver.is_dead or (ask.peer, ask.piece) in node.dropped:
            return
        given = self._ration.take(ask.piece, node.id, self._told, self.now) if giver is self.origin else 0
        if given:
            self._after(self._delay(), lambda: self._tell(node, Refused(ask.peer, ask.piece, given)))
            return
        giver.waiting.append((node, ask))
        if not giver.is_sending:
            self._send_next(giver)

    def _send_next(self, giver: _Node) -> None:
        """The piece it gave least often goes first, as in a node's own Turns."""
        giver.is_sending = False
        while giver.waiting and not giver.is_dead:
            gave = giver.gave
            node, ask = first = min(giver.waiting, key=lambda one: gave.get(one[1].piece, 0))
            giver.waiting.remove(first)
            if (ask.peer, ask.piece) in node.dropped:
                continue
            size = self._sizes[ask.piece]
            giver.gave[ask.piece] = giver.gave.get(ask.piece, 0) + 1
            giver.sent += size
            giver.is_sending = True
            self._after(size / giver.up, partial(self._sent, node, ask, size))
            self._after(size / giver.up, partial(self._send_next, giver))
            return

    def _sent(self, node: _Node, ask: Ask, size: int) -> None:
        """Its last byte left; it arrives when the downlink has carried all that came before."""
        node.down_free = max(self.now, node.down_free + size / node.down)
        self._after(node.down_free - self.now + self._delay(), lambda: self._arrived(node, ask, size))

    def _arrived(self, node: _Node, ask: Ask, size: int) -> None:
        if node.is_dead:
            return
        if self._by_id[ask.peer].is_dead:
            return
        self.got += size
        bit = 1 << ask.piece
        if node.bits & bit:
            return
        is_first = not node.fresh
        node.bits |= bit
        node.fresh |= bit
        if node.bits == self._everything:
            self.finished.append(self.now)
        if node.swarm:
            self._carry_out(node, node.swarm.handle(Got(ask.peer, ask.piece, size), self.now))
        if is_first:
            self._after(COALESCE, lambda: self._gained(node))

    def _gained(self, node: _Node) -> None:
        fresh, node.fresh = node.fresh, 0
        for peer in node.peers:
            if peer is self.origin:
                self._told[node.id] |= fresh
            elif peer.bits != self._everything:
                self._after(self._delay(), partial(self._tell, peer, Gained(node.id, fresh)))


def alike(count: int, rate: float = 15 * MB) -> list[tuple[float, float]]:
    """Nodes of one bandwidth, both ways."""
    return [(rate, rate)] * count


def mixed(count: int, seed: int) -> list[tuple[float, float]]:
    """Servers of 100 Mbit/s to 1 Gbit/s; the origin is one of the slow."""
    chance = random.Random(seed)
    rates = [12.5 * MB * factor for factor in chance.choices((1, 2, 5, 10), (40, 25, 15, 20), k=count - 1)]
    return [(12.5 * MB, 12.5 * MB), *((rate, rate) for rate in rates)]
