"""Who is in the grid, as seen from one node: events and a clock in, effects out.

A peer is alive while a link to it stands. A lost link makes it *suspect*; unless a link comes back within
`suspect_after` it is *dead*. Sightings are hints where to dial; only a completed handshake makes a member.
Dead members are dialled again, ever more rarely, and forgotten after `forget_after`.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from gridnode.model import Address, Member, MemberState, NodeId, NodeRecord, Sighting


@dataclass(frozen=True, slots=True)
class MembershipLimits:
    """Seconds, and bounds on what peers can make us remember."""

    suspect_after: float = 3.0
    forget_after: float = 24 * 3600.0
    redial_first: float = 0.25
    redial_last: float = 5.0
    yield_dial: float = 0.5
    gossip_every: float = 5.0
    max_members: int = 1024
    max_addresses: int = 4096
    """In all; a sixty-fourth of it for one node."""
    dials_at_once: int = 32
    """Started in one tick: what a peer tells must not make this node a flood."""


class Sighted(NamedTuple):
    """Somebody may listen there; `seed` addresses are never given up."""

    sighting: Sighting
    seed: bool = False


class DialFailed(NamedTuple):
    address: Address


class LinkedUp(NamedTuple):
    """A handshake with this node is complete; `address` is where we dialled it, if it was us who did."""

    record: NodeRecord
    address: Address | None = None


class LinkLost(NamedTuple):
    """The last link to this node is gone."""

    node: NodeId


class FoundSelf(NamedTuple):
    """Dialling this address reached ourselves."""

    address: Address


class RecordHeard(NamedTuple):
    """A linked node says this of itself."""

    record: NodeRecord


class LeaveHeard(NamedTuple):
    node: NodeId


class Forget(NamedTuple):
    """An operator says that this node is gone for good, up to an incarnation; one that is linked stays."""

    node: NodeId
    incarnation: int


class Tick(NamedTuple):
    """Time has passed."""


Event = Sighted | DialFailed | LinkedUp | LinkLost | FoundSelf | RecordHeard | LeaveHeard | Forget | Tick


class Dial(NamedTuple):
    """Open a link to this address."""

    address: Address


class TellSightings(NamedTuple):
    """Tell this linked peer where others are."""

    to: NodeId
    sightings: tuple[Sighting, ...]


class Changed(NamedTuple):
    """This member's row is new; `before` its state until now, None for a newcomer."""

    member: Member
    before: MemberState | None


Effect = Dial | TellSightings | Changed


@dataclass(slots=True)
class _Row:
    record: NodeRecord
    state: MemberState
    since: float
    linked: bool

    def member(self) -> Member:
        return Member(self.record, self.state, self.since)


@dataclass(slots=True)
class _Address:
    """One place to dial. due: when next, None while a dial is under way or its node is linked."""

    node: NodeId | None
    seed: bool
    due: float | None
    failures: int = 0
    is_self: bool = False
    good: bool = False
    """A dial led to its node, and none has failed since."""


@dataclass(slots=True)
class Membership:
    """The rows of all peers. `now` is unix seconds, the same clock for every call."""

    self_id: NodeId
    limits: MembershipLimits = field(default_factory=MembershipLimits)
    _rows: dict[NodeId, _Row] = field(default_factory=dict)
    _addresses: dict[Address, _Address] = field(default_factory=dict)
    _gossip_due: float = 0.0
    _gossip_turn: int = 0

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Take one event; what to do about it, in order."""
        match event:
            case Sighted(sighting, seed):
                self._sighted(sighting, seed, now)
                return []
            case DialFailed(address):
                self._dial_failed(address, now)
                return []
            case FoundSelf(address):
                self._found_self(address)
                return []
            case LinkedUp(record, address):
                self._dialled(record, address)
                return self._linked_up(record, now)
            case LinkLost(node):
                return self._lost(node, MemberState.SUSPECT, now)
            case RecordHeard(record):
                return self._record_heard(record, now)
            case LeaveHeard(node):
                return self._lost(node, MemberState.LEFT, now)
            case Forget(node, incarnation):
                self._forget_gone(node, incarnation)
                return []
            case Tick():
                return self._tick(now)

    def members(self) -> list[Member]:
        return [row.member() for row in self._rows.values()]

    def get(self, node: NodeId) -> Member | None:
        row = self._rows.get(node)
        return row.member() if row else None

    def _sighted(self, sighting: Sighting, seed: bool, now: float) -> None:
        if sighting.node == self.self_id or not _can_be_dialled(sighting.address):
            return
        known = self._addresses.get(sighting.address)
        if known is None:
            if not seed and (len(self._addresses) >= self.limits.max_addresses or self._has_many(sighting.node)):
                return
            self._addresses[sighting.address] = _Address(sighting.node, seed, self._first_dial(sighting.node, now))
        elif not known.is_self:
            if not known.seed and not self._is_at(known.node, sighting.address):
                known.node = sighting.node or known.node
            known.seed |= seed

    def _has_many(self, node: NodeId | None) -> bool:
        """Whether as many addresses as a node may have are known of it: no single one fills the table."""
        return sum(known.node == node for known in self._addresses.values()) >= self.limits.max_addresses // 64

    def _is_at(self, node: NodeId | None, address: Address) -> bool:
        """Whether the node itself says so, which no other's word replaces."""
        row = self._rows.get(node) if node else None
        return row is not None and address in row.record.addresses

    def _first_dial(self, node: NodeId | None, now: float) -> float | None:
        """The lower id dials at once, the higher a little later, so that two nodes rarely dial each other."""
        if node and self._is_linked(node):
            return None
        return now + (self.limits.yield_dial if node and node < self.self_id else 0.0)

    def _is_linked(self, node: NodeId | None) -> bool:
        row = self._rows.get(node) if node else None
        return bool(row and row.linked)

    def _dial_failed(self, address: Address, now: float) -> None:
        known = self._addresses.get(address)
        if known:
            delay = self.limits.redial_first * 2 ** min(known.failures, 16)
            known.failures += 1
            known.good = False
            known.due = now + min(delay, self.limits.redial_last)
            if known.failures > 20 and not known.seed and not self._wanted(known.node):
                del self._addresses[address]

    def _wanted(self, node: NodeId | None) -> bool:
        return node is not None and node in self._rows

    def _found_self(self, address: Address) -> None:
        known = self._addresses.get(address)
        if known:
            known.is_self, known.due, known.node = True, None, None

    def _dialled(self, record: NodeRecord, address: Address | None) -> None:
        known = self._addresses.get(address) if address else None
        if known:
            known.node, known.good = record.id, True

    def _linked_up(self, record: NodeRecord, now: float) -> list[Effect]:
        row = self._rows.get(record.id)
        if row is None and len(self._rows) >= self.limits.max_members:
            return []
        before = row.state if row else None
        if row is None or not row.linked or row.state is not MemberState.ALIVE:
            row = self._rows[record.id] = _Row(record, MemberState.ALIVE, now, linked=True)
        elif _newer(record, row.record):
            row.record = record
        self._learn(record, now)
        return [Changed(row.member(), before), *self._tell(record.id)]

    def _learn(self, record: NodeRecord, now: float) -> None:
        """Remember where a member listens, to dial it when its link is lost."""
        for address in record.addresses:
            self._sighted(Sighting(address, record.id), False, now)
        for known in self._addresses.values():
            if known.node == record.id:
                known.due, known.failures = None, 0

    def _lost(self, node: NodeId, state: MemberState, now: float) -> list[Effect]:
        row = self._rows.get(node)
        if row is None:
            return []
        if state is MemberState.SUSPECT and not row.linked:
            return []
        if state is MemberState.SUSPECT:
            row.linked = False
            self._redial(node, now)
            if row.state is MemberState.LEFT:
                return []
        return self._turn(row, state, now)

    def _redial(self, node: NodeId, now: float) -> None:
        for known in self._addresses.values():
            if known.node == node:
                known.due = self._first_dial(node, now)

    def _turn(self, row: _Row, state: MemberState, now: float) -> list[Effect]:
        before, row.state, row.since = row.state, state, now
        return [Changed(row.member(), before)]

    def _record_heard(self, record: NodeRecord, now: float) -> list[Effect]:
        row = self._rows.get(record.id)
        if row is None or not row.linked or not _newer(record, row.record):
            return []
        if record.addresses != row.record.addresses:
            self._learn(record, now)
        row.record = record
        return [Changed(row.member(), row.state)]

    def _tick(self, now: float) -> list[Effect]:
        effects: list[Effect] = []
        for node, row in list(self._rows.items()):
            if row.state is MemberState.SUSPECT and now - row.since >= self.limits.suspect_after:
                effects += self._turn(row, MemberState.DEAD, now)
            elif not row.linked and now - row.since >= self.limits.forget_after:
                self._forget(node)
        return effects + self._dial_due(now) + self._gossip(now)

    def _forget_gone(self, node: NodeId, incarnation: int) -> None:
        row = self._rows.get(node)
        if row and not row.linked and row.record.incarnation <= incarnation:
            self._forget(node)

    def _forget(self, node: NodeId) -> None:
        del self._rows[node]
        for address, known in list(self._addresses.items()):
            if known.node == node and not known.seed:
                del self._addresses[address]

    def _dial_due(self, now: float) -> list[Effect]:
        """The seeds, then what worked before, then who has waited longest; of one node one address a tick.

        So a node's addresses are tried one after the other, the next before the last has failed, and the first that
        leads to it ends that.
        """
        due: list[tuple[bool, bool, float, Address]] = []
        for address, known in self._addresses.items():
            if self._is_linked(known.node):
                known.due = None
            elif known.due is not None and known.due <= now:
                due.append((not known.seed, not known.good, known.due, address))
        chosen: list[Address] = []
        nodes: set[NodeId | None] = set()
        for *_, address in sorted(due):
            known = self._addresses[address]
            if len(chosen) < self.limits.dials_at_once and (known.node is None or known.node not in nodes):
                chosen.append(address)
                nodes.add(known.node)
                known.due = None
        return [Dial(address) for address in chosen]

    def _gossip(self, now: float) -> list[Effect]:
        """Now and then tell one linked peer, each in turn, where the others are."""
        linked = sorted(node for node, row in self._rows.items() if row.linked)
        if now < self._gossip_due or not linked:
            return []
        self._gossip_due = now + self.limits.gossip_every
        self._gossip_turn += 1
        return self._tell(linked[self._gossip_turn % len(linked)])

    def _tell(self, to: NodeId) -> list[Effect]:
        known = tuple(_sightings(row.record for node, row in self._rows.items() if row.linked and node != to))
        return [TellSightings(to, known)] if known else []


def _can_be_dialled(address: Address) -> bool:
    return 0 < address.port < 65536 and 0 < len(address.host) <= 255


def _newer(record: NodeRecord, than: NodeRecord) -> bool:
    return (record.incarnation, record.revision) > (than.incarnation, than.revision)


def _sightings(records: Iterable[NodeRecord]) -> list[Sighting]:
    return [Sighting(address, record.id) for record in records for address in record.addresses]
