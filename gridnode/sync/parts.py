"""Chunks between a store and the wire. Synchronous: callers use a thread."""

from collections.abc import Iterable

from gridnode.errors import SyncError
from gridnode.messages import MAX_PARTS_SIZE, ChunkPart
from gridnode.model import ChunkHash
from gridnode.sync import ChunkStore
from gridnode.sync.chunk import EncodedChunk

__all__ = ["give_parts", "store_parts"]


def store_parts(store: ChunkStore, parts: Iterable[ChunkPart]) -> None:
    """Verify and keep what arrived; ChunkInvalid when one is bad."""
    store.put_batch((part.hash, EncodedChunk(part.codec, part.length, part.payload)) for part in parts)


def give_parts(store: ChunkStore, wanted: Iterable[ChunkHash]) -> list[ChunkPart]:
    """What we have of `wanted`, until MAX_PARTS_SIZE is reached."""
    parts: list[ChunkPart] = []
    room = MAX_PARTS_SIZE
    for item in wanted:
        try:
            encoded = store.get_encoded(item)
        except SyncError:
            continue
        parts.append(ChunkPart(item, encoded.codec, encoded.length, encoded.payload))
        room -= len(encoded.payload)
        if room <= 0:
            break
    return parts
