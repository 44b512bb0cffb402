"""Who is in the grid, as seen from one node: SWIM over links. Events and a clock in, effects out.

A linked peer that falls silent, or whose link is lost, is *suspect*: that claim goes round, and to some others with the
request to try for themselves. The suspect objects by signing its record anew, which nobody else can; after a time that
grows with log n it is *dead*. What others claim makes a peer suspect at most, unless three of our links call it dead.
Records travel signed, by rumour, and two nodes in turn compare sums of what they know, so that all converge.
"""

from collections.abc import Mapping, Set
from dataclasses import dataclass, field

from msgspec.structs import replace

from gridnode.model import Address, Claim, Load, Member, MemberState, NodeId, NodeRecord
from gridnode.swim import topology
from gridnode.swim.dialling import Dialling
from gridnode.swim.doubts import Doubts
from gridnode.swim.events import (
    Asked,
    Changed,
    ClaimHeard,
    DialFailed,
    DigestHeard,
    Drop,
    Effect,
    Event,
    Forget,
    FoundSelf,
    LinkedUp,
    LinkLost,
    LoadHeard,
    Part,
    Parted,
    RecordHeard,
    Refute,
    RetireHeard,
    Sighted,
    Spoke,
    Tell,
    Tick,
    Twin,
    VersionsHeard,
    Wanted,
)
from gridnode.swim.exchange import Exchange
from gridnode.swim.limits import MembershipLimits
from gridnode.swim.rows import HERE, Row, Rows, is_newer, life

__all__ = ["Membership", "MembershipLimits"]

ALIVE, SUSPECT, DEAD, LEFT = MemberState.ALIVE, MemberState.SUSPECT, MemberState.DEAD, MemberState.LEFT
_ASK = 3
"""How many others are asked to try to reach a suspect (k in SWIM)."""
_WITNESSES = 3
"""Links that call a suspect dead before we do without waiting: one liar is not enough."""
_TRUST = 15.0
"""Seconds for which our not reaching one that others reach proves nothing, at first."""
_RISES = 3
"""Records of an earlier life, later than ours, that we outbid; more are another machine's."""
_OBJECT_EVERY = 0.5
_SWEEP_EVERY = 60.0


@dataclass(slots=True)
class Membership:
    """The rows of all peers. `now` is the same clock for every call; salt: secret random bytes of this life."""

    self_id: NodeId
    limits: MembershipLimits = field(default_factory=MembershipLimits)
    salt: bytes = b""
    _rows: Rows = field(init=False)
    _dialling: Dialling = field(init=False)
    _exchange: Exchange = field(init=False)
    _doubts: Doubts = field(default_factory=Doubts)
    _accused: bool = False
    _object_due: float = 0.0
    _rises: int = 0
    _sweep_due: float = 0.0

    def __post_init__(self) -> None:
        self._rows = Rows(self.limits.max_members)
        self._dialling = Dialling(self.self_id, self.limits, self._rows)
        self._exchange = Exchange(self.limits, self._rows)

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Take one event; what to do about it, in order."""
        match event:
            case Tick(quiet, busy):
                return self._tick(quiet, busy, now)
            case RecordHeard(record, signed, source):
                return self._record_heard(record, signed, source, now)
            case ClaimHeard(claim, source):
                return self._claim_heard(claim, source, now)
            case LoadHeard(node, load):
                return self._load_heard(node, load)
            case DigestHeard() | VersionsHeard() | Asked():
                return self._exchange.heard(event, now)
            case Spoke(record, signed):
                self._exchange.own, self._exchange.signed = record, signed
                return [Tell(node, (signed,)) for node in self._rows.linked]
            case _:
                return self._on_link(event, now)

    def _on_link(self, event: Event, now: float) -> list[Effect]:
        match event:
            case LinkedUp(record, address):
                return self._linked_up(record, address, now)
            case LinkLost(node):
                return self._link_lost(node, now)
            case RetireHeard(node):
                return [] if self._dialling.keeps(node) else [Part(node)]
            case Parted(node):
                self._unlink(node)
            case Sighted(sighting, seed):
                self._dialling.sighted(sighting, seed, now)
            case DialFailed(address):
                lost = self._dialling.failed(address, now)
                return self._suspect(lost, now) if lost else []
            case FoundSelf(address):
                self._dialling.addresses.found_self(address)
            case Wanted(node):
                return self._dialling.wanted(node, now)
            case Forget(node, incarnation):
                if self._rows.bury(node, incarnation):
                    self._forget(node)
        return []

    def members(self) -> list[Member]:
        return [row.member() for row in self._rows]

    def get(self, node: NodeId) -> Member | None:
        row = self._rows.get(node)
        return row.member() if row else None

    def is_news(self, record: NodeRecord) -> bool:
        """Whether to look at a record closer: an old one is not worth verifying."""
        if record.id == self.self_id:
            own = self._exchange.own
            return own is not None and record.incarnation > own.incarnation
        row = self._rows.get(record.id)
        return row is None or row.signed is None or is_newer(record, row.record)

    @property
    def size(self) -> int:
        """Nodes of the grid that may be alive, this one included."""
        return self._rows.size

    @property
    def is_full_mesh(self) -> bool:
        return self._dialling.is_full_mesh

    # -- links ------------------------------------------------------------------------------------------------------

    def _linked_up(self, record: NodeRecord, address: Address | None, now: float) -> list[Effect]:
        effects: list[Effect] = []
        row = self._rows.get(record.id)
        if row is None:
            row = self._newcomer(record, None, now, proven=True)
            if row is None:
                return []
            effects.append(Changed(row.member(), None))
        else:
            effects += self._back(row, record, now)
        row.linked = row.proven = True
        row.silent, row.trusted = False, 0.0
        row.dialled = address is not None
        self._rows.linked[record.id] = row
        self._dialling.linked(record, address, now)
        if self._exchange.signed:
            effects.insert(0, Tell(record.id, (self._exchange.signed,)))
        return effects + self._exchange.show(record.id)

    def _back(self, row: Row, record: NodeRecord, now: float) -> list[Effect]:
        """It is linked: what was thought of it until now it shall know, to object before everybody."""
        told: list[Effect] = []
        if row.state in (SUSPECT, DEAD) and life(record) <= life(row.record):
            told = [Tell(row.node, (row.signed,) if row.signed else (), (row.claim(),))]
        if is_newer(record, row.record) or row.state is not ALIVE:
            is_same = (record.incarnation, record.revision) == (row.record.incarnation, row.record.revision)
            self._rows.take(row, record, row.signed if is_same else None)
        before = self._rows.turn(row, ALIVE, now) if row.state is not ALIVE else ALIVE
        self._dialling.stale |= before not in (ALIVE, SUSPECT)
        return [Changed(row.member(), before), *told]

    def _link_lost(self, node: NodeId, now: float) -> list[Effect]:
        row = self._unlink(node)
        if row is None:
            return []
        self._dialling.addresses.wake(node, now + self._dialling.yields(node))
        return self._suspect(row, now) if row.state is ALIVE and now >= row.trusted else []

    def _unlink(self, node: NodeId) -> Row | None:
        row = self._rows.linked.pop(node, None)
        if row:
            row.linked = False
            self._dialling.stale = True
        return row

    # -- states -----------------------------------------------------------------------------------------------------

    def _suspect(self, row: Row, now: float, heard: ClaimHeard | None = None) -> list[Effect]:
        before = self._rows.turn(row, SUSPECT, now)
        row.deadline = now + topology.scaled(self.limits.suspect_after, self.size) * self._doubts.stretch(now)
        row.accused = heard is None
        claim = row.claim()
        self._exchange.rumours.accuse(claim, self.size, heard.source if heard else None)
        effects: list[Effect] = [Changed(row.member(), before)]
        if heard is None:
            others = [node for node in self._exchange.next_linked(_ASK + 1) if node != row.node][:_ASK]
            effects += [Tell(node, claims=(row.claim(ask=True),)) for node in others]
        return effects

    def _die(self, row: Row, now: float) -> list[Effect]:
        before = self._rows.turn(row, DEAD, now)
        self._dialling.stale = True
        self._exchange.rumours.accuse(row.claim(), self.size, None)
        self._dialling.addresses.wake(row.node, now + self._dialling.patience())
        return [Changed(row.member(), before), *([Drop(row.node)] if row.linked else [])]

    def _clear(self, row: Row, now: float) -> list[Effect]:
        """A suspect is heard on its own link: it shall object, for the others have our word against it."""
        told = Tell(row.node, claims=(row.claim(),))
        self._doubts.was_wrong(row, now)
        before = self._rows.turn(row, ALIVE, now)
        return [Changed(row.member(), before), told]

    # -- what others say --------------------------------------------------------------------------------------------

    def _record_heard(self, record: NodeRecord, signed: bytes, source: NodeId, now: float) -> list[Effect]:
        if record.id == self.self_id:
            return self._heard_of_self(record)
        row = self._rows.get(record.id)
        if row is None:
            is_gone = record.gone or self._rows.is_buried(record)
            row = None if is_gone else self._newcomer(record, signed, now, proven=False)
            if row is None:
                return []
            self._exchange.rumours.spread(record.id, signed, self.size, source)
            return [Changed(row.member(), None)]
        if not is_newer(record, row.record):
            if row.signed is None and not is_newer(row.record, record):
                row.signed = signed
                self._exchange.rumours.spread(record.id, signed, self.size, source)
            else:
                self._exchange.rumours.known_by(record.id, source)
            return []
        return self._renewed(row, record, signed, source, now)

    def _heard_of_self(self, record: NodeRecord) -> list[Effect]:
        """A later one than ours: of an earlier life, before the clock went back; or a twin's, when it goes on."""
        own = self._exchange.own
        if own is None or record.incarnation <= own.incarnation:
            return []
        self._rises += 1
        return [Refute(record.incarnation + 1, 0)] if self._rises <= _RISES else [Twin(record)]

    def _renewed(self, row: Row, record: NodeRecord, signed: bytes, source: NodeId, now: float) -> list[Effect]:
        before, objects = row.state, life(record) > life(row.record)
        if objects and before is SUSPECT:
            self._doubts.was_wrong(row, now)
        is_moved = record.addresses != row.record.addresses
        load = row.record.load if record.incarnation == row.record.incarnation else record.load
        self._rows.take(row, _with_load(record, load), signed)
        self._exchange.rumours.spread(record.id, signed, self.size, source)
        state = LEFT if record.gone else ALIVE if objects or before is LEFT else before
        if state is not before:
            self._rows.turn(row, state, now)
            self._dialling.stale = True
        effects: list[Effect] = [Changed(row.member(), before)]
        row.silent &= source != record.id
        if objects and before is SUSPECT and (row.silent or not row.linked):
            # Others reach it and we do not: that is our link's fault, for which it need not object again and again.
            row.trusted = now + _TRUST * 2 ** min(row.doubts, 6)
            row.doubts += 1
            effects += [Drop(row.node)] if row.linked else []
        if is_moved or (state is ALIVE and before is DEAD):
            self._dialling.learn(record, now)
        return effects

    def _claim_heard(self, claim: Claim, source: NodeId, now: float) -> list[Effect]:
        if claim.node == self.self_id:
            return self._hear_accusation(claim, source, now)
        row = self._rows.get(claim.node)
        if row is None or life(claim) > life(row.record) or row.state in (DEAD, LEFT):
            return []
        if life(claim) < life(row.record):
            return [Tell(source, (row.signed,))] if row.signed else []
        if row.linked and row.state is ALIVE and not row.silent:
            # We hear it, so this is for it to answer; its record goes round from there.
            return [Tell(row.node, claims=(claim,))]
        effects: list[Effect] = []
        if row.state is ALIVE:
            effects = self._suspect(row, now, ClaimHeard(claim, source))
            if claim.ask:
                self._dialling.addresses.wake(row.node, now)
        if claim.dead:
            row.witnesses.add(source)
            if len(row.witnesses) >= _WITNESSES and (row.silent or not row.linked):
                effects += self._die(row, now)
        return effects

    def _hear_accusation(self, claim: Claim, source: NodeId, now: float) -> list[Effect]:
        own = self._exchange.own
        if own is None or life(claim) > life(own):
            return []
        if life(claim) < life(own):
            return [Tell(source, (self._exchange.signed,))]
        self._accused = True
        return self._object(now)

    def _object(self, now: float) -> list[Effect]:
        """Once in a while: every objection goes round the grid, and a liar could have us make one after the other."""
        own = self._exchange.own
        if own is None or not self._accused or now < self._object_due:
            return []
        self._accused, self._object_due = False, now + _OBJECT_EVERY
        return [Refute(own.incarnation, own.refuted + 1)]

    def _load_heard(self, node: NodeId, load: Load) -> list[Effect]:
        row = self._rows.linked.get(node)
        if row is None or row.record.load == load:
            return []
        row.record = replace(row.record, load=load)
        return [Changed(row.member(), row.state)]

    def _newcomer(self, record: NodeRecord, signed: bytes | None, now: float, proven: bool) -> Row | None:
        """A row for it, unless there is no room."""
        if self._rows.is_full:
            least = self._rows.least(proven)
            if least is None:
                return None
            self._forget(least)
        row = self._rows.add(record, ALIVE, now, topology.rank_of(self.salt, record.id))
        row.signed, row.proven = signed, proven
        self._dialling.stale = True
        self._dialling.learn(record, now)
        return row

    def _forget(self, node: NodeId) -> None:
        self._rows.forget(node)
        self._dialling.addresses.forget(node)
        self._dialling.stale = True

    # -- time -------------------------------------------------------------------------------------------------------

    def _tick(self, quiet: Mapping[NodeId, float] | None, busy: Set[NodeId], now: float) -> list[Effect]:
        linked = self._rows.linked
        for node in linked.keys() & busy:
            linked[node].used = now
        effects = self._object(now)
        if quiet is not None:
            effects += self._listen(quiet, now)
        for row in self._dialling.overdue(now):
            effects += self._suspect(row, now)
        for row in list(self._rows.suspects.values()):
            if quiet is None:  # its objection may be among what is still to be read
                row.deadline = max(row.deadline, now + self.limits.silent_after)
            if now >= row.deadline:
                effects += self._die(row, now)
        self._sweep(now)
        return effects + self._dialling.tick(now) + self._exchange.tick(now)

    def _listen(self, quiet: Mapping[NodeId, float], now: float) -> list[Effect]:
        effects: list[Effect] = []
        for node, row in list(self._rows.linked.items()):
            seconds = quiet.get(node, 0.0)
            if seconds or row.silent or row.retried or row.state is SUSPECT:
                effects += self._listen_to(row, seconds, now)
        return effects

    def _listen_to(self, row: Row, quiet: float, now: float) -> list[Effect]:
        limits, stretch = self.limits, self._doubts.stretch(now)
        after = limits.silent_after if self.is_full_mesh else limits.silent_after_apart
        row.silent = quiet > after * stretch
        if row.silent and row.state is ALIVE and now >= row.trusted:
            return self._suspect(row, now)
        if not row.silent and row.state is SUSPECT:
            return self._clear(row, now)
        if quiet > limits.retry_after * stretch and not self.is_full_mesh:
            return self._dialling.retry(row, now)
        row.retried &= quiet > limits.retry_after
        return []

    def _sweep(self, now: float) -> None:
        """Forget whom nobody has seen for long."""
        if now < self._sweep_due:
            return
        self._sweep_due = now + _SWEEP_EVERY
        for row in list(self._rows):
            if row.state not in HERE and not row.linked and now - row.since >= self.limits.forget_after:
                self._forget(row.node)


def _with_load(record: NodeRecord, load: Load) -> NodeRecord:
    return record if record.load == load else replace(record, load=load)
