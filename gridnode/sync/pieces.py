"""Pieces: runs of a tree's chunks that nodes tell each other they hold; every node that knows the tree cuts it alike.

A set of pieces is an int, piece n its bit n.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from gridnode.model import ChunkHash, Root

__all__ = ["MAX_PIECES", "Layout", "Piece", "batches", "bits_of", "cut", "pieces_in"]

PIECES: Final = 256
"""How many a tree has at least, where that does not make them smaller than MIN_PIECE."""
MIN_PIECE: Final = 256 * 1024
MAX_PIECE: Final = 4 * 1024 * 1024
MAX_CHUNKS: Final = 1024
"""Chunks in one piece."""
MAX_PIECES: Final = 65_536
"""More than any tree within its bounds has."""


class Piece(NamedTuple):
    """size: bytes of its chunks, uncompressed."""

    chunks: tuple[ChunkHash, ...]
    size: int


@dataclass(frozen=True, slots=True)
class Layout:
    """A tree's pieces. lengths: of its chunks of content, in bytes."""

    root: Root
    lengths: Mapping[ChunkHash, int]
    pieces: Sequence[Piece]
    everything: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "everything", (1 << len(self.pieces)) - 1)

    @property
    def size(self) -> int:
        """Bytes of all chunks."""
        return sum(piece.size for piece in self.pieces)

    def held(self, missing: Iterable[ChunkHash]) -> int:
        """The pieces of which no chunk is missing."""
        lacking = set(missing)
        return bits_of(n for n, piece in enumerate(self.pieces) if lacking.isdisjoint(piece.chunks))


def cut(root: Root, chunks: Mapping[ChunkHash, int]) -> Layout:
    """The pieces of a tree; chunks: those of its content with their lengths, in the order that a Walk finds them."""
    most = min(max(sum(chunks.values()) // PIECES, MIN_PIECE), MAX_PIECE)
    pieces: list[Piece] = []
    run: list[ChunkHash] = []
    size = 0
    for chunk, length in chunks.items():
        if run and (size + length > most or len(run) == MAX_CHUNKS):
            pieces.append(Piece(tuple(run), size))
            run, size = [], 0
        run.append(chunk)
        size += length
    if run:
        pieces.append(Piece(tuple(run), size))
    return Layout(root, chunks, tuple(pieces))


def batches(
    chunks: Iterable[ChunkHash], lengths: Mapping[ChunkHash, int], most: int, size: int
) -> Iterator[list[ChunkHash]]:
    """In order, `most` chunks and `size` bytes each at most, unless one chunk alone is larger."""
    batch: list[ChunkHash] = []
    room = size
    for chunk in chunks:
        length = lengths.get(chunk, size // most)
        if batch and (length > room or len(batch) == most):
            yield batch
            batch, room = [], size
        batch.append(chunk)
        room -= length
    if batch:
        yield batch


def bits_of(pieces: Iterable[int]) -> int:
    """The set of these pieces."""
    bits = 0
    for piece in pieces:
        bits |= 1 << piece
    return bits


def pieces_in(bits: int) -> Iterator[int]:
    """The pieces of a set, lowest first."""
    while bits:
        low = bits & -bits
        yield low.bit_length() - 1
        bits ^= low
