"""Sends a project's chunks to one node: only those it lacks, several batches in flight."""

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from gridnode.messages import MAX_HASHES, MAX_PARTS_SIZE, ChunkPart
from gridnode.model import ChunkHash
from gridnode.sync.chunk import encode

__all__ = ["Receiver", "Sent", "batches", "missing_of", "upload"]

IN_FLIGHT = 4
PART_OVERHEAD = 64
"""Bytes a chunk takes in a batch besides its content, at most."""


class Receiver(Protocol):
    """A Grid's part in it."""

    async def missing_chunks(self, hashes: list[ChunkHash]) -> list[ChunkHash]: ...
    async def put_chunks(self, parts: list[ChunkPart]) -> None: ...


@dataclass(slots=True)
class Sent:
    """Bytes. payload: as they travelled; content: before compression; total: of the chunks the node lacked."""

    chunks: int = 0
    payload: int = 0
    content: int = 0
    total: int = 0


async def upload(
    to: Receiver,
    chunks: Mapping[ChunkHash, int],
    read: Callable[[ChunkHash], bytes],
    on_progress: Callable[[Sent], None],
) -> Sent:
    """Send what the node lacks of `chunks` (their lengths in bytes); `read` gives a chunk's bytes, in a thread."""
    missing = await missing_of(to, chunks)
    sent = Sent(total=sum(chunks[chunk] for chunk in missing))
    waiting = batches(missing, chunks)

    async def drain() -> None:
        for batch in waiting:
            parts = await asyncio.to_thread(_encoded, batch, read)
            await to.put_chunks(parts)
            sent.chunks += len(parts)
            sent.payload += sum(len(part.payload) for part in parts)
            sent.content += sum(part.length for part in parts)
            on_progress(sent)

    await _all_of(drain() for _ in range(IN_FLIGHT))
    return sent


async def missing_of(to: Receiver, chunks: Mapping[ChunkHash, int]) -> list[ChunkHash]:
    """Those that the node lacks."""
    missing: list[ChunkHash] = []
    for hashes in _slices(list(chunks), MAX_HASHES):
        missing += [chunk for chunk in await to.missing_chunks(hashes) if chunk in chunks]
    return missing


def batches(missing: Iterable[ChunkHash], lengths: Mapping[ChunkHash, int]) -> Iterator[list[ChunkHash]]:
    """In order, MAX_PARTS_SIZE bytes each at most unless one chunk alone is larger."""
    batch: list[ChunkHash] = []
    room = MAX_PARTS_SIZE
    for chunk in missing:
        size = lengths[chunk] + PART_OVERHEAD
        if batch and size > room:
            yield batch
            batch, room = [], MAX_PARTS_SIZE
        batch.append(chunk)
        room -= size
    if batch:
        yield batch


def _slices(hashes: list[ChunkHash], count: int) -> Iterator[list[ChunkHash]]:
    for start in range(0, len(hashes), count):
        yield hashes[start : start + count]


def _encoded(batch: list[ChunkHash], read: Callable[[ChunkHash], bytes]) -> list[ChunkPart]:
    parts = []
    for chunk in batch:
        packed = encode(read(chunk))
        parts.append(ChunkPart(chunk, packed.codec, packed.length, packed.payload))
    return parts


async def _all_of(coroutines: Iterable[Coroutine[None, None, None]]) -> None:
    """Run them side by side; the first error ends all, and is raised as itself."""
    try:
        async with asyncio.TaskGroup() as group:
            for coroutine in coroutines:
                group.create_task(coroutine)
    except ExceptionGroup as exc:
        raise exc.exceptions[0] from exc
