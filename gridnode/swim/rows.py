"""One row for every peer that is known: what it said of itself, and how it is."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from gridnode.model import Claim, Member, MemberState, NodeId, NodeRecord, RecordVersion
from gridnode.swim.rumours import mark_of

HERE = (MemberState.ALIVE, MemberState.SUSPECT)
"""Whom to count in: a suspect may object yet."""


@dataclass(slots=True)
class Row:
    """rank: topology's; signed: the record as it travels, unknown until heard. proven: it was linked once.

    silent: nothing is heard on its link; retried: another one was tried since. deadline: of a suspect; witnesses: links
    that call it dead; accused: it was us who found it silent. trusted: until when our not being linked to it proves
    nothing, since others are; doubts: how often it came to that. dialled: the link is one of ours; used: when something
    was for it; probed: when it was dialled. tokens: answers it may have now.
    """

    record: NodeRecord
    state: MemberState
    since: float
    rank: int
    mark: int
    signed: bytes | None = None
    linked: bool = False
    silent: bool = False
    retried: bool = False
    proven: bool = False
    deadline: float = 0.0
    witnesses: set[NodeId] = field(default_factory=set)
    trusted: float = 0.0
    doubts: int = 0
    dialled: bool = False
    used: float = -math.inf
    probed: float = 0.0
    accused: bool = False
    tokens: float = 8.0
    refilled: float = 0.0

    @property
    def node(self) -> NodeId:
        return self.record.id

    def member(self) -> Member:
        return Member(self.record, self.state, self.since)

    def claim(self, ask: bool = False) -> Claim:
        """That it is as it is here: suspect or dead."""
        record = self.record
        return Claim(record.id, record.incarnation, record.refuted, self.state is MemberState.DEAD, ask)

    def version(self) -> RecordVersion:
        record = self.record
        return RecordVersion(record.id, record.incarnation, record.refuted, record.revision)

    def may_ask(self, now: float, rate: float, most: float) -> bool:
        """Whether this peer has not had too many answers from us lately."""
        self.tokens = min(most, self.tokens + (now - self.refilled) * rate)
        self.refilled = now
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True


@dataclass(slots=True)
class Rows:
    """At most `most`. When full the oldest dead goes first, then who was only heard of; one that is linked stays.

    buried: whom an operator has forgotten, up to an incarnation.
    """

    most: int
    by_node: dict[NodeId, Row] = field(default_factory=dict)
    linked: dict[NodeId, Row] = field(default_factory=dict)
    suspects: dict[NodeId, Row] = field(default_factory=dict)
    buried: dict[NodeId, int] = field(default_factory=dict)
    here: int = 0

    def __iter__(self) -> Iterator[Row]:
        return iter(self.by_node.values())

    def get(self, node: NodeId) -> Row | None:
        return self.by_node.get(node)

    @property
    def size(self) -> int:
        """Nodes of the grid that may be alive, this one included."""
        return self.here + 1

    @property
    def gone(self) -> int:
        return len(self.by_node) - self.here

    @property
    def is_full(self) -> bool:
        return len(self.by_node) >= self.most

    def least(self, proven: bool) -> NodeId | None:
        """Whom to forget for a newcomer that is proven or not; None when all are worth more."""
        gone = [row for row in self if row.state not in HERE and not row.linked]
        if gone:
            return min(gone, key=lambda row: (row.since, row.node)).node
        unproven = [row for row in self if not row.proven] if proven else []
        return min(unproven, key=lambda row: (row.since, row.node)).node if unproven else None

    def add(self, record: NodeRecord, state: MemberState, now: float, rank: int) -> Row:
        row = self.by_node[record.id] = Row(record, state, now, rank, mark_of(record), refilled=now)
        self.here += state in HERE
        return row

    def forget(self, node: NodeId) -> None:
        row = self.by_node.pop(node)
        self.here -= row.state in HERE
        self.linked.pop(node, None)
        self.suspects.pop(node, None)

    def bury(self, node: NodeId, incarnation: int) -> bool:
        """An operator has it forgotten up to this incarnation; whether there is a row of it to forget."""
        if node in self.buried or len(self.buried) < self.most:
            self.buried[node] = max(incarnation, self.buried.get(node, 0))
        row = self.by_node.get(node)
        return row is not None and not row.linked and row.record.incarnation <= incarnation

    def is_buried(self, record: NodeRecord) -> bool:
        """Whether this is what others remember of a node that is forgotten here."""
        return record.incarnation <= self.buried.get(record.id, -1)

    def turn(self, row: Row, state: MemberState, now: float) -> MemberState:
        """Put it in another state; the one it was in."""
        before, row.state, row.since = row.state, state, now
        self.here += (state in HERE) - (before in HERE)
        self.suspects.pop(row.node, None)
        if state is MemberState.SUSPECT:
            self.suspects[row.node] = row
            row.witnesses, row.accused = set(), False
        return before

    def take(self, row: Row, record: NodeRecord, signed: bytes | None) -> None:
        """This is what the node says of itself now."""
        row.record, row.signed, row.mark = record, signed, mark_of(record)


def is_newer(record: NodeRecord, than: NodeRecord) -> bool:
    return (record.incarnation, record.revision) > (than.incarnation, than.revision)


def life(of: NodeRecord | Claim | RecordVersion) -> tuple[int, int]:
    """What a claim is about: it is moot once the node has objected, or started anew."""
    return of.incarnation, of.refuted
