"""Content-defined cutting (FastCDC 2020, normalisation level 2). Only who ingests files imports this."""

from collections.abc import Iterator
from typing import Literal, Protocol

from pyfastcdc import FastCDC

from gridnode.errors import SyncError
from gridnode.sync.chunk import Chunking, Content

ALGORITHM = "fastcdc-2020-nc2"
_NORMALISATION: Literal[2] = 2


class Reader(Protocol):
    def readinto(self, buffer: memoryview, /) -> int: ...


def cut(content: Content, chunking: Chunking | None = None) -> list[tuple[int, int]]:
    """(offset, length) of each chunk, in order, without gaps; none when empty."""
    return [(piece.offset, piece.length) for piece in _cutter(chunking).cut_buf(content)]


def cut_stream(stream: Reader, chunking: Chunking | None = None) -> Iterator[memoryview]:
    """Each chunk's bytes in order, in flat memory: a view is valid until the next one is asked for."""
    for piece in _cutter(chunking).cut_stream(stream):
        yield piece.data


def _cutter(chunking: Chunking | None) -> FastCDC:
    chunking = chunking or Chunking()
    if chunking.algorithm != ALGORITHM:
        raise SyncError(f"unknown chunking algorithm {chunking.algorithm!r}, this version knows {ALGORITHM!r}")
    if not FastCDC.__module__.startswith("pyfastcdc.cy"):
        # Its pure Python form only warns, cuts 3.5 MB/s, and would make a deploy look hung.
        raise SyncError(
            "the compiled part of pyfastcdc is missing",
            hint="reinstall it: PYFASTCDC_REQUIRE_CYTHON=1 pip install --force-reinstall pyfastcdc",
        )
    return FastCDC(
        chunking.avg_size,
        min_size=chunking.min_size,
        max_size=chunking.max_size,
        normalized_chunking=_NORMALISATION,
    )
