"""Two nodes find out what they see differently, and make it good: sums, then versions, then records."""

from dataclasses import dataclass, field

from gridnode.model import MemberState, NodeId, NodeRecord, RecordVersion
from gridnode.swim.events import Ask, Asked, DigestHeard, Effect, ShowDigest, ShowVersions, Signed, Tell, VersionsHeard
from gridnode.swim.limits import MembershipLimits
from gridnode.swim.rows import HERE, Row, Rows, life
from gridnode.swim.rumours import MAX_CLAIMS, MAX_NEWS, Rumours, bucket_of, differing, mark_of, sums_of

_ANSWERS = 4.0
"""Questions a second that one peer gets answered."""


@dataclass(slots=True)
class Exchange:
    """What of `rows`, and of this node's own record, a peer lacks; nothing of the dead, whom it may have forgotten."""

    limits: MembershipLimits
    rows: Rows
    own: NodeRecord | None = None
    signed: Signed = b""
    rumours: Rumours = field(default_factory=Rumours)
    _turn: int = 0
    _gossip_due: float = 0.0
    _compare_due: float = 0.0

    def tick(self, now: float) -> list[Effect]:
        """Pass rumours on to the next few links, and now and then compare with one."""
        effects: list[Effect] = []
        if now >= self._gossip_due:
            self._gossip_due = now + self.limits.gossip_every
            peers = self.next_linked(self.limits.fanout) if self.rumours else []
            told = [(peer, *self.rumours.take(peer)) for peer in peers]
            effects += [Tell(peer, news, claims) for peer, news, claims in told if news or claims]
        if now >= self._compare_due and self.rows.linked:
            self._compare_due = now + self.limits.compare_every
            effects += self.show(self.next_linked(1)[0])
        return effects

    def next_linked(self, count: int) -> list[NodeId]:
        """The next few of our links in turn, in an order of our own."""
        linked = sorted((row.rank, node) for node, row in self.rows.linked.items())
        self._turn = (self._turn + count) % max(1, len(linked))
        return [node for _, node in (linked[self._turn :] + linked[: self._turn])[:count]]

    def heard(self, event: DigestHeard | VersionsHeard | Asked, now: float) -> list[Effect]:
        """A peer compares what it knows with what we know; it gets so many answers a second."""
        source = self.rows.linked.get(event.source)
        if source is None or not source.may_ask(now, _ANSWERS, 2 * _ANSWERS):
            return []
        match event:
            case DigestHeard(sums, node):
                return self.compare(sums, node)
            case Asked(nodes, node):
                return self.give(nodes, node)
        effects = self.answer(event.buckets, event.versions, event.source)
        if effects:  # there was something to make good, so there may be more
            self._compare_due = min(self._compare_due, now + self.limits.gossip_every)
        return effects

    def sums(self) -> bytes:
        marks = [(row.node, row.mark) for row in self.rows if row.state in HERE]
        return sums_of(marks + ([(self.own.id, mark_of(self.own))] if self.own else []))

    def show(self, to: NodeId) -> list[Effect]:
        return [ShowDigest(to, self.sums())]

    def compare(self, sums: bytes, source: NodeId) -> list[Effect]:
        """A peer's sums: tell it all we know where they are not ours."""
        buckets = differing(self.sums(), sums)
        if not buckets:
            return []
        versions = [row.version() for row in self.rows if row.state in HERE and bucket_of(row.node) in buckets]
        if self.own and bucket_of(self.own.id) in buckets:
            own = self.own
            versions.append(RecordVersion(own.id, own.incarnation, own.refuted, own.revision))
        return [ShowVersions(source, buckets, tuple(versions))]

    def answer(self, buckets: frozenset[int], versions: tuple[RecordVersion, ...], source: NodeId) -> list[Effect]:
        """All that a peer knows there: ask for what we lack, tell what it lacks, and object where we think it dead."""
        theirs = {version.node: version for version in versions}
        wanted = [node for node, version in theirs.items() if self._lack(version)]
        claims, news = [], []
        for row in self.rows:
            version = theirs.get(row.node)
            if bucket_of(row.node) not in buckets or row.node == source:
                continue
            if row.state is MemberState.DEAD:
                if version and life(version) <= life(row.record):
                    claims.append(row.claim())
            elif row.signed and (version is None or _is_older(version, row)):
                news.append(row.signed)
        effects: list[Effect] = []
        if wanted:
            effects.append(Ask(source, tuple(wanted[:MAX_NEWS])))
        if news or claims:
            effects.append(Tell(source, tuple(news[:MAX_NEWS]), tuple(claims[:MAX_CLAIMS])))
        return effects

    def give(self, nodes: tuple[NodeId, ...], source: NodeId) -> list[Effect]:
        """The records a peer asks for, as far as we have them."""
        rows = [self.rows.get(node) for node in nodes[:MAX_NEWS]]
        news = [row.signed for row in rows if row and row.signed]
        if self.own and self.own.id in nodes[:MAX_NEWS]:
            news.append(self.signed)
        return [Tell(source, tuple(news))] if news else []

    def _lack(self, version: RecordVersion) -> bool:
        if self.own and version.node == self.own.id:
            return False
        row = self.rows.get(version.node)
        known = (row.record.incarnation, row.record.revision) if row else (-1, -1)
        return (version.incarnation, version.revision) > known or (row is not None and row.signed is None)


def _is_older(version: RecordVersion, row: Row) -> bool:
    return (version.incarnation, version.revision) < (row.record.incarnation, row.record.revision)
