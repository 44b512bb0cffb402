import concurrent.futures
import importlib.util
import itertools
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from gridctl import Grid, GridExecutor, RemoteTraceback, SyncGrid
from gridctl.executor import task_of
from gridctl.outcomes import outcome_of
from gridnode.errors import TaskNotFound, TaskRaised, UsageError
from gridnode.wire import Frame, Kind
from tests.gridctl.conftest import RunningGrid


@pytest.fixture(scope="module")
def grid(hello_grid: RunningGrid) -> Iterator[SyncGrid]:
    with Grid.open(hello_grid.gridfile) as grid:
        yield grid


def load(path: Path, source: str) -> ModuleType:
    """The file as a module, as a program that imports from its tasks/ has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(source)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_an_executor_as_any_other(grid: SyncGrid) -> None:
    with GridExecutor(grid) as executor:
        assert isinstance(executor, concurrent.futures.Executor)
        futures = [executor.submit("echo", number) for number in range(50)]
        assert {future.result() for future in concurrent.futures.as_completed(futures, 60)} == set(range(50))
        assert list(executor.map("echo", range(200))) == list(range(200))
        assert list(executor.map("echo", [1, 2, 3], "ab")) == [[1, "a"], [2, "b"]]
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit("echo")
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.map("echo", [1])
    assert grid.invoke("echo", "shared, so still open") == "shared, so still open"


def test_errors_come_out_of_futures(grid: SyncGrid) -> None:
    with grid.executor() as executor:
        error = executor.submit("words", 1).exception(60)
        assert isinstance(error, TaskRaised)
        assert isinstance(error.__cause__, RemoteTraceback)
        assert isinstance(executor.submit("nothing").exception(60), TaskNotFound)
        with pytest.raises(TaskRaised):
            list(executor.map("words", ["a", 1]))


def test_no_more_at_once_than_wanted_and_what_waits_can_be_cancelled(grid: SyncGrid) -> None:
    executor = GridExecutor(grid, concurrency=1)
    slow = executor.submit("primes", {"below": 2_000_000})
    waiting = executor.submit("echo", 1)
    last = executor.submit("echo", 2)
    assert waiting.cancel()
    assert last.result(60) == 2
    assert slow.done()
    under_way = executor.submit("primes", {"below": 20_000_000})
    assert under_way.cancel()
    assert executor.submit("echo", 3).result(60) == 3
    executor.submit("primes", {"below": 1_000_000})
    dropped = executor.submit("echo", 4)
    executor.shutdown(cancel_futures=True)
    assert dropped.cancelled()


def test_one_of_its_own_grid_goes_with_it(hello_grid: RunningGrid) -> None:
    executor = GridExecutor(gridfile=hello_grid.gridfile)
    future = executor.submit("echo", 1)
    executor.shutdown(wait=False)
    assert future.result(60) == 1


@pytest.mark.parametrize("concurrency", [0, 1025])
def test_bounds(grid: SyncGrid, concurrency: int) -> None:
    with pytest.raises(UsageError):
        GridExecutor(grid, concurrency=concurrency)
    with GridExecutor(grid) as executor, pytest.raises(UsageError, match="one argument"):
        executor.submit("echo", 1, 2)


def test_functions_of_the_project_are_its_tasks(tmp_path: Path) -> None:
    tasks = tmp_path / "shop" / "tasks"
    several = load(tasks / "req.py", "def get_ip(event): ...\ndef other(event): ...\n")
    assert [task_of(several.get_ip), task_of(several.other)] == ["req.get_ip", "req.other"]
    alone = load(tasks / "deep" / "one.py", "def only(event): ...\n")
    assert task_of(alone.only) == "deep.one"
    default = load(tasks / "two.py", "def handler(event): ...\ndef two(event): ...\n")
    assert [task_of(default.handler), task_of(default.two)] == ["two", "two.two"]
    assert task_of("by.name") == "by.name"


def test_no_other_code_is_sent(tmp_path: Path) -> None:
    module = load(tmp_path / "tasks" / "a.py", "def _own(): ...\nclass C:\n  def m(self): ...\nf = lambda: 1\n")
    outside = load(tmp_path / "b.py", "def f(event): ...\n")
    wrong: list[Callable[..., object]] = [print, len, lambda event: event, module._own, module.C.m, module.f, outside.f]
    for function in wrong:
        with pytest.raises(UsageError):
            task_of(function)


def test_map_without_async(grid: SyncGrid) -> None:
    assert list(grid.map("echo", range(1000))) == list(range(1000))
    assert sorted(grid.map("echo", range(50), ordered=False, concurrency=4)) == list(range(50))
    assert list(grid.map("echo", [])) == []
    with pytest.raises(TaskRaised):
        list(grid.map("words", ["a", 1]))
    errors = [type(result) for result in grid.map("words", ["a", 1], return_exceptions=True)]
    assert errors == [dict, TaskRaised]
    with grid.map("echo", itertools.count()) as results:
        assert [next(results) for _ in range(100)] == list(range(100))
    with pytest.raises(StopIteration):
        next(results)


def test_map_reads_its_items_in_the_callers_thread(grid: SyncGrid) -> None:
    seen = set()

    def items() -> Iterator[int]:
        for number in range(10):
            seen.add(threading.current_thread())
            yield number
        raise OSError("gone")

    results = grid.map("echo", items())
    assert [next(results) for _ in range(10)] == list(range(10))
    with pytest.raises(OSError, match="gone"):
        next(results)
    assert seen == {threading.current_thread()}


def test_submit_from_any_thread(grid: SyncGrid) -> None:
    future = grid.submit("echo", 5)
    assert future.result(60) == 5
    slow = grid.submit("primes", {"below": 20_000_000})
    assert slow.cancel()
    assert grid.submit("echo", 1, timeout=0).exception(60).__class__ is UsageError


def test_garbage_in_a_replys_metadata_is_passed_over() -> None:
    for meta in (b"", b"{", b"[]", b'{"node": 5}', b"\xff" * 50, b"[" * 4000):
        assert outcome_of(Frame(Kind.REPLY, 1, meta=meta, body=b"1"), 0, 0.1).body == b"1"
