"""The SDK: a connection to a grid, with an operator's rights. Async; sync_client.py wraps it."""

import asyncio
import json
import secrets
import time
from collections.abc import Generator, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import msgspec

from gridctl.connect import ClientEnd, connect
from gridctl.new import find_gridfile, load_gridfile
from gridnode import messages, wire
from gridnode.errors import (
    BodyInvalid,
    CallTimeout,
    GridError,
    LinkClosed,
    NodeLost,
    SignatureInvalid,
    TaskNotFound,
    UsageError,
)
from gridnode.gridfile import Gridfile, parse_address
from gridnode.identity import (
    NONCE_SIZE,
    Authority,
    authority_of,
    operator_credentials,
    public_key_of,
    seal_secret,
)
from gridnode.ledger import (
    CURRENT,
    ORDER,
    RELEASE,
    Document,
    SealedSecret,
    decode_documents,
    encode_documents,
    history_name,
    open_order,
    open_release,
    sign_order,
    sign_release,
    sign_secret,
    verifier,
)
from gridnode.link.protocol import Link
from gridnode.link.tls import client_context
from gridnode.messages import CallMeta, ChunkPart, LogQuery, LogReply, ProcessReport, ReplyMeta
from gridnode.model import Address, ChunkHash, Member, NodeId, NodeRecord, Order, Outcome, Release, ReleaseReport
from gridnode.wire import Frame, Op

if TYPE_CHECKING:
    from gridctl.sync_client import SyncGrid

__all__ = ["Connecting", "Grid"]

_ANSWER_GRACE = 2.0
_LONGEST = 3600.0
"""Seconds a node lets a call take at most."""
_CLOSE_TIMEOUT = 0.5
_OP_TIMEOUT = 15.0
_PUT_TIMEOUT = 60.0

Gridfiles = Gridfile | Path | str | None
"""A parsed Gridfile, the path of one, or None for $GRIDCTL_GRIDFILE, else the nearest Gridfile upward."""


class Grid:
    """An open connection. Errors are gridnode.errors types; once the link is lost, calls raise LinkClosed."""

    def __init__(self, link: Link, end: ClientEnd, authority: Authority) -> None:
        self._link = link
        self._end = end
        self._authority = authority
        self._loop = asyncio.get_running_loop()

    @staticmethod
    def connect(gridfile: Gridfiles = None, addresses: Iterable[Address | str] = ()) -> "Connecting":
        """`async with Grid.connect() as grid`, or `grid = await Grid.connect()` and `await grid.close()` later.

        Takes the first of the Gridfile's seeds, or of `addresses`, that answers within 3 s.
        Raises NotAuthenticated when the nodes refuse this Gridfile, LinkClosed when nobody answers.
        """
        return Connecting(gridfile, addresses)

    @staticmethod
    def open(gridfile: Gridfiles = None, addresses: Iterable[Address | str] = ()) -> "SyncGrid":
        """The same for code that is not async: `with Grid.open() as grid`, or `grid.close()` later."""
        from gridctl.sync_client import SyncGrid

        return SyncGrid(gridfile, addresses)

    @property
    def record(self) -> NodeRecord | None:
        """What the node at the other end said of itself."""
        return self._end.record

    async def close(self) -> None:
        """Close the link; calls under way are given up."""
        self._link.close()
        try:
            async with asyncio.timeout(_CLOSE_TIMEOUT):
                await self._link.wait_closed()
        except TimeoutError:
            self._link.abort(LinkClosed("closed"))

    # -- calls ------------------------------------------------------------------------------------------------------

    async def invoke(self, task: str, argument: Any = None, *, timeout: float | None = None, node: str = "") -> Any:
        """The task's result for a JSON-like argument; raises what became of the call, TaskRaised with its traceback.

        timeout: seconds; None: the task's own. node: its name, id or unique prefix of it; empty: the least busy one.
        """
        outcome = await self.call(task, argument, timeout=timeout, node=node)
        if outcome.error:
            raise outcome.error
        return decode_result(outcome.body)

    async def call(self, task: str, argument: Any = None, *, timeout: float | None = None, node: str = "") -> Outcome:
        """As `invoke`, but the whole Outcome: body or error, node, instance, attempts, duration."""
        return await self.send(task, encode_argument(argument), timeout=timeout, node=node)

    async def send(self, task: str, body: bytes, *, timeout: float | None = None, node: str = "") -> Outcome:
        """As `call`, with a body that is JSON already; BodyTooLarge past 6 MiB."""
        if timeout is not None and not 0 < timeout < 0xFFFFFFFF / 1000:
            raise UsageError(f"a timeout of {timeout:g} s makes no sense", hint="more than 0 seconds")
        if len(task.encode()) > wire.MAX_NAME:
            raise TaskNotFound(f"no task is named {task[:32]!r}...: names have at most {wire.MAX_NAME} bytes")
        meta = msgspec.json.encode(CallMeta(secrets.token_hex(16), 1, node))
        started = time.perf_counter()
        reply: asyncio.Future[Frame | GridError] = self._loop.create_future()
        deadline_ms = 0 if timeout is None else max(1, int(timeout * 1000))
        call_id = self._link.call(
            Op.INVOKE, task, body, lambda frame: _settle(reply, frame), meta=meta, deadline_ms=deadline_ms
        )
        try:
            async with asyncio.timeout((timeout or _LONGEST) + _ANSWER_GRACE):
                frame = await reply
        except TimeoutError:
            frame = CallTimeout(f"{task}: no answer from the node within {timeout or _LONGEST:g} s")
        finally:
            self._link.cancel(call_id)
        return _outcome(frame, time.perf_counter() - started)

    # -- the grid ---------------------------------------------------------------------------------------------------

    async def nodes(self) -> list[Member]:
        """Every node that the one we are linked to knows, itself included."""
        return messages.decode(await self._ask(Op.NODES), list[Member])

    async def release(self) -> Release | None:
        """The grid's current release; SignatureInvalid when it is not this Gridfile's."""
        documents = await self.documents(RELEASE)
        return next((open_release(document) for document in documents if document.name == CURRENT), None)

    async def releases(self) -> list[Release]:
        """The current release and those before it that the ledger remembers, newest first."""
        found: dict[int, Release] = {}
        for document in await self.documents(RELEASE):
            if document.name == CURRENT or document.sequence not in found:
                found[document.sequence] = open_release(document)
        return sorted(found.values(), key=lambda release: -release.sequence)

    async def documents(self, kind: str) -> list[Document]:
        """The ledger's documents of one kind, newest first, 4 MiB at most; SignatureInvalid for one of a stranger."""
        verified = verifier(public_key_of(self._authority.deploy_key))
        documents = decode_documents(await self._ask(Op.LEDGER_GET, name=kind))
        for document in documents:
            if document.kind == kind and not verified(document):
                raise SignatureInvalid(f"the node shows a {kind} that is not signed by this Gridfile")
        return [document for document in documents if document.kind == kind]

    async def orders(self) -> dict[str, tuple[Order, int]]:
        """What operators want of tasks, and the sequence of each order, by task file's name."""
        documents = await self.documents(ORDER)
        return {document.name: (open_order(document), document.sequence) for document in documents}

    async def put_order(self, task: str, order: Order, sequence: int) -> None:
        """Sign what is wanted of a task file and tell the grid; LedgerError unless `sequence` is a new one."""
        await self._put(sign_order(self._authority.deploy_key, task, order, sequence))

    async def put_secret(self, name: str, value: bytes | None, sequence: int) -> None:
        """Seal and sign a secret, None to remove it, and tell the grid; LedgerError unless `sequence` is a new one."""
        sealed = None
        if value is not None:
            nonce = secrets.token_bytes(NONCE_SIZE)
            sealed = SealedSecret(int(time.time()), seal_secret(self._authority.network_key, name, value, nonce))
        await self._put(sign_secret(self._authority.deploy_key, name, sealed, sequence))

    async def processes(self, task: str = "") -> list[ProcessReport]:
        """Every node's instances, of one task file or of all."""
        return messages.decode(await self._ask(Op.PROCESSES, name=task), list[ProcessReport])

    async def logs(self, node: NodeId, query: LogQuery) -> LogReply:
        """Lines of one node: what its tasks printed, or what gridnode itself logs."""
        return messages.decode(await self._ask(Op.LOGS, messages.encode(query), name=node), LogReply)

    async def report(self, node: NodeId) -> ReleaseReport:
        """How far one node is with its release, and which task files failed."""
        return messages.decode(await self._ask(Op.RELEASE_STATUS, name=node), ReleaseReport)

    async def put_release(self, release: Release) -> None:
        """Sign the release and make it the grid's; LedgerError when the grid has a newer one."""
        await self._put(sign_release(self._authority.deploy_key, release))
        await self._put(sign_release(self._authority.deploy_key, release, history_name(release.sequence)))

    async def _put(self, document: Document) -> None:
        await self._ask(Op.LEDGER_PUT, encode_documents([document]))

    async def get_chunks(self, hashes: Sequence[ChunkHash]) -> list[ChunkPart]:
        """What the node has of them (at most messages.MAX_GET), as much as one reply holds, unverified."""
        return messages.decode(await self._ask(Op.CHUNKS_GET, messages.encode(hashes)), list[ChunkPart])

    async def missing_chunks(self, hashes: Sequence[ChunkHash]) -> list[ChunkHash]:
        """Which of them (at most messages.MAX_HASHES) the node lacks."""
        return messages.decode_hashes(await self._ask(Op.CHUNKS_MISSING, messages.encode(hashes)), len(hashes))

    async def put_chunks(self, parts: Sequence[ChunkPart]) -> None:
        """Store chunks on the node; ChunkInvalid when one is not what its hash says."""
        await self._ask(Op.CHUNKS_PUT, messages.encode(parts), timeout=_PUT_TIMEOUT)

    async def _ask(self, op: Op, body: bytes = b"", *, name: str = "", timeout: float = _OP_TIMEOUT) -> bytes:
        try:
            return await self._link.request(op, body, name=name, timeout=timeout)
        except TimeoutError as exc:
            raise LinkClosed(f"{self._link.address} did not answer within {timeout:g} s") from exc


class Connecting:
    """What Grid.connect returns: await it, or enter it."""

    def __init__(self, gridfile: Gridfiles, addresses: Iterable[Address | str]) -> None:
        self._gridfile = gridfile
        self._addresses = addresses
        self._grid: Grid | None = None

    def __await__(self) -> Generator[Any, None, Grid]:
        return self._connect().__await__()

    async def __aenter__(self) -> Grid:
        self._grid = await self._connect()
        return self._grid

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._grid:
            await self._grid.close()

    async def _connect(self) -> Grid:
        gridfile = read_gridfile(self._gridfile)
        addresses = [_address(address) for address in self._addresses] or gridfile.seeds
        authority = authority_of(gridfile)
        credentials = operator_credentials(authority, time.time(), secrets.token_bytes(32))
        link, end = await connect(addresses, client_context(credentials))
        return Grid(link, end, authority)


def read_gridfile(gridfile: Gridfiles) -> Gridfile:
    """The parsed Gridfile; raises GridfileInvalid or UsageError."""
    if isinstance(gridfile, Gridfile):
        return gridfile
    return load_gridfile(find_gridfile(Path.cwd(), str(gridfile) if gridfile else None))


def encode_argument(argument: Any) -> bytes:
    """The argument as JSON, nothing for None; BodyInvalid when it has no such form."""
    if argument is None:
        return b""
    try:
        text = json.dumps(argument, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return text.encode()
    except UnicodeEncodeError:  # a lone surrogate, as in a file name: only an escape can carry it
        return json.dumps(argument).encode()
    except (TypeError, ValueError, RecursionError) as exc:
        raise BodyInvalid(
            f"the argument is not JSON: {exc}", hint="use None, bool, int, float, str, list, dict"
        ) from exc


def decode_result(body: bytes) -> Any:
    """The value of a result's JSON; BodyInvalid when it is none."""
    try:
        return json.loads(body) if body else None
    except (ValueError, RecursionError) as exc:
        raise BodyInvalid(f"the result is not JSON: {exc}") from exc


def _address(given: Address | str) -> Address:
    address = parse_address(given) if isinstance(given, str) else given
    if address is None:
        raise UsageError(f"{given!r:.80} is not host:port", hint="write it as host or host:port")
    return address


def _settle(future: "asyncio.Future[Frame | GridError]", frame: Frame | GridError) -> None:
    if not future.done():
        future.set_result(frame)


def _outcome(reply: Frame | GridError, duration: float) -> Outcome:
    if isinstance(reply, GridError):
        error = reply if isinstance(reply, CallTimeout) else NodeLost(f"lost the node during the call: {reply.message}")
        return Outcome(error=error, duration=duration)
    try:
        meta = msgspec.json.decode(reply.meta, type=ReplyMeta) if reply.meta else ReplyMeta()
    except msgspec.MsgspecError:
        meta = ReplyMeta()
    failed = reply.flags & wire.FLAG_ERROR
    return Outcome(
        body=b"" if failed else reply.body,
        error=wire.decode_error(reply.body) if failed else None,
        node=meta.node or None,
        name=meta.name,
        instance=meta.instance or None,
        attempts=meta.attempts,
        duration=duration,
    )
