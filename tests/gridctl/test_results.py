import asyncio
import gc
import itertools
import weakref
from collections.abc import AsyncIterator, Iterator

import pytest

from gridctl import Grid, RemoteTraceback
from gridnode.errors import BodyInvalid, TaskNotFound, TaskRaised
from tests.gridctl.conftest import RunningGrid


@pytest.fixture
async def grid(hello_grid: RunningGrid) -> AsyncIterator[Grid]:
    async with Grid.connect(hello_grid.gridfile) as grid:
        yield grid


async def test_results_in_the_order_of_the_items(grid: Grid) -> None:
    assert [result async for result in grid.map("echo", range(500), concurrency=16)] == list(range(500))


async def test_as_they_come(grid: Grid) -> None:
    got = [result async for result in grid.map("echo", range(100), ordered=False)]
    assert sorted(got) == list(range(100))


async def test_no_items_no_results(grid: Grid) -> None:
    assert [result async for result in grid.map("echo", [])] == []


async def test_items_that_are_waited_for(grid: Grid) -> None:
    gate = asyncio.Event()

    async def items() -> AsyncIterator[int]:
        yield 1
        await gate.wait()
        yield 2

    results = grid.map("echo", items())
    assert await anext(results) == 1  # before the second item is there
    gate.set()
    assert [result async for result in results] == [2]


async def test_an_endless_source_is_read_as_results_are_taken(grid: Grid) -> None:
    read = itertools.count()

    def items() -> Iterator[int]:
        while True:
            yield next(read)

    async with grid.map("echo", items(), concurrency=4) as results:
        for number in range(20):
            assert await anext(results) == number
    assert next(read) <= 20 + 4 * 4


async def test_progress(grid: Grid) -> None:
    seen: list[tuple[int, int | None]] = []
    async for _ in grid.map("echo", [1, 2, 3], progress=lambda done, total: seen.append((done, total))):
        pass
    assert seen == [(1, 3), (2, 3), (3, 3)]
    async for _ in grid.map("echo", iter([1]), progress=lambda done, total: seen.append((done, total))):
        pass
    assert seen[-1] == (1, None)


async def test_an_error_ends_it_with_the_remote_traceback_as_its_cause(grid: Grid) -> None:
    results = grid.map("words", ["a", 1, "b"])
    assert (await anext(results))["words"] == 1
    with pytest.raises(TaskRaised) as caught:
        await anext(results)
    assert isinstance(caught.value.__cause__, RemoteTraceback)
    assert "tasks/words.py" in str(caught.value.__cause__)
    assert [result async for result in results] == []


async def test_errors_in_place_of_results(grid: Grid) -> None:
    items = ["a", 1, object(), "b"]
    got = [result async for result in grid.map("words", items, return_exceptions=True)]
    assert [type(result) for result in got] == [dict, TaskRaised, BodyInvalid, dict]
    missing = [result async for result in grid.map("nothing", [1, 2], return_exceptions=True)]
    assert [type(result) for result in missing] == [TaskNotFound, TaskNotFound]


async def test_what_reading_the_items_raises(grid: Grid) -> None:
    def items() -> Iterator[int]:
        yield 1
        raise OSError("the file is gone")

    async def waited() -> AsyncIterator[int]:
        for item in items():
            yield item

    for source in (items(), waited()):
        results = grid.map("echo", source)
        assert await anext(results) == 1
        with pytest.raises(OSError, match="gone"):
            await anext(results)
        with pytest.raises(StopAsyncIteration):
            await anext(results)


async def test_a_loop_that_is_left_gives_its_calls_up(grid: Grid) -> None:
    async def endless() -> AsyncIterator[int]:
        for number in itertools.count():
            yield number

    for source in (itertools.count(), endless()):
        results = grid.map("echo", source, concurrency=8)
        assert await anext(results) == 0
        gone = weakref.ref(results)
        del results
        gc.collect()
        assert gone() is None
        assert not grid._calls.under_way
    assert await grid.invoke("echo", "still open") == "still open"


async def test_futures(grid: Grid) -> None:
    first, second = grid.submit("echo", 1), grid.submit("words", 2)
    assert await first == 1
    with pytest.raises(TaskRaised):
        await second
    slow = grid.submit("primes", {"below": 5_000_000})
    slow.cancel()
    await asyncio.wait([slow])
    assert not grid._calls.under_way
