"""Bit rot: a byte of a chunk that a store holds, changed on disk."""

from pathlib import Path

from gridnode.model import ChunkHash
from gridnode.sync.pack import Record, scan


def places(directory: Path, chunk: ChunkHash) -> list[tuple[Path, Record]]:
    """Where the chunk's records lie in the packs of the store below `directory`, sound ones only."""
    found = []
    for path in sorted((directory / "packs").glob("*.pack")):
        content = path.read_bytes()
        for record in scan(lambda at, size, content=content: content[at : at + size]):  # type: ignore[misc]
            if isinstance(record, Record) and record.chunk == chunk:
                found.append((path, record))
    return found


def rot(directory: Path, chunk: ChunkHash, at: int = -1) -> None:
    """Flip a bit of byte `at` of the chunk's record."""
    for path, record in places(directory, chunk):
        with path.open("r+b") as file:
            file.seek(record.offset + at % record.size)
            (byte,) = file.read(1)
            file.seek(-1, 1)
            file.write(bytes([byte ^ 1]))
