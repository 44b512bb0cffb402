"""The accepting end of links, and of calls on all of them: who may ask what, and who answers."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

import msgspec
import structlog

from gridnode import messages, wire
from gridnode.errors import Forbidden, FrameInvalid, GridError, LinkClosed, NoCapacity, NotAuthenticated
from gridnode.flow import Stream
from gridnode.link import Cancel
from gridnode.link.protocol import Link
from gridnode.messages import Hello, ReplyMeta
from gridnode.model import Done, Invocation, InvocationId, NodeId, NodeRecord, Outcome, Role, TaskName
from gridnode.wire import Frame, Op

log = structlog.get_logger()
_MAX_GUESTS = 256
"""Links of operators, and as many of peers that fetch chunks."""
_MAX_BULK = 4
_GUEST_SILENT = 60.0
_encode = msgspec.json.Encoder().encode

Answer = Callable[[Frame], Awaitable[bytes]]
"""Answers one control Call with the Reply's body, or raises a GridError."""
Invoke = Callable[[Invocation, Done, Frame], Cancel]
"""Runs an INVOKE: for a peer on this node's pool only, for a client through the router."""


Take = Callable[[Link, Frame], None]
"""Answers a Call by itself, at once or later; raises a GridError to refuse it."""


class Mesh(Protocol):
    """What links tell of peers."""

    def shown(self) -> NodeRecord: ...
    def linked(self, link: Link, record: NodeRecord) -> None: ...
    def unlinked(self, link: Link, node: NodeId) -> None: ...
    def heard(self, node: NodeId, frame: Frame) -> None: ...


class LinkServer:
    """One for all links of a node to peers and operators. ops, invokes and takes: what each role may ask for.

    timeout: seconds a call of a task may take when its caller does not say. on_seen: a peer says where it sees us.
    """

    def __init__(
        self,
        mesh: Mesh,
        ops: Mapping[tuple[Role, int], Answer],
        invokes: Mapping[Role, Invoke],
        timeout: Callable[[TaskName], float],
        max_timeout: float,
        takes: Mapping[tuple[Role, int], Take] | None = None,
        on_seen: Callable[[NodeId, str], None] | None = None,
    ) -> None:
        self._mesh = mesh
        self._ops = ops
        self._invokes = invokes
        self._timeout = timeout
        self._max_timeout = max_timeout
        self._takes = takes or {}
        self._on_seen = on_seen
        self._loop = asyncio.get_running_loop()
        self._guests: set[Link] = set()
        self._answers: set[asyncio.Task[None]] = set()

    def hello(self, link: Link) -> bytes:
        seen = link.peer.host if link.peer else ""
        return messages.encode_hello(Hello(wire.VERSION, self._mesh.shown(), seen=seen))

    def opened(self, link: Link, body: bytes) -> None:
        hello = messages.decode_hello(body)
        if hello.version != wire.VERSION:
            raise FrameInvalid(f"wire version {hello.version} is not spoken here, only {wire.VERSION}")
        peer = link.peer
        if peer is None:
            raise NotAuthenticated("the link has no identity")
        if peer.role is Role.NODE and not hello.bulk:
            if hello.record is None or hello.record.id != peer.node:
                raise NotAuthenticated("a node's hello must carry its own record")
            self._mesh.linked(link, hello.record)
            if self._on_seen and hello.seen:
                self._on_seen(peer.node, hello.seen)
        else:
            self._take_guest(link)

    def _take_guest(self, link: Link) -> None:
        """A link that is no peer's main one. Peers that fetch have a budget each: none can shut an operator out."""
        same = [guest.peer for guest in self._guests if guest.peer and link.peer and guest.peer.role is link.peer.role]
        mine = sum(peer == link.peer for peer in same)
        if len(same) >= _MAX_GUESTS or (link.peer and link.peer.role is Role.NODE and mine >= _MAX_BULK):
            raise NoCapacity(f"{len(same)} such links are open already")
        self._guests.add(link)

    def tick(self, now: float) -> None:
        """Ping the guests now and then, and drop those that have vanished."""
        for link in list(self._guests):
            silent = now - link.last_heard
            if silent > _GUEST_SILENT:
                link.abort(LinkClosed(f"silent for {_GUEST_SILENT:g} s"))
            elif silent > _GUEST_SILENT / 3:
                link.ping()

    async def part(self, within: float) -> None:
        """Tell clients that this node is going, and wait for those that go elsewhere, so many seconds at most."""
        clients = [link for link in self._guests if link.peer and link.peer.role is not Role.NODE]
        for link in clients:
            link.event(Op.LEAVE)
        closing = [asyncio.ensure_future(link.wait_closed()) for link in clients]
        if closing:
            _, staying = await asyncio.wait(closing, timeout=within)
            for job in staying:
                job.cancel()

    def closed(self, link: Link, error: GridError | None) -> None:
        self._guests.discard(link)
        if link.peer and link.peer.role is Role.NODE:
            self._mesh.unlinked(link, link.peer.node)

    def heard(self, link: Link, frame: Frame) -> None:
        if link.peer and link.peer.role is Role.NODE:
            self._mesh.heard(link.peer.node, frame)

    def called(self, link: Link, frame: Frame) -> None:
        peer = link.peer
        if peer is None:
            raise NotAuthenticated("the link has no identity")
        invoke = self._invokes.get(peer.role) if frame.op == Op.INVOKE else None
        if invoke:
            self._invoke(link, frame, invoke)
            return
        take = self._takes.get((peer.role, frame.op))
        if take:
            take(link, frame)
            return
        answer = self._ops.get((peer.role, frame.op))
        if answer is None:
            raise Forbidden(f"op {frame.op} is unknown or not for a {peer.role}")
        job = asyncio.create_task(_answer(link, frame, answer), name=f"op-{frame.op}")
        self._answers.add(job)
        job.add_done_callback(self._answers.discard)
        link.on_cancel(frame.call_id, lambda: _stop(job))

    def _invoke(self, link: Link, frame: Frame, invoke: Invoke) -> None:
        call_id = frame.call_id
        seconds = min(frame.deadline_ms / 1000 or self._timeout(TaskName(frame.name)), self._max_timeout)
        deadline = self._loop.time() + seconds
        stream = _stream(link, call_id) if frame.flags & wire.FLAG_STREAM else None
        call = Invocation(InvocationId(""), TaskName(frame.name), frame.body, deadline, frame.meta, stream=stream)

        def done(outcome: Outcome) -> None:
            _reply(link, call_id, outcome)

        link.on_cancel(call_id, invoke(call, done, frame))


def _stream(link: Link, call_id: int) -> Stream:
    """Sends what it takes on to the caller, whose credit is the producer's: nothing waits here."""
    stream = Stream(lambda item: link.part(call_id, item))
    link.streams.serve(call_id, stream.allow)
    return stream


def _reply(link: Link, call_id: int, outcome: Outcome) -> None:
    meta = reply_meta(outcome)
    if outcome.error:
        link.reply_error(call_id, outcome.error, meta)
    else:
        link.reply(call_id, outcome.body, meta)


def reply_meta(outcome: Outcome) -> bytes:
    """Where an invocation ran."""
    return _encode(ReplyMeta(outcome.node, outcome.name, outcome.instance, outcome.attempts))


async def _answer(link: Link, frame: Frame, answer: Answer) -> None:
    try:
        link.reply(frame.call_id, await answer(frame))
    except GridError as exc:
        link.reply_error(frame.call_id, exc)
    except Exception as exc:
        log.exception("op failed", op=frame.op)
        link.reply_error(frame.call_id, GridError(f"internal error: {type(exc).__name__}"))


def _stop(job: asyncio.Task[None]) -> None:
    job.cancel()


class BulkEnd:
    """Our end of a link dialled to a peer to fetch chunks over: we ask, it answers, nothing else."""

    def hello(self, link: Link) -> bytes:
        return messages.encode_hello(Hello(wire.VERSION, bulk=True))

    def opened(self, link: Link, body: bytes) -> None:
        if link.peer is None or link.peer.role is not Role.NODE:
            raise LinkClosed("not a node")

    def called(self, link: Link, frame: Frame) -> None:
        raise Forbidden("no calls on this link")

    def heard(self, link: Link, frame: Frame) -> None:
        return

    def closed(self, link: Link, error: GridError | None) -> None:
        return
