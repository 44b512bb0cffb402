"""What is to be passed on to others, each piece a few times; and sums that differ where what two nodes know does."""

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from gridnode.model import Claim, NodeId, NodeRecord

BUCKETS = 64
SUM_SIZE = 8
MAX_NEWS = 128
"""Records in one message."""
MAX_CLAIMS = 512
_MOST = 8192
"""Rumours waiting; past it the oldest go: the comparing of sums makes it good."""


def mark_of(record: NodeRecord) -> int:
    """64 bits that stand for this version of this record."""
    text = f"{record.id}{record.incarnation}.{record.revision}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=SUM_SIZE).digest(), "big")


def bucket_of(node: NodeId) -> int:
    return int(node[:2], 16) % BUCKETS


def sums_of(marks: Iterable[tuple[NodeId, int]]) -> bytes:
    """One sum per bucket, of nodes and the marks of their records: equal where the same versions are known."""
    sums = [0] * BUCKETS
    for node, mark in marks:
        sums[bucket_of(node)] ^= mark
    return b"".join(one.to_bytes(SUM_SIZE, "big") for one in sums)


def differing(ours: bytes, theirs: bytes) -> frozenset[int]:
    """The buckets whose sums are not the same."""
    size = SUM_SIZE
    return frozenset(
        bucket
        for bucket in range(BUCKETS)
        if ours[bucket * size : (bucket + 1) * size] != theirs[bucket * size : (bucket + 1) * size]
    )


@dataclass(slots=True)
class _Rumour:
    """Of one node: its newest record as it travels, or a claim. left: how often it is still told; knows: who has it."""

    what: bytes | Claim
    left: int
    knows: set[NodeId]


@dataclass(slots=True)
class Rumours:
    """One record and one claim per node are on their way at most."""

    _news: dict[NodeId, _Rumour] = field(default_factory=dict)
    _claims: dict[NodeId, _Rumour] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._news) + len(self._claims)

    def spread(self, node: NodeId, signed: bytes, size: int, source: NodeId | None) -> None:
        """Pass a record on; what was claimed of an older one is moot."""
        self._claims.pop(node, None)
        self._put(self._news, node, signed, size, source)

    def accuse(self, claim: Claim, size: int, source: NodeId | None) -> None:
        self._put(self._claims, claim.node, claim, size, source)

    def known_by(self, node: NodeId, peer: NodeId) -> None:
        """`peer` told us what we would tell it."""
        rumour = self._news.get(node)
        if rumour:
            rumour.knows.add(peer)

    def take(self, peer: NodeId) -> tuple[tuple[bytes, ...], tuple[Claim, ...]]:
        """What to tell this peer now: records and claims."""
        news = self._take(self._news, peer, MAX_NEWS)
        claims = self._take(self._claims, peer, MAX_CLAIMS)
        return tuple(one for one in news if isinstance(one, bytes)), tuple(
            one for one in claims if isinstance(one, Claim)
        )

    @staticmethod
    def _put(table: dict[NodeId, _Rumour], node: NodeId, what: bytes | Claim, size: int, source: NodeId | None) -> None:
        table.pop(node, None)
        if len(table) >= _MOST:
            del table[next(iter(table))]
        table[node] = _Rumour(what, times(size), {source} if source else set())

    @staticmethod
    def _take(table: dict[NodeId, _Rumour], peer: NodeId, most: int) -> Sequence[bytes | Claim]:
        told: list[bytes | Claim] = []
        for node, rumour in list(table.items()):
            if len(told) == most:
                break
            if node == peer and isinstance(rumour.what, bytes):
                continue
            if peer not in rumour.knows:
                told.append(rumour.what)
                rumour.knows.add(peer)
            rumour.left -= 1
            if rumour.left <= 0:
                del table[node]
        return told


def times(size: int) -> int:
    """How often each node passes a rumour on in a grid of `size` nodes, so that nearly all hear of it."""
    return math.ceil(0.7 * math.log2(size + 1)) + 1
