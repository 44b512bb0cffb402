"""Sync: a project directory as chunks, and how every node comes to hold the same ones.

    project directory ─▶ cut, chunk ─▶ manifest (Merkle tree) ─▶ ChunkStore ─▶ materialise ─▶ releases/<root>/

Tree nodes are stored and travel as chunks, under their own hash. A hash is always of the uncompressed bytes.
"""

from collections.abc import Iterable, Iterator
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

    def hashes(self) -> Iterator[ChunkHash]:
        """Every chunk held."""

    def count(self) -> int:
        """How many chunks are held."""

    def quarantined(self) -> dict[ChunkHash, str]:
        """The chunks that proved bad and were not put again since, and why."""

    def delete(self, chunks: Iterable[ChunkHash]) -> None:
        """Forget these chunks, bad ones too; those not held are fine. `compact` frees their room."""

    def compact(self) -> int:
        """Free the room of chunks that are gone; bytes freed. May run beside all else."""

    def sweep(self, live: set[ChunkHash]) -> int:
        """Remove every chunk that is not in `live`; returns how many went."""
