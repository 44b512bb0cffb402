"""A whole grid in one process, on a clock of its own; every run is reproduced by its seed.

The cores are the real ones; links, TCP and time are simulated. A node ticks four times a second, as in a real one;
that a link is alive is not simulated ping by ping: it is silent when its other end is, when the network is split, or
when a packet on it was lost so often that TCP took seconds.
"""

import heapq
import itertools
import random
from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from gridnode.ledger import Document
from gridnode.membership import MembershipLimits
from gridnode.model import MemberState, NodeId, NodeRecord, Sighting
from gridnode.swim.events import (
    Ask,
    Asked,
    Changed,
    ClaimHeard,
    Dial,
    DialFailed,
    DigestHeard,
    Drop,
    Effect,
    Event,
    FoundSelf,
    LinkedUp,
    LinkLost,
    Part,
    Parted,
    RecordHeard,
    Refute,
    Retire,
    RetireHeard,
    ShowDigest,
    ShowVersions,
    Sighted,
    Spoke,
    Tell,
    Tick,
    VersionsHeard,
)
from tests.simulator.network import DIAL_TIMEOUT, KNOCKS, Network, Wire
from tests.simulator.node import Simulated, address_of, node_id, number_at, number_of, signed

LIMITS = MembershipLimits()
TICK = 0.25
FRAME = 46
"""Bytes of a frame's header and of the TLS record around it."""
CLAIM, VERSION = 56, 66
"""Bytes of one, in msgpack."""


class Simulation:
    """`count` nodes, of which the first `seeds` are everybody's seeds; their clock, links and ledgers."""

    def __init__(
        self,
        count: int,
        seed: int,
        loss: float = 0.0,
        limits: MembershipLimits = LIMITS,
        seeds: int = 3,
        skewed: bool = True,
    ) -> None:
        self.dice = random.Random(seed)
        self.network = Network(self.dice, loss)
        self.now = 0.0
        self.limits = limits
        self.seeds = min(seeds, count)
        self.skewed = skewed
        self.rounds: dict[int, int] = {}
        self.suspicions = self.deaths = 0
        self._verified: Callable[[Document], bool] = lambda document: False
        self._records: dict[bytes, NodeRecord] = {}
        self._queue: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._order = itertools.count()
        self.nodes = [self._make(number, 1) for number in range(count)]

    def _make(self, number: int, incarnation: int) -> Simulated:
        dice = self.dice
        skew = (dice.uniform(0, 7200), dice.uniform(0.9995, 1.0005)) if self.skewed else (0.0, 1.0)
        return Simulated(number, self.limits, dice.randbytes(16), skew, incarnation)

    # -- time -------------------------------------------------------------------------------------------------------

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self._queue and self._queue[0][0] <= end:
            self.now, _, action, arguments = heapq.heappop(self._queue)
            action(*arguments)
        self.now = end

    def _at(self, delay: float, action: Callable[..., None], *arguments: Any) -> None:
        heapq.heappush(self._queue, (self.now + delay, next(self._order), action, arguments))

    def _start(self, node: Simulated) -> None:
        node.up = True
        record = signed(node.record)
        self._records[record] = node.record
        self._handle(node, Spoke(node.record, record))
        for number in range(self.seeds):
            self._handle(node, Sighted(Sighting(address_of(number)), seed=True))
        self._at(self.dice.uniform(0, TICK), self._tick, node)

    def _tick(self, node: Simulated) -> None:
        if self.nodes[node.number] is not node or not node.up:
            return
        self._at(TICK, self._tick, node)
        if node.frozen:
            return
        every = 0.5 if node.core.is_full_mesh else 1.0
        self._stall(node, every)
        node.messages += (count := int(len(node.links) * TICK / every + self.dice.random()))
        node.sent += count * FRAME
        quiet = {peer: self._quiet(wire, node) for peer, wire in node.links.items() if wire.quiet or wire.stalled}
        stood_still, node.ticked = self.now - node.ticked > 2 * TICK, self.now
        heard = {node_id(peer): seconds for peer, seconds in quiet.items() if seconds}
        self._handle(node, Tick(None if stood_still else heard))

    def _quiet(self, wire: Wire, node: Simulated) -> float:
        """Seconds for which it has heard nothing on this link."""
        since = wire.quiet.get(node.number)
        stall = wire.stalled.get(node.number)
        if stall is not None and self.now >= wire.free.get(node.number, 0.0):
            del wire.stalled[node.number]
            stall = None
        return self.now - min(self.now if since is None else since, self.now if stall is None else stall)

    def _stall(self, node: Simulated, every: float) -> None:
        """Some ping that this node should have got was lost again and again."""
        expected = self.network.stalls(len(node.links) * TICK / every)
        while node.links and self.dice.random() < expected:
            expected -= 1
            wire = node.links[self.dice.choice(list(node.links))]
            stall = self.network.stall()
            wire.free[node.number] = max(wire.free.get(node.number, 0.0), self.now + stall)
            wire.stalled.setdefault(node.number, self.now - every)

    # -- effects ----------------------------------------------------------------------------------------------------

    def _handle(self, node: Simulated, event: Event) -> None:
        for effect in node.core.handle(event, node.clock(self.now)):
            self._carry_out(node, effect)

    def _carry_out(self, node: Simulated, effect: Effect) -> None:
        match effect:
            case Changed(member, before):
                self._count(node, member.record.id, member.state, before)
            case Tell(to, news, claims):
                self._send(node, to, effect, sum(map(len, news)) + CLAIM * len(claims))
            case ShowDigest(to, sums):
                self._send(node, to, effect, len(sums))
            case ShowVersions(to, _, versions):
                self._send(node, to, effect, VERSION * len(versions))
            case Ask(to, nodes):
                self._send(node, to, effect, 22 * len(nodes))
            case Dial(address):
                self._dial(node, number_at(address))
            case Refute(incarnation, refuted):
                node.record = replace(
                    node.record, incarnation=incarnation, refuted=refuted, revision=node.record.revision + 1
                )
                record = signed(node.record)
                self._records[record] = node.record
                self._handle(node, Spoke(node.record, record))
            case Drop(peer) | Retire(peer) | Part(peer):
                self._end(node, effect, peer)

    def _end(self, node: Simulated, effect: Effect, peer: NodeId) -> None:
        wire = node.links.get(number_of(peer))
        if wire is None:
            return
        if isinstance(effect, Retire):
            self._send(node, peer, effect, 0)
            return
        other = self.nodes[number_of(peer)]
        if isinstance(effect, Part):
            for one, there in ((node, other), (other, node)):
                if one.links.get(there.number) is wire:
                    del one.links[there.number]
                    self._handle(one, Parted(there.record.id))
            return
        if self._reach(node, other):
            self._at(self.network.packet(), self._lose, other, wire)
        self._at(0.0, self._lose, node, wire)

    def _count(self, node: Simulated, other: NodeId, state: MemberState, before: MemberState | None) -> None:
        """False suspicions and deaths: of a node that runs, is not frozen, and is on our side."""
        there = self.nodes[number_of(other)]
        if state is before or not self._reach(node, there):
            return
        self.suspicions += state is MemberState.SUSPECT and node.core._rows.by_node[other].accused
        self.deaths += state is MemberState.DEAD

    def _reach(self, one: Simulated, other: Simulated) -> bool:
        return one.up and other.up and not other.frozen and not one.frozen and one.side == other.side

    # -- links ------------------------------------------------------------------------------------------------------

    def _dial(self, node: Simulated, number: int) -> None:
        node.dials += 1
        address = address_of(number)
        if number >= len(self.nodes):
            self._at(DIAL_TIMEOUT, self._tell, node, DialFailed(address))
        elif number == node.number:
            self._at(0.001, self._tell, node, FoundSelf(address))
        else:
            self._knock(node, number, list(KNOCKS))

    def _knock(self, node: Simulated, number: int, later: list[float]) -> None:
        """TCP tries again and again to reach a host that does not answer; one that is up without the node refuses."""
        other = self.nodes[number]
        took = self.network.handshake() if self._reach(node, other) else None
        refused = node.side == other.side and not other.up and self.dice.random() < 0.5
        if took is not None:
            self._at(took, self._open, node, other)
        elif later and not refused:
            self._at(later[0], self._knock, node, number, later[1:])
        else:
            self._at(0.01, self._tell, node, DialFailed(address_of(number)))

    def _tell(self, node: Simulated, event: Event) -> None:
        if self.nodes[node.number] is node and node.up:
            self._handle(node, event)

    def _open(self, node: Simulated, other: Simulated) -> None:
        address = address_of(other.number)
        if not self._reach(node, other) or self.nodes[other.number] is not other:
            self._tell(node, DialFailed(address))
            return
        wire = node.links.get(other.number)  # where both dialled, one of the two links stays
        if wire is None:
            wire = Wire(node.number, other.number)
            node.links[other.number] = other.links[node.number] = wire
        for one in (node, other):
            one.sent += len(signed(one.record)) + 1500  # certificates
            one.messages += 1
        for one in (node, other):
            wire.stalled.pop(one.number, None)
            wire.free.pop(one.number, None)
        mine, theirs = node.record, other.record
        self._handle(node, LinkedUp(theirs, address))
        self._handle(other, LinkedUp(mine, None))

    def _lose(self, node: Simulated, wire: Wire) -> None:
        peer = wire.other(node.number)
        if node.links.get(peer) is wire:
            del node.links[peer]
            self._handle(node, LinkLost(node_id(peer)))

    def _reset(self, node: Simulated) -> None:
        """Its links whose other end is gone meanwhile are reset."""
        for peer, wire in node.links.items():
            there = self.nodes[peer]
            if self._reach(node, there) and there.links.get(node.number) is not wire:
                self._at(self.network.packet(), self._lose, node, wire)

    def _send(self, node: Simulated, to: NodeId, message: Any, size: int) -> None:
        wire = node.links.get(number_of(to))
        if wire is None:
            return
        node.sent += size + FRAME
        node.messages += 1
        other = wire.other(node.number)
        arrives = max(self.now + self.network.packet(), wire.free.get(other, 0.0))
        wire.free[other] = arrives
        self._at(arrives - self.now, self._arrive, self.nodes[other], wire, message)

    def _arrive(self, node: Simulated, wire: Wire, message: Any) -> None:
        source = self.nodes[wire.other(node.number)]
        if node.links.get(source.number) is not wire or self.nodes[node.number] is not node:
            return
        if node.frozen:
            node.late.append((wire, message))
        elif source.side == node.side:
            self._deliver(node, wire, message)

    def _deliver(self, node: Simulated, wire: Wire, message: Any) -> None:
        source = node_id(wire.other(node.number))
        match message:
            case Tell(_, news, claims):
                for one in news:
                    record = self._records[one]
                    if node.core.is_news(record):
                        self._handle(node, RecordHeard(record, one, source))
                for claim in claims:
                    self._handle(node, ClaimHeard(claim, source))
            case ShowDigest(_, sums):
                self._handle(node, DigestHeard(sums, source))
            case ShowVersions(_, buckets, versions):
                self._handle(node, VersionsHeard(buckets, versions, source))
            case Ask(_, nodes):
                self._handle(node, Asked(nodes, source))
            case Retire():
                self._handle(node, RetireHeard(source))
            case (document, hops):
                self._merge(node, document, source, hops)

    def _merge(self, node: Simulated, document: Document, source: NodeId | None, hops: int) -> None:
        """As LedgerSync does: what is news is told to all links but the one it came by."""
        if node.ledger.merge([document], self._verified):
            self.rounds[node.number] = hops
            for peer in list(node.links):
                if node_id(peer) != source:
                    self._send(node, node_id(peer), (document, hops + 1), len(document.body) + 256)
