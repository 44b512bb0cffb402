"""Sync: a project directory as chunks, and how every node comes to hold the same ones.

    project directory ─▶ cut, chunk ─▶ manifest (Merkle tree) ─▶ ChunkStore ─▶ materialise ─▶ releases/<root>/

Tree nodes are stored and travel as chunks, under their own hash. A hash is always of the uncompressed bytes.
"""

from collections.abc import Iterable
from typing import Protocol

from gridnode.model import ChunkHash
from gridnode.sync.chunk import EncodedChunk

__all__ = ["ChunkStore"]


class ChunkStore(Protocol):
    """Where a node keeps chunks. Synchronous (callers use a thread); every method may raise SyncError."""

    def has(self, chunk: ChunkHash) -> bool:
        """Whether the chunk can be announced."""

    def missing(self, chunks: Iterable[ChunkHash]) -> list[ChunkHash]:
        """Those not held, in the order given, each once."""

    def get(self, chunk: ChunkHash) -> bytes:
        """Its verified bytes; ChunkMissing, or ChunkInvalid after dropping the bad copy."""

    def get_encoded(self, chunk: ChunkHash) -> EncodedChunk:
        """As `get`, in the form it is stored in: verified, ready to travel."""

    def put(self, chunk: ChunkHash, content: bytes) -> None:
        """Keep `content` for good; ChunkInvalid when it does not hash to `chunk`."""

    def put_encoded(self, chunk: ChunkHash, encoded: EncodedChunk) -> None:
        """As `put`, for a chunk that travelled."""

    def put_batch(self, chunks: Iterable[tuple[ChunkHash, EncodedChunk]]) -> None:
        """As `put_encoded` for many at the cost of one; those before a bad one may be kept."""

    def sweep(self, live: set[ChunkHash]) -> int:
        """Remove every chunk that is not in `live`; returns how many went."""
