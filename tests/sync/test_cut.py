import hashlib
import io
import random

import pyfastcdc.py
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gridnode.errors import SyncError
from gridnode.sync import cut as cut_module
from gridnode.sync.chunk import Chunking
from gridnode.sync.cut import cut, cut_stream

SMALL = Chunking(min_size=64, avg_size=256, max_size=1024)


def noise(size: int) -> bytes:
    """The same bytes on every machine, for good."""
    block = hashlib.shake_256(b"gridcontrol golden vector")
    return block.digest(size)


GOLDEN = [
    (0, 114819),
    (114819, 88305),
    (203124, 18533),
    (221657, 51201),
    (272858, 76067),
    (348925, 77057),
    (425982, 74061),
    (500043, 71806),
    (571849, 97305),
    (669154, 100984),
    (770138, 76293),
    (846431, 71319),
    (917750, 74459),
    (992209, 7791),
]


def test_golden_cuts() -> None:
    assert cut(noise(1_000_000)) == GOLDEN


def test_golden_cuts_of_zeros_and_small_parameters() -> None:
    assert cut(bytes(600_000)) == [(0, 262144), (262144, 262144), (524288, 75712)]
    assert cut(noise(2000), SMALL) == [
        (0, 268),
        (268, 321),
        (589, 271),
        (860, 89),
        (949, 425),
        (1374, 154),
        (1528, 432),
        (1960, 40),
    ]


@pytest.mark.parametrize(("size", "chunks"), [(0, 0), (1, 1), (16383, 1), (16384, 1)])
def test_a_file_below_the_minimum_is_one_chunk_and_an_empty_one_none(size: int, chunks: int) -> None:
    assert len(cut(noise(size))) == len(list(cut_stream(io.BytesIO(noise(size))))) == chunks


class Dribble:
    """Gives a few bytes at a time, as a pipe may."""

    def __init__(self, content: bytes, seed: int) -> None:
        self._file = io.BytesIO(content)
        self._random = random.Random(seed)

    def readinto(self, buffer: memoryview) -> int:
        return self._file.readinto(buffer[: self._random.randint(1, 3000)])


@settings(max_examples=50)
@given(st.integers(0, 60_000), st.integers(0, 2**32))
def test_streaming_cuts_where_the_whole_is_cut(size: int, seed: int) -> None:
    content = random.Random(seed).randbytes(size)
    pieces = [bytes(piece) for piece in cut_stream(Dribble(content, seed), SMALL)]
    assert b"".join(pieces) == content
    assert [len(piece) for piece in pieces] == [length for _, length in cut(content, SMALL)]
    assert all(SMALL.min_size <= len(piece) <= SMALL.max_size for piece in pieces[:-1])


def test_an_insertion_changes_only_the_chunks_around_it() -> None:
    content = noise(4_000_000)
    edited = content[:1_000_000] + b"inserted" + content[1_000_000:]
    before = {content[at : at + length] for at, length in cut(content)}
    after = {edited[at : at + length] for at, length in cut(edited)}
    assert len(after - before) <= 3


def test_the_slow_form_of_the_library_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cut_module, "FastCDC", pyfastcdc.py.FastCDC)
    with pytest.raises(SyncError, match="compiled part"):
        cut(b"abc")


def test_an_unknown_algorithm_is_an_error() -> None:
    with pytest.raises(SyncError, match="rabin"):
        cut(b"abc", Chunking(algorithm="rabin"))
