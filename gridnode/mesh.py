"""Keeps this node linked to its peers: feeds the Membership what happens and carries out its effects."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import msgspec
import structlog

from gridnode import messages
from gridnode.errors import BodyInvalid, GridError, LinkClosed
from gridnode.link.pool import LinkPool
from gridnode.link.protocol import Link
from gridnode.membership import (
    Changed,
    Dial,
    DialFailed,
    Effect,
    Event,
    Forget,
    FoundSelf,
    LeaveHeard,
    LinkedUp,
    LinkLost,
    Membership,
    RecordHeard,
    Sighted,
    TellSightings,
    Tick,
)
from gridnode.model import Address, Member, MemberState, NodeId, NodeRecord, Sighting
from gridnode.wire import Frame, Op

log = structlog.get_logger()

_MAX_SIGHTINGS = 1024
_COMPARE_EVERY = 10.0
_ANEW_EVERY = 1.0
"""Seconds between links that one peer has us dial anew: one that claims more with every record gains little."""
_TOLD_WITHIN = 1.0
_CLOSED_WITHIN = 1.0


class Mesh:
    """dialler: opens a link; on_change: rows or records changed; on_link: a peer is newly linked; on_event: others."""

    def __init__(
        self,
        record: NodeRecord,
        membership: Membership,
        links: LinkPool,
        dialler: Callable[[Address], Awaitable[Link]],
        on_change: Callable[[], None],
        on_link: Callable[[Link], None],
        on_event: Callable[[NodeId, Frame], None],
    ) -> None:
        self._record = record
        self._told = record.revision
        self._membership = membership
        self._links = links
        self._dialler = dialler
        self._on_change = on_change
        self._on_link = on_link
        self._on_event = on_event
        self._loop = asyncio.get_running_loop()
        self._compare_due = self._loop.time() + _COMPARE_EVERY
        self._compare_turn = 0
        self._anew: dict[NodeId, float] = {}
        self._dials: set[asyncio.Task[None]] = set()

    # -- this node --------------------------------------------------------------------------------------------------

    def record(self) -> NodeRecord:
        return self._record

    def update(self, at_once: bool = False, **changes: object) -> None:
        """Change what this node says of itself; peers hear it now, or at the next tick."""
        if all(getattr(self._record, name) == value for name, value in changes.items()):
            return
        self._record = msgspec.structs.replace(self._record, revision=self._record.revision + 1, **changes)
        self._on_change()
        if at_once:
            self._tell_record()

    # -- the others -------------------------------------------------------------------------------------------------

    def members(self) -> list[Member]:
        """This node and every peer it knows; `since` in unix seconds."""
        offset = time.time() - self._loop.time()
        peers = [Member(row.record, row.state, row.since + offset) for row in self._membership.members()]
        return [Member(self._record, MemberState.ALIVE, float(self._record.started)), *peers]

    def alive(self) -> list[tuple[NodeRecord, Link]]:
        """Peers that can be called now."""
        members = ((row, self._links.get(row.record.id)) for row in self._membership.members())
        return [(row.record, link) for row, link in members if row.state is MemberState.ALIVE and link and link.is_open]

    def get(self, node: NodeId) -> Member | None:
        return self._membership.get(node)

    def sighted(self, sighting: Sighting, seed: bool = False) -> None:
        self._handle(Sighted(sighting, seed))

    def forget(self, node: NodeId, incarnation: int) -> None:
        """An operator says that it is gone, up to this incarnation."""
        self._handle(Forget(node, incarnation))

    async def run(self, tick: float) -> None:
        """Until cancelled: let time pass for membership and links."""
        while True:
            try:
                self._pass_time()
            except Exception:
                log.exception("a tick of the mesh failed")
            await asyncio.sleep(tick)

    def _pass_time(self) -> None:
        now = self._loop.time()
        self._links.tick(now)
        if self._told != self._record.revision:
            self._tell_record()
        self._handle(Tick())
        if now >= self._compare_due:
            self._compare_due = now + _COMPARE_EVERY
            self._compare_with_one()

    def _compare_with_one(self) -> None:
        """Show our ledger to one peer, each in turn: what an event lost is made good."""
        linked = sorted(node for node, link in self._links if link.is_open)
        if linked:
            self._compare_turn += 1
            link = self._links.get(linked[self._compare_turn % len(linked)])
            if link:
                self._on_link(link)

    async def drain(self) -> None:
        """Tell peers to place no more calls here; returns once each has taken it in, or has not answered for long."""
        self.update(at_once=True, draining=True)
        # What was sent on a link is read in order: an answer to this proves that the record was read before.
        asked = [link.request(Op.RELEASE_STATUS, timeout=_TOLD_WITHIN) for _, link in self._links if link.is_open]
        await asyncio.gather(*asked, return_exceptions=True)

    async def leave(self) -> None:
        """Say goodbye and close every link, when what was queued on it has been sent."""
        dials = list(self._dials)
        for dial in dials:
            dial.cancel()
        if dials:
            await asyncio.wait(dials)
        links = [link for _, link in self._links]
        for link in links:
            link.event(Op.LEAVE)
        self._links.close()
        if links:
            await asyncio.wait([asyncio.ensure_future(link.wait_closed()) for link in links], timeout=_CLOSED_WITHIN)

    def tell(self, op: Op, body: bytes, but: NodeId | None = None) -> None:
        """Send an event to every linked peer, except `but`."""
        for node, link in self._links:
            if node != but:
                link.event(op, body)

    # -- what links report ------------------------------------------------------------------------------------------

    def linked(self, link: Link, record: NodeRecord) -> None:
        """A peer's hello arrived."""
        if record.id == self._record.id:
            if link.address:
                self._handle(FoundSelf(link.address))
            link.close()
            return
        known, held = self._membership.get(record.id), self._links.get(record.id)
        if held and known and record.incarnation > known.record.incarnation:
            held.abort(LinkClosed("the node has started anew"))
        is_main = self._links.add(record.id, link)
        self._handle(LinkedUp(record, link.address))
        if is_main:
            self._on_link(link)
            self._on_change()

    def dial_anew(self, node: NodeId | None = None) -> None:
        """Replace links that this node dialled, to one peer or to all, for a certificate has changed.

        Calls under way end on the old one. A link lasts no longer than what it was opened with.
        """
        for peer, link in self._links:
            if link.address and node in (None, peer):
                self._carry_out(Dial(link.address))

    def _certified_anew(self, node: NodeId) -> None:
        """A peer says that its certificate lasts longer than it said."""
        now = self._loop.time()
        self._anew = {one: at for one, at in self._anew.items() if now - at < _ANEW_EVERY}
        if node not in self._anew:
            self._anew[node] = now
            self.dial_anew(node)

    def unlinked(self, link: Link, node: NodeId) -> None:
        if self._links.remove(node, link):
            self._handle(LinkLost(node))

    def heard(self, node: NodeId, frame: Frame) -> None:
        """An event from a peer; garbage is logged and dropped."""
        try:
            if frame.op == Op.RECORD:
                record = messages.decode_record(frame.body)
                if record.id == node:
                    known = self._membership.get(node)
                    self._handle(RecordHeard(record))
                    if known and record.until > known.record.until:
                        self._certified_anew(node)
            elif frame.op == Op.GOSSIP:
                for sighting in messages.decode(frame.body, list[Sighting])[:_MAX_SIGHTINGS]:
                    self._handle(Sighted(sighting))
            elif frame.op == Op.LEAVE:
                self._handle(LeaveHeard(node))
            else:
                self._on_event(node, frame)
        except BodyInvalid as exc:
            log.warning("malformed event from a peer", peer=node, op=frame.op, error=exc.message)

    # -- inside -----------------------------------------------------------------------------------------------------

    def _handle(self, event: Event) -> None:
        for effect in self._membership.handle(event, self._loop.time()):
            self._carry_out(effect)

    def _carry_out(self, effect: Effect) -> None:
        match effect:
            case Dial(address):
                dial = asyncio.create_task(self._dial(address), name="dial")
                self._dials.add(dial)
                dial.add_done_callback(self._dials.discard)
            case TellSightings(to, sightings):
                link = self._links.get(to)
                if link:
                    link.event(Op.GOSSIP, messages.encode(sightings))
            case Changed(member, before):
                if member.state is not before:
                    log.info("member", name=member.record.name, node=member.record.id, state=member.state, was=before)
                self._on_change()

    async def _dial(self, address: Address) -> None:
        try:
            link = await self._dialler(address)
            await link.wait_open()
        except GridError as exc:
            log.debug("dial failed", address=str(address), error=exc.message)
            self._handle(DialFailed(address))
        except Exception:
            log.exception("dial failed", address=str(address))
            self._handle(DialFailed(address))

    def _tell_record(self) -> None:
        self._told = self._record.revision
        self.tell(Op.RECORD, messages.encode(self._record))
