"""How nodes tell each other of the others: bodies of GOSSIP, DIGEST, VERSIONS and RECORDS_ASK, in msgpack.

A record travels as [body, key, signature]: `body` is the NodeRecord in msgpack, without its tasks, signed by the node
itself; the id in it is the hash of `key`. So any node can pass any record on, and none can change another's. That its
node is one of the grid is proven by its certificate, when it is linked: a record alone gets no call.
"""

from collections.abc import Iterable

import msgspec

from gridnode import messages
from gridnode.errors import BodyInvalid
from gridnode.identity import node_id, public_key_of, sign, verify
from gridnode.model import Claim, NodeId, NodeRecord, RecordVersion
from gridnode.swim.rumours import BUCKETS, MAX_CLAIMS, MAX_NEWS, SUM_SIZE

__all__ = [
    "Gossip",
    "SignedRecord",
    "decode_ask",
    "decode_digest",
    "decode_gossip",
    "decode_versions",
    "encode_ask",
    "encode_gossip",
    "encode_versions",
    "is_genuine",
    "read_record",
    "sign_record",
]

MAX_RECORD = 16 * 1024
MAX_VERSIONS = 8192
_CONTEXT = b"node record"
_ID = 20


class SignedRecord(msgspec.Struct, frozen=True, array_like=True):
    """key: raw Ed25519, 32 bytes; signature: by it, over body."""

    body: bytes
    key: bytes
    signature: bytes


class Gossip(msgspec.Struct, frozen=True, array_like=True):
    """news: SignedRecords, encoded."""

    news: tuple[bytes, ...] = ()
    claims: tuple[Claim, ...] = ()


class _Versions(msgspec.Struct, frozen=True, array_like=True):
    buckets: tuple[int, ...]
    versions: tuple[tuple[bytes, int, int, int], ...]


def sign_record(seed: bytes, record: NodeRecord) -> bytes:
    """The record as it travels. seed: the node's own Ed25519 key."""
    body = messages.encode(record)
    return messages.encode(SignedRecord(body, public_key_of(seed), sign(seed, _CONTEXT, body)))


def read_record(raw: bytes) -> tuple[NodeRecord, SignedRecord]:
    """A record within its bounds, whose id is that of its key; BodyInvalid. Its signature is still to be verified."""
    if len(raw) > MAX_RECORD:
        raise BodyInvalid(f"a record of {len(raw)} bytes, at most {MAX_RECORD} allowed")
    signed = messages.decode(raw, SignedRecord)
    record = messages.decode_record(signed.body)
    if record.tasks or record.id != node_id(signed.key):
        raise BodyInvalid("a record that names its tasks, or is not of the node whose key it shows")
    return record, signed


def is_genuine(signed: SignedRecord) -> bool:
    """Whether the node itself has signed it."""
    return verify(signed.key, _CONTEXT, signed.body, signed.signature)


def encode_gossip(news: tuple[bytes, ...], claims: tuple[Claim, ...]) -> bytes:
    return messages.encode(Gossip(news, claims))


def decode_gossip(body: bytes) -> Gossip:
    """Records unread, claims within their bounds; BodyInvalid."""
    gossip = messages.decode(body, Gossip)
    if len(gossip.news) > MAX_NEWS or len(gossip.claims) > MAX_CLAIMS:
        raise BodyInvalid(f"gossip of {len(gossip.news)} records and {len(gossip.claims)} claims")
    for claim in gossip.claims:
        if not _is_id(claim.node) or not _are_counts(claim.incarnation, claim.refuted):
            raise BodyInvalid("a claim about what is no node")
    return gossip


def decode_digest(body: bytes) -> bytes:
    """As many sums as there are buckets; BodyInvalid."""
    if len(body) != BUCKETS * SUM_SIZE:
        raise BodyInvalid(f"a digest of {len(body)} bytes")
    return body


def encode_versions(buckets: frozenset[int], versions: Iterable[RecordVersion]) -> bytes:
    rows = tuple((bytes.fromhex(one.node), one.incarnation, one.refuted, one.revision) for one in versions)
    return messages.encode(_Versions(tuple(sorted(buckets)), rows))


def decode_versions(body: bytes) -> tuple[frozenset[int], tuple[RecordVersion, ...]]:
    """The buckets, and the versions in them; BodyInvalid."""
    told = messages.decode(body, _Versions)
    if len(told.buckets) > BUCKETS or len(told.versions) > MAX_VERSIONS:
        raise BodyInvalid(f"{len(told.versions)} versions in {len(told.buckets)} buckets")
    for node, *counts in told.versions:
        if len(node) != _ID or not _are_counts(*counts):
            raise BodyInvalid("the version of what is no node")
    versions = tuple(RecordVersion(NodeId(node.hex()), *counts) for node, *counts in told.versions)
    return frozenset(told.buckets), versions


def encode_ask(nodes: Iterable[NodeId]) -> bytes:
    return messages.encode([bytes.fromhex(node) for node in nodes])


def decode_ask(body: bytes) -> tuple[NodeId, ...]:
    """Whose records are wanted; BodyInvalid."""
    nodes = messages.decode(body, list[bytes])
    if len(nodes) > MAX_NEWS or any(len(node) != _ID for node in nodes):
        raise BodyInvalid(f"{len(nodes)} records are asked for, or those of what is no node")
    return tuple(NodeId(node.hex()) for node in nodes)


def _is_id(text: str) -> bool:
    return len(text) == 2 * _ID and not text.strip("0123456789abcdef")


def _are_counts(*numbers: int) -> bool:
    return all(0 <= number < 1 << 53 for number in numbers)
