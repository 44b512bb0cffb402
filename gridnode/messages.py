"""Bodies of hellos (JSON) and of control ops (msgpack): what each op carries and answers.

op              request                     reply                       asked by
INVOKE          the argument; CallMeta      the result; ReplyMeta       operator, user, local, node
INVOKE          the argument; NestedMeta    the result                  a sandbox, of its node
INVOKE + STREAM the argument; CallMeta      Parts: JSON; then ReplyMeta operator, user, local, node
BROADCAST       the argument, named by task Parts: NodeOutcome in JSON  operator, user, local
NODES           -                           Nodes                       operator, user, local
TASKS           NodeRecord.served           tuple[TaskName]             node
RELEASE_STATUS  NodeId or nothing           ReleaseReport               operator, node
PROCESSES       task file or nothing        tuple[ProcessReport]        operator, user
PROCESSES       task file or nothing        ProcessReport               node
LOGS            LogQuery                    LogReply                    operator, node; of tasks: user
IMAGES          NodeId or nothing           tuple[ImageStatus]          operator, node
ISSUER          NodeId or nothing           its card's issuer, in PEM   operator, node
FILES           -                           tuple[ImageStatus]          operator, node
LEDGER_PUT      Document, its audit entry   -                           operator
LEDGER_GET      kind or nothing             tuple[Document], new first  operator
CHUNKS_MISSING  tuple[ChunkHash]            tuple[ChunkHash]            operator
CHUNKS_PUT      tuple[ChunkPart]            -                           operator
CHUNKS_GET      tuple[ChunkHash]            tuple[ChunkPart]            operator, node
SCRUB           SCRUB_START or nothing      ScrubReport                 operator, node
PIECE_GET       PieceGet                    PieceParts                  node
DOCTOR          -                           Diagnosis                   operator, node
PING            -                           -                           operator, node
ROUND_TRIPS     how many or nothing         tuple[RoundTrip]            operator, node
PUBLISH         list[(topic, JSON)]         list[int]: how many listen  operator, local
PUBLISH         JSON, named by topic        JSON: how many listen       a sandbox, of its node
SUBSCRIBE       list[pattern]               - until it is given up      operator, user, local
events between nodes: GOSSIP, DIGEST, VERSIONS, RECORDS_ASK in gridnode/gossip.py · LOAD Load · REFUSED an error
                      RETIRE: the link is idle, close it · LEDGER_DIGEST · LEDGER_DOCUMENTS · HAVE Have
                      EVENTS (number, list[Event], lost by topic) · INTEREST Interest · INTEREST_ASK
events to a client: EVENTS as between nodes, named by the call id of the SUBSCRIBE that asked for them
                    LEAVE: the node is going; no more calls over this link
"""

import re
from collections.abc import Iterable
from typing import Any, TypeVar

import msgspec
from msgspec.structs import replace

from gridnode import task_bounds
from gridnode.errors import BodyInvalid
from gridnode.model import (
    ChunkHash,
    InstanceId,
    Load,
    LogLine,
    Member,
    MemberState,
    NodeId,
    NodeRecord,
    Process,
    ReleaseStatus,
    Runtime,
    TaskName,
)
from gridnode.task_lists import digest_of
from gridnode.wire import ErrorBody

T = TypeVar("T")

MAX_ADDRESSES = 64
MAX_TASKS = 4096
MAX_STATUS_ERROR = 4096
MAX_TEXT = 255
"""Characters of any name in a record."""
MAX_HASHES = 8192
"""Hashes in one CHUNKS_MISSING."""
MAX_GET = 64
"""Hashes in one CHUNKS_GET."""
MAX_PROCESSES = 4096
"""Instances in one node's ProcessReport."""
MAX_WHY = 4096
"""Characters of why an instance ended."""
MAX_PARTS_SIZE = 1024 * 1024
"""Payload bytes after which a chunk reply or upload is closed; one chunk may exceed it."""

MAX_BAD = 100
"""Chunks that one ScrubReport names."""
SCRUB_START = b"start"

MAX_KEY = 255
"""Characters of an idempotency key."""

MAX_LOG_LINES = 10_000
MAX_LOG_SIZE = 1024 * 1024
"""Bytes of text in one LogReply."""
MAX_LOG_CURSORS = 4096
OWN_LOG = "@node"
"""In place of a task file's name: what gridnode itself logs."""


class Hello(msgspec.Struct, omit_defaults=True):
    """The first frame of a peer or operator. record: a node's; bulk: this link carries chunks only.

    seen: the address at which whoever says hello sees the other side.
    """

    version: int
    record: NodeRecord | None = None
    bulk: bool = False
    seen: str = ""


class Nodes(msgspec.Struct, frozen=True):
    """Every member, without its tasks; lists: those, once each, by NodeRecord.served."""

    members: tuple[Member, ...] = ()
    lists: dict[str, tuple[TaskName, ...]] = {}


class CallMeta(msgspec.Struct, omit_defaults=True):
    """Metadata of an INVOKE. id: the invocation's; node: where an operator wants it run, id, prefix or name.

    depth: how many tasks called tasks to get here. topic: of the event that the call delivers.
    spread: over how many nodes the caller spreads its calls itself, so that each is best run where it arrives.
    attempt: which try to run it this is. key: its idempotency key, 1 to MAX_KEY printable ASCII characters.
    """

    id: str = ""
    attempt: int = 1
    node: str = ""
    depth: int = 0
    topic: str = ""
    key: str = ""
    spread: int = 0


class NestedMeta(msgspec.Struct):
    """Metadata of an INVOKE out of a sandbox. parent: the id of the call that it serves."""

    parent: int


class ReplyMeta(msgspec.Struct, omit_defaults=True):
    """Metadata of an INVOKE's Reply: where it ran. name: the node's."""

    node: NodeId | None = None
    name: str = ""
    instance: InstanceId | None = None
    attempts: int = 1


class NodeOutcome(msgspec.Struct, frozen=True, omit_defaults=True):
    """What became of a broadcast on one node, in JSON on one line. result: JSON, unless there is an error.

    missing: why the node was not asked: dead, suspect, draining, no task. duration_ms: as the node asked first saw it.
    """

    node: NodeId
    name: str
    missing: str = ""
    instance: InstanceId | None = None
    duration_ms: float = 0.0
    error: ErrorBody | None = None
    result: msgspec.Raw = msgspec.Raw()


class ProcessReport(msgspec.Struct, frozen=True):
    """One node's instances, as another node was told. state: the member's; error: why the node did not say.

    orders: by task file's name, the sequence of the order that the node follows.
    """

    node: NodeId
    name: str
    state: MemberState = MemberState.ALIVE
    processes: tuple[Process, ...] = ()
    orders: dict[str, int] = {}
    error: str = ""


class ChunkPart(msgspec.Struct, frozen=True, array_like=True):
    """One chunk as it travels. codec, length and payload as in sync.chunk.EncodedChunk."""

    hash: ChunkHash
    codec: int
    length: int
    payload: bytes


class BadChunk(msgspec.Struct, frozen=True, array_like=True):
    """A chunk that rotted on a node's disk. back: it was fetched again."""

    hash: ChunkHash
    why: str
    back: bool


class ScrubReport(msgspec.Struct, frozen=True, omit_defaults=True):
    """How far a node is with looking through its chunks. checked, total: chunks; size: bytes of those checked.

    found: how many were bad; left: how many of them are still missing; bad: the first MAX_BAD.
    """

    running: bool = False
    checked: int = 0
    total: int = 0
    size: int = 0
    found: int = 0
    left: int = 0
    bad: tuple[BadChunk, ...] = ()


class LogQuery(msgspec.Struct, frozen=True, omit_defaults=True):
    """Which lines of a node: the newest `lines` later than `since`, unix nanoseconds.

    task: a task file's name, all with nothing, gridnode's own with OWN_LOG; instance: one of them.
    after: how far the lines of an instance are known, in place of `since`; seen: `now` of the reply that told so.
    """

    task: str = ""
    instance: str = ""
    since: int = 0
    lines: int = 1000
    after: dict[str, int] = {}
    seen: int = 0


class LogReply(msgspec.Struct, frozen=True, omit_defaults=True):
    """Lines by time. now: the node's clock; cut: older ones were left out; error: why others are missing."""

    lines: tuple[LogLine, ...] = ()
    now: int = 0
    cut: bool = False
    error: str = ""


def encode_node_outcome(outcome: NodeOutcome) -> bytes:
    return msgspec.json.encode(outcome)


def decode_node_outcome(line: bytes) -> NodeOutcome:
    """Raises BodyInvalid on garbage."""
    try:
        return msgspec.json.decode(line, type=NodeOutcome)
    except (msgspec.MsgspecError, RecursionError) as exc:
        raise BodyInvalid(f"malformed outcome of a node: {exc}") from exc


def encode_hello(hello: Hello) -> bytes:
    return msgspec.json.encode(hello)


def decode_hello(body: bytes) -> Hello:
    """Raises BodyInvalid on garbage."""
    try:
        hello = msgspec.json.decode(body, type=Hello)
    except (msgspec.MsgspecError, RecursionError) as exc:
        raise BodyInvalid(f"malformed hello: {exc}") from exc
    if hello.record:
        check_record(hello.record)
    return hello


def decode_record(body: bytes) -> NodeRecord:
    """A node's record within its bounds; raises BodyInvalid."""
    record = decode(body, NodeRecord)
    check_record(record)
    return record


def encode_members(members: Iterable[Member]) -> bytes:
    """A body of NODES: the nodes of one release share the list of its tasks."""
    lists: dict[str, tuple[TaskName, ...]] = {}
    told = []
    for member in members:
        served = member.record.served or digest_of(member.record.tasks)
        if member.record.tasks:
            lists[served] = member.record.tasks
        told.append(replace(member, record=replace(member.record, tasks=(), served=served)))
    return encode(Nodes(tuple(told), lists))


def decode_members(body: bytes) -> list[Member]:
    """What `encode_members` was given; BodyInvalid on garbage."""
    nodes = decode(body, Nodes)
    records = ((member, nodes.lists.get(member.record.served, ())) for member in nodes.members)
    return [replace(member, record=replace(member.record, tasks=tasks)) for member, tasks in records]


def decode_load(body: bytes) -> Load:
    """How busy a node is; BodyInvalid."""
    load = decode(body, Load)
    if not _are_counts(load.in_flight, load.capacity):
        raise BodyInvalid("a load with a number out of bounds")
    return load


def decode_tasks(body: bytes) -> tuple[TaskName, ...]:
    """A list of a record's tasks within its bounds; BodyInvalid."""
    tasks = decode(body, tuple[TaskName, ...])
    if len(tasks) > MAX_TASKS or not all(0 < len(name) <= MAX_TEXT and name.isprintable() for name in tasks):
        raise BodyInvalid(f"a list of {len(tasks)} tasks, or with a name that is too long or not printable")
    return tasks


def check_record(record: NodeRecord) -> None:
    """Raises BodyInvalid for a record that would take more of our memory than an honest one."""
    texts = (record.id, record.name, record.version, *(address.host for address in record.addresses))
    numbers = (record.incarnation, record.revision, record.started, record.load.in_flight, record.load.capacity)
    more = (record.interest, record.until)
    if any(not 0 < address.port < 65536 for address in record.addresses) or not _are_counts(*numbers, *more):
        raise BodyInvalid("a record with a number out of bounds")
    if record.release:
        check_status(record.release)
    if not _are_counts(record.refuted) or not re.fullmatch(r"([0-9a-f]{32})?", record.served):
        raise BodyInvalid("a record with a count or a digest that cannot be")
    if len(record.labels) > task_bounds.MAX_LABELS or not all(map(_is_label, record.labels.items())):
        raise BodyInvalid("a record with a label that cannot be")
    if record.runtime and not is_runtime(record.runtime):
        raise BodyInvalid("a record with a runtime that cannot be")
    if len(record.addresses) > MAX_ADDRESSES or len(record.tasks) > MAX_TASKS:
        raise BodyInvalid(f"a record with {len(record.addresses)} addresses and {len(record.tasks)} tasks")
    if any(len(text) > MAX_TEXT or not text.isprintable() for text in (*texts, *record.tasks)):
        raise BodyInvalid("a record with a name that is too long or not printable")


def is_runtime(runtime: Runtime) -> bool:
    """Whether each part is what one could be: they become part of paths and arguments."""
    return bool(
        re.fullmatch(r"3\.[0-9]{1,3}", runtime.python)
        and re.fullmatch(r"[a-z0-9_]{1,32}", runtime.machine)
        and re.fullmatch(r"(2\.[0-9]{1,3})?", runtime.libc)
    )


def check_status(status: ReleaseStatus) -> None:
    """Raises BodyInvalid for a release status that no node would send."""
    if not _are_counts(status.sequence, status.have, status.total, status.rate):
        raise BodyInvalid("a release status with a number out of bounds")
    if len(status.root) != 64 or len(status.error) > MAX_STATUS_ERROR:
        raise BodyInvalid("a release status with a text out of bounds")


def _is_label(label: tuple[str, str]) -> bool:
    return task_bounds.is_label(*label)


def _are_counts(*numbers: int) -> bool:
    return all(0 <= number < 1 << 53 for number in numbers)


def decode_processes(body: bytes) -> ProcessReport:
    """A peer's own report within its bounds; raises BodyInvalid."""
    report = decode(body, ProcessReport)
    if len(report.processes) > MAX_PROCESSES or len(report.orders) > MAX_TASKS:
        raise BodyInvalid(f"a report of {len(report.processes)} processes and {len(report.orders)} orders")
    for one in report.processes:
        if max(len(one.task), len(one.file), len(one.state), len(one.instance or "")) > 1024 or len(one.why) > MAX_WHY:
            raise BodyInvalid("a report of a process with a text that is too long")
    return report


def decode_call_meta(meta: bytes) -> CallMeta:
    """Nothing is a default CallMeta; raises BodyInvalid on garbage."""
    try:
        return msgspec.json.decode(meta, type=CallMeta) if meta else CallMeta()
    except (msgspec.MsgspecError, RecursionError) as exc:
        raise BodyInvalid(f"malformed call metadata: {exc}") from exc


def check_key(key: str) -> str:
    """The idempotency key; raises BodyInvalid unless it is 1 to MAX_KEY printable ASCII characters."""
    if not 0 < len(key) <= MAX_KEY or not key.isascii() or not key.isprintable():
        raise BodyInvalid(f"an idempotency key is 1 to {MAX_KEY} printable ASCII characters")
    return key


def decode_log_query(body: bytes) -> LogQuery:
    """Nothing is a default LogQuery; raises BodyInvalid on garbage and past the bounds."""
    query = decode(body, LogQuery) if body else LogQuery()
    if not 0 < query.lines <= MAX_LOG_LINES or len(query.after) > MAX_LOG_CURSORS:
        raise BodyInvalid(f"{query.lines} lines with {len(query.after)} cursors are too many, or none")
    if any(len(text) > MAX_TEXT for text in (query.task, query.instance, *query.after)):
        raise BodyInvalid("a name in a query for lines is too long")
    return query


def encode(value: Any) -> bytes:
    return msgspec.msgpack.encode(value)


def decode(body: bytes, kind: type[T]) -> T:
    """The body as `kind`; raises BodyInvalid on garbage."""
    try:
        return msgspec.msgpack.decode(body, type=kind)
    except (msgspec.MsgspecError, RecursionError, ValueError) as exc:
        raise BodyInvalid(f"malformed body: {exc}") from exc


def decode_hashes(body: bytes, limit: int) -> list[ChunkHash]:
    """At most `limit` hashes of 32 bytes; raises BodyInvalid."""
    hashes = decode(body, list[bytes])
    if len(hashes) > limit or any(len(item) != 32 for item in hashes):
        raise BodyInvalid(f"expected at most {limit} hashes of 32 bytes")
    return [ChunkHash(item) for item in hashes]
