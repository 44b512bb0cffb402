"""Whom to be linked to: everybody while the grid is small, else a random few, so that the whole stays connected.

Every node draws its own few by the hash of a secret salt and the other's id: the draw stays when others come and go,
and nobody can make an id that is drawn. Each node dialling ⌈log2 n⌉ others, links go both ways: 2·log2 n of them at
each node on average. A random graph of this kind is connected but for a chance far below one in a million.
"""

import hashlib
import heapq
import math
from collections.abc import Iterable

from gridnode.model import NodeId


def degree(size: int, full: int) -> int:
    """How many others a node of a grid of `size` nodes sees to be linked to. full: up to which size that is all."""
    return size - 1 if size <= full else math.ceil(math.log2(size))


def rank_of(salt: bytes, node: NodeId) -> int:
    """What a node is drawn by; the lowest are."""
    return int.from_bytes(hashlib.blake2b(salt + node.encode(), digest_size=8).digest(), "big")


def drawn(ranked: Iterable[tuple[int, NodeId]], count: int) -> set[NodeId]:
    """The `count` nodes of the lowest ranks."""
    return {node for _, node in heapq.nsmallest(count, ranked)}


def scaled(seconds: float, size: int) -> float:
    """A suspect's time to object in a grid of `size` nodes: gossip takes a number of rounds that grows with log n."""
    return seconds * max(1.0, math.log10(size))
