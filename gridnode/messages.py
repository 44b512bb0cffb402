"""Bodies of hellos (JSON) and of control ops (msgpack): what each op carries and answers.

op              request                     reply                       asked by
NODES           -                           tuple[Member]               operator
RELEASE_STATUS  NodeId or nothing           ReleaseReport               operator, node
LEDGER_PUT      Document                    -                           operator
LEDGER_GET      -                           tuple[Document]             operator
CHUNKS_MISSING  tuple[ChunkHash]            tuple[ChunkHash]            operator
CHUNKS_PUT      tuple[ChunkPart]            -                           operator
CHUNKS_GET      tuple[ChunkHash]            tuple[ChunkPart]            node
events between nodes: RECORD NodeRecord · GOSSIP tuple[Sighting] · LEDGER_DIGEST · LEDGER_DOCUMENTS · LEAVE
"""

from typing import Any, TypeVar

import msgspec

from gridnode.errors import BodyInvalid
from gridnode.model import ChunkHash, InstanceId, NodeId, NodeRecord

T = TypeVar("T")

MAX_ADDRESSES = 64
MAX_TASKS = 4096
MAX_TEXT = 255
"""Characters of any name in a record."""
MAX_HASHES = 8192
"""Hashes in one CHUNKS_MISSING."""
MAX_GET = 64
"""Hashes in one CHUNKS_GET."""
MAX_PARTS_SIZE = 1024 * 1024
"""Payload bytes after which a chunk reply or upload is closed; one chunk may exceed it."""


class Hello(msgspec.Struct, omit_defaults=True):
    """The first frame of a peer or operator. record: a node's; bulk: this link carries chunks only."""

    version: int
    record: NodeRecord | None = None
    bulk: bool = False


class CallMeta(msgspec.Struct, omit_defaults=True):
    """Metadata of an INVOKE. id: the invocation's; node: where an operator wants it run, id, prefix or name."""

    id: str = ""
    attempt: int = 1
    node: str = ""


class ReplyMeta(msgspec.Struct, omit_defaults=True):
    """Metadata of an INVOKE's Reply: where it ran. name: the node's."""

    node: NodeId | None = None
    name: str = ""
    instance: InstanceId | None = None
    attempts: int = 1


class ChunkPart(msgspec.Struct, frozen=True, array_like=True):
    """One chunk as it travels. codec, length and payload as in sync.chunk.EncodedChunk."""

    hash: ChunkHash
    codec: int
    length: int
    payload: bytes


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


def check_record(record: NodeRecord) -> None:
    """Raises BodyInvalid for a record that would take more of our memory than an honest one."""
    texts = (record.id, record.name, record.version, *(address.host for address in record.addresses))
    if len(record.addresses) > MAX_ADDRESSES or len(record.tasks) > MAX_TASKS:
        raise BodyInvalid(f"a record with {len(record.addresses)} addresses and {len(record.tasks)} tasks")
    if any(len(text) > MAX_TEXT or not text.isprintable() for text in (*texts, *record.tasks)):
        raise BodyInvalid("a record with a name that is too long or not printable")


def decode_call_meta(meta: bytes) -> CallMeta:
    """Nothing is a default CallMeta; raises BodyInvalid on garbage."""
    try:
        return msgspec.json.decode(meta, type=CallMeta) if meta else CallMeta()
    except (msgspec.MsgspecError, RecursionError) as exc:
        raise BodyInvalid(f"malformed call metadata: {exc}") from exc


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
