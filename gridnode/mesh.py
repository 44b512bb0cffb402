"""Keeps this node linked to its peers: feeds the Membership what happens and carries out its effects."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import msgspec
import structlog

from gridnode import gossip, messages, wire
from gridnode.errors import BodyInvalid, GridError, LinkClosed, NodeDuplicated, NodeNotFound
from gridnode.hearsay import Hearsay
from gridnode.hellos import Hellos, is_same_life
from gridnode.link.pool import LinkPool
from gridnode.link.protocol import Link
from gridnode.membership import Membership
from gridnode.model import Address, Load, Member, MemberState, NodeId, NodeRecord, Sighting
from gridnode.swim.events import (
    Ask,
    Changed,
    Dial,
    DialFailed,
    Drop,
    Effect,
    Event,
    Forget,
    FoundSelf,
    LinkedUp,
    LinkLost,
    Part,
    Parted,
    Refute,
    Retire,
    ShowDigest,
    ShowVersions,
    Sighted,
    Spoke,
    Tell,
    Tick,
    Twin,
    Wanted,
)
from gridnode.task_lists import digest_of
from gridnode.wire import Frame, Op

log = structlog.get_logger()

_COMPARE_EVERY = 10.0
_TOLD_WITHIN = 1.0
_CLOSED_WITHIN = 1.0
_REACHED_WITHIN = 3.0
_COMPLAIN_EVERY = 60.0
_PING_AFTER = 0.45
_PING_AFTER_APART = 0.95
"""Seconds without a word of a peer until it is pinged, in a full mesh and in a larger grid."""
_TWIN = "another machine with this node's key is in the grid"
_TWIN_HINT = "was a disk cloned? stop one of the two, remove node.key from its data directory, and start it again"


class Mesh:
    """dialler: opens a link; on_change: rows or records changed; on_link: a peer is newly linked; on_event: others.

    sign: this node's record as it travels.
    """

    def __init__(
        self,
        record: NodeRecord,
        membership: Membership,
        links: LinkPool,
        dialler: Callable[[Address], Awaitable[Link]],
        on_change: Callable[[], None],
        on_link: Callable[[Link], None],
        on_event: Callable[[NodeId, Frame], None],
        sign: Callable[[NodeRecord], bytes],
    ) -> None:
        self._record = record
        self._told: NodeRecord | None = None
        self._membership = membership
        self._links = links
        self._dialler = dialler
        self._on_change = on_change
        self._on_link = on_link
        self._on_event = on_event
        self._sign = sign
        self._loop = asyncio.get_running_loop()
        self._hearsay = Hearsay(membership, self._handle, links.get, self._changed)
        self._compare_due = self._loop.time() + _COMPARE_EVERY
        self._compare_turn = 0
        self._complain_due = 0.0
        self._hellos = Hellos()
        self._dials: set[asyncio.Task[None]] = set()
        self._waiting: dict[NodeId, set[asyncio.Future[None]]] = {}
        self._speak()

    # -- this node --------------------------------------------------------------------------------------------------

    def record(self) -> NodeRecord:
        return self._record

    def shown(self) -> NodeRecord:
        """The record as others are told it: its tasks stay behind, and peers ask for them by their digest."""
        return msgspec.structs.replace(self._record, tasks=(), served=digest_of(self._record.tasks))

    def update(self, at_once: bool = False, **changes: object) -> None:
        """Change what this node says of itself; peers hear it now, or at the next tick."""
        if all(getattr(self._record, name) == value for name, value in changes.items()):
            return
        said = self._record.revision + (changes.keys() != {"load"})
        self._record = msgspec.structs.replace(self._record, revision=said, **changes)
        self._on_change()
        if at_once:
            self._speak()

    def _speak(self) -> None:
        """Tell what is new since the last time: the load to those that are linked, the rest to all, signed."""
        before, self._told = self._told, self._record
        if before is None or before.revision != self._record.revision:
            shown = msgspec.structs.replace(self.shown(), load=Load())
            self._hearsay.lists.serve(self._record.tasks)
            self._handle(Spoke(shown, self._sign(shown)))
        if before and before.load != self._record.load:
            self.tell(Op.LOAD, messages.encode(self._record.load))

    # -- the others -------------------------------------------------------------------------------------------------

    def members(self) -> list[Member]:
        """This node and every peer it knows; `since` in unix seconds."""
        offset = time.time() - self._loop.time()
        rows = self._membership.members()
        peers = [Member(self._hearsay.whole(row.record), row.state, row.since + offset) for row in rows]
        return [Member(self._record, MemberState.ALIVE, float(self._record.started)), *peers]

    def alive(self) -> list[tuple[NodeRecord, Link]]:
        """Peers that are linked and can be called now."""
        linked = ((record, self._links.get(record.id)) for record in self.reachable())
        return [(record, link) for record, link in linked if link and link.is_open]

    def reachable(self) -> list[NodeRecord]:
        """Peers that are alive: all of them are linked in a full mesh, the others are on demand."""
        rows = self._membership.members()
        return [self._hearsay.whole(row.record) for row in rows if row.state is MemberState.ALIVE]

    def apart(self) -> list[NodeRecord]:
        """Peers that are alive and linked on demand only; none in a full mesh, where one that is not linked is ill."""
        if self.is_full_mesh():
            return []
        return [record for record in self.reachable() if self._links.get(record.id) is None]

    def get(self, node: NodeId) -> Member | None:
        return self._membership.get(node)

    def is_full_mesh(self) -> bool:
        return self._membership.is_full_mesh

    def sighted(self, sighting: Sighting, seed: bool = False) -> None:
        self._handle(Sighted(sighting, seed))

    async def reach(self, node: NodeId) -> Link:
        """An open link to a peer, dialled if need be; raises NodeNotFound, or LinkClosed."""
        link = self._links.get(node)
        if link is None or not link.is_open:
            member = self._membership.get(node)
            if member is None or member.state is not MemberState.ALIVE:
                raise NodeNotFound(f"{node[:12]} is no node that can be reached from here now")
            await self._wait_for(node)
            link = self._links.get(node)
        if link is None or not link.is_open:
            raise LinkClosed(f"{node[:12]} is not linked to this node", hint="it may be gone: gridctl ls shows it")
        return link

    async def _wait_for(self, node: NodeId) -> None:
        waiting = self._loop.create_future()
        others = self._waiting.setdefault(node, set())
        others.add(waiting)
        self._handle(Wanted(node))
        try:
            await asyncio.wait([waiting], timeout=_REACHED_WITHIN)
        finally:
            waiting.cancel()
            others.discard(waiting)
            if not others and self._waiting.get(node) is others:
                self._waiting.pop(node, None)

    async def task_list(self, frame: Frame) -> bytes:
        """Answers TASKS."""
        tasks = self._hearsay.lists.get(frame.name)
        if tasks is None:
            raise BodyInvalid("no such list of tasks is known here")
        return messages.encode(tasks)

    # -- time -------------------------------------------------------------------------------------------------------
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
        quiet = self._links.tick(now, _PING_AFTER if self.is_full_mesh() else _PING_AFTER_APART)
        if self._told is not self._record:
            self._speak()
        self._handle(Tick(quiet, {node for node, link in self._links if link.busy}))
        if now >= self._compare_due:
            self._compare_due = now + _COMPARE_EVERY
            self._compare_with_one()

    def _compare_with_one(self) -> None:
        """Show our ledger to one peer, each in turn: what an event lost is made good."""
        self._hearsay.tidy()
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
        self._hearsay.close()
        self.update(at_once=True, gone=True)
        links = [link for _, link in self._links]
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
        if self._is_taken(link, record):
            self._refuse(link, record)
            return
        if record.id == self._record.id:
            if link.address:
                self._handle(FoundSelf(link.address))
            link.close()
            return
        held = self._links.get(record.id)
        if held and not self._hellos.is_same_life(record):
            held.abort(LinkClosed("the node has started anew"))
        is_main = self._links.add(record.id, link)
        self._hellos[record.id] = record
        self._handle(LinkedUp(record, link.address))
        for waiting in self._waiting.pop(record.id, ()):
            if not waiting.done():
                waiting.set_result(None)
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

    def _is_taken(self, link: Link, record: NodeRecord) -> bool:
        """Whether another machine has this id: ourselves, or one that still speaks on its own link."""
        if record.id == self._record.id:
            return not is_same_life(record, self._record)
        held = self._links.get(record.id)
        is_heard = held is not None and held.is_open and self._loop.time() - held.last_heard < 2 * _PING_AFTER_APART
        return is_heard and not self._hellos.is_same_life(record)

    def _refuse(self, link: Link, record: NodeRecord) -> None:
        error = NodeDuplicated(f"{record.name} ({record.id[:12]}): {_TWIN}", hint=_TWIN_HINT)
        self._complain(error.message)
        link.event(Op.REFUSED, wire.encode_error(error))
        link.close(error)
        if link.address:
            self._handle(DialFailed(link.address))

    def _complain(self, why: str) -> None:
        now = self._loop.time()
        if now >= self._complain_due:
            self._complain_due = now + _COMPLAIN_EVERY
            log.error("a node id is used twice", why=why, hint=_TWIN_HINT)

    def unlinked(self, link: Link, node: NodeId) -> None:
        if self._links.remove(node, link):
            self._hellos.pop(node, None)
            self._handle(LinkLost(node))

    def heard(self, node: NodeId, frame: Frame) -> None:
        """An event from a peer; garbage is logged and dropped."""
        try:
            if frame.op == Op.REFUSED:
                self._complain(wire.decode_error(frame.body).message)
            elif not self._hearsay.heard(node, frame):
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
            case Changed(member, before):
                self._hearsay.want(member.record)
                if self._hellos.outlasts(member.record, self._loop.time()):
                    self.dial_anew(member.record.id)
                if member.state is not before:
                    log.info("member", name=member.record.name, node=member.record.id, state=member.state, was=before)
                self._changed()
            case Refute(incarnation, refuted):
                self.update(at_once=True, incarnation=incarnation, refuted=refuted)
            case Drop(node):
                self._links.drop(node, "nothing was heard of the node")
            case Part(node):
                if link := self._links.get(node):
                    link.event(Op.RETIRE)
                    self._links.retire(node)
                    self._handle(Parted(node))
            case Twin(record):
                self._complain(f"{record.name}: {_TWIN}")
            case _:
                self._send(effect)

    def _send(self, effect: Tell | ShowDigest | ShowVersions | Ask | Retire) -> None:
        match effect:
            case Tell(node, news, claims):
                op, body = Op.GOSSIP, gossip.encode_gossip(news, claims)
            case ShowDigest(node, sums):
                op, body = Op.DIGEST, sums
            case ShowVersions(node, buckets, versions):
                op, body = Op.VERSIONS, gossip.encode_versions(buckets, versions)
            case Ask(node, nodes):
                op, body = Op.RECORDS_ASK, gossip.encode_ask(nodes)
            case Retire(node):
                op, body = Op.RETIRE, b""
        if link := self._links.get(node):
            link.event(op, body)

    def _changed(self) -> None:
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
