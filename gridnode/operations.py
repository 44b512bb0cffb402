"""What a node answers to whom: the control ops by role, and the two ways an INVOKE may go."""

from collections.abc import Awaitable, Callable
from typing import Protocol

from msgspec.structs import replace

from gridnode import messages
from gridnode.broadcast import Broadcasts
from gridnode.errors import CallTimeout, Forbidden, LedgerError
from gridnode.events import Events
from gridnode.ledger import Document, decode_documents, encode_documents, newest
from gridnode.link import Cancel, Invoker
from gridnode.link.protocol import Link
from gridnode.link.server import Answer, Invoke, Take
from gridnode.messages import CallMeta
from gridnode.model import Done, Invocation, Member, NodeId, ReleaseReport, Role
from gridnode.processes import Processes
from gridnode.round_trips import pong
from gridnode.router import Router
from gridnode.sync.transfer import ChunkOps
from gridnode.wire import Frame, Op

_PEER_TIMEOUT = 5.0
_KEY = b'"key":'


class Ledger(Protocol):
    def documents(self, kind: str = "") -> list[Document]: ...
    async def put(self, document: Document, audit: Document | None = None) -> None: ...


class Operations:
    """me: this node; peer: an open link to another, made if need be, or raises a GridError."""

    def __init__(
        self,
        me: NodeId,
        members: Callable[[], list[Member]],
        peer: Callable[[NodeId], Awaitable[Link]],
        report: Callable[[], ReleaseReport],
        ledger: Ledger,
        chunks: ChunkOps,
        processes: Processes,
        logs: Callable[[bytes], Awaitable[bytes]],
        images: Answer,
        scrub: Callable[[bytes], Awaitable[bytes]],
        issuer: Callable[[], str],
        diagnose: Answer,
        round_trips: Answer,
        files: Answer,
    ) -> None:
        self._me = me
        self._members = members
        self._peer = peer
        self._report = report
        self._ledger = ledger
        self._chunks = chunks
        self._processes = processes
        self._logs = logs
        self._images = images
        self._scrub = scrub
        self._issuer = issuer
        self._diagnose = diagnose
        self._round_trips = round_trips
        self._files = files

    def table(self) -> dict[tuple[Role, int], Answer]:
        """Every control op a role may ask for; whatever is not here is refused."""
        return {
            (Role.OPERATOR, Op.NODES): self._nodes,
            (Role.LOCAL, Op.NODES): self._nodes,
            (Role.USER, Op.NODES): self._nodes,
            (Role.USER, Op.PROCESSES): self._processes.everywhere,
            (Role.USER, Op.LOGS): self._task_logs_of,
            (Role.OPERATOR, Op.RELEASE_STATUS): self._release_status,
            (Role.OPERATOR, Op.PROCESSES): self._processes.everywhere,
            (Role.OPERATOR, Op.LOGS): self._logs_of,
            (Role.OPERATOR, Op.ISSUER): self._there(Op.ISSUER, self._own_issuer),
            (Role.OPERATOR, Op.IMAGES): self._there(Op.IMAGES, self._images),
            (Role.OPERATOR, Op.FILES): self._there(Op.FILES, self._files),
            (Role.OPERATOR, Op.SCRUB): self._there(Op.SCRUB, lambda frame: self._scrub(frame.body)),
            (Role.OPERATOR, Op.DOCTOR): self._there(Op.DOCTOR, self._diagnose),
            (Role.OPERATOR, Op.PING): self._there(Op.PING, pong),
            (Role.OPERATOR, Op.ROUND_TRIPS): self._there(Op.ROUND_TRIPS, self._round_trips),
            (Role.OPERATOR, Op.LEDGER_GET): self._ledger_get,
            (Role.OPERATOR, Op.LEDGER_PUT): self._ledger_put,
            (Role.OPERATOR, Op.CHUNKS_MISSING): lambda frame: self._chunks.missing(frame.body),
            (Role.OPERATOR, Op.CHUNKS_PUT): lambda frame: self._chunks.take(frame.body),
            (Role.OPERATOR, Op.CHUNKS_GET): lambda frame: self._chunks.give(frame.body),
            (Role.NODE, Op.CHUNKS_GET): lambda frame: self._chunks.give(frame.body),
            (Role.NODE, Op.RELEASE_STATUS): self._own_status,
            (Role.NODE, Op.PROCESSES): self._processes.here,
            (Role.NODE, Op.LOGS): self._own_logs,
            (Role.NODE, Op.IMAGES): self._images,
            (Role.NODE, Op.ISSUER): self._own_issuer,
            (Role.NODE, Op.FILES): self._files,
            (Role.NODE, Op.SCRUB): lambda frame: self._scrub(frame.body),
            (Role.NODE, Op.DOCTOR): self._diagnose,
            (Role.NODE, Op.PING): pong,
            (Role.NODE, Op.ROUND_TRIPS): self._round_trips,
        }

    async def _nodes(self, frame: Frame) -> bytes:
        return messages.encode_members(self._members())

    async def _own_status(self, frame: Frame) -> bytes:
        return messages.encode(self._report())

    async def _release_status(self, frame: Frame) -> bytes:
        node = NodeId(frame.name)
        if node in ("", self._me):
            return messages.encode(self._report())
        return await self._ask(node, Op.RELEASE_STATUS)

    async def _own_logs(self, frame: Frame) -> bytes:
        return await self._logs(frame.body)

    async def _logs_of(self, frame: Frame) -> bytes:
        if frame.name in ("", self._me):
            return await self._logs(frame.body)
        return await self._ask(NodeId(frame.name), Op.LOGS, frame.body)

    async def _task_logs_of(self, frame: Frame) -> bytes:
        """As `_logs_of`, but for what gridnode itself logs: it tells of servers and of other clients."""
        if messages.decode_log_query(frame.body).task == messages.OWN_LOG:
            raise Forbidden("gridnode's own log is for operators")
        return await self._logs_of(frame)

    def _there(self, op: Op, own: Answer) -> Answer:
        """This node's own answer, or that of the one whose id is the frame's name."""

        async def answer(frame: Frame) -> bytes:
            if frame.name in ("", self._me):
                return await own(frame)
            return await self._ask(NodeId(frame.name), op, frame.body)

        return answer

    async def _own_issuer(self, frame: Frame) -> bytes:
        return self._issuer().encode()

    async def _ask(self, node: NodeId, op: Op, body: bytes = b"") -> bytes:
        """A peer's answer; what `peer` raises when it cannot be reached, CallTimeout when there is none in time."""
        link = await self._peer(node)
        try:
            return await link.request(op, body, timeout=_PEER_TIMEOUT)
        except TimeoutError as exc:
            raise CallTimeout(f"{node[:12]} did not answer within {_PEER_TIMEOUT:g} s") from exc

    async def _ledger_get(self, frame: Frame) -> bytes:
        return encode_documents(newest(self._ledger.documents(frame.name)))

    async def _ledger_put(self, frame: Frame) -> bytes:
        documents = decode_documents(frame.body)
        if not 0 < len(documents) < 3:
            raise LedgerError(f"expected a document and its audit entry, got {len(documents)}")
        await self._ledger.put(*documents)
        return b""


def takes(events: Events, broadcasts: Broadcasts) -> dict[tuple[Role, int], Take]:
    """Calls that are answered without a job for each."""
    return {
        (Role.OPERATOR, Op.BROADCAST): broadcasts.take,
        (Role.USER, Op.BROADCAST): broadcasts.take,
        (Role.LOCAL, Op.BROADCAST): broadcasts.take,
        (Role.OPERATOR, Op.PUBLISH): events.take_publications,
        (Role.OPERATOR, Op.SUBSCRIBE): events.take_subscription,
        (Role.USER, Op.SUBSCRIBE): events.take_subscription,
        (Role.LOCAL, Op.PUBLISH): events.take_publications,
        (Role.LOCAL, Op.SUBSCRIBE): events.take_subscription,
    }


def invokes(here: Invoker, router: Router) -> dict[Role, Invoke]:
    """A peer's call runs here and nowhere else: a forwarded call cannot be forwarded again."""

    def from_peer(call: Invocation, done: Done, frame: Frame) -> Cancel:
        if _KEY in frame.meta:  # most have none: their metadata passes undecoded
            call = _keyed(call, messages.decode_call_meta(frame.meta))
        return here.invoke(call, done)

    def from_client(call: Invocation, done: Done, frame: Frame) -> Cancel:
        meta = messages.decode_call_meta(frame.meta)
        return router.route(_keyed(call, meta), done, meta.node, meta.spread)

    return {Role.NODE: from_peer, Role.OPERATOR: from_client, Role.USER: from_client, Role.LOCAL: from_client}


def _keyed(call: Invocation, meta: CallMeta) -> Invocation:
    """The call with the idempotency key that its metadata has; raises BodyInvalid for one that cannot be."""
    return replace(call, key=messages.check_key(meta.key)) if meta.key else call
