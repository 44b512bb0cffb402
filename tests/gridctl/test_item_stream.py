"""Streams and broadcasts of a client: two real nodes, the real runtime as child processes."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gridctl import Grid
from gridctl.cli import run
from gridctl.node_answers import read_answer
from gridnode.errors import BodyInvalid, CallTimeout, LinkClosed, TaskNotFound, TaskRaised, UsageError
from gridnode.flow import FIRST_ITEMS
from tests.gridctl.conftest import RunningGrid

Capture = pytest.CaptureFixture[str]
YIELDS = """
import asyncio, os, pathlib
from grid import context
ended, count = [], 0

def numbers(event):
    for number in range(event):
        yield number

def fails(event):
    yield 1
    raise ValueError("after one")

def forever(event):
    global count
    try:
        while True:
            yield count
            count += 1
    finally:
        ended.append(count)

def state():
    return [count, ended]

def whole(event):
    return event

def where(event):
    if event == context.node:
        raise ValueError(event)
    return context.node

async def never(event):
    yield 1
    await asyncio.Event().wait()
"""


@pytest.fixture(scope="module")
def grid(make_grid: Callable[[int], RunningGrid], tmp_path_factory: pytest.TempPathFactory) -> RunningGrid:
    grid, project = make_grid(2), tmp_path_factory.mktemp("yields")
    (project / "tasks").mkdir()
    (project / "tasks" / "y.py").write_text(YIELDS)
    assert run(["deploy", str(project), "--gridfile", str(grid.gridfile)]) == 0
    return grid


@pytest.mark.parametrize("node", ["node-1", "node-2"])
async def test_items_come_in_order_from_any_node(grid: RunningGrid, node: str) -> None:
    async with Grid.connect(grid.gridfile) as client:
        stream = client.stream("y.numbers", 1000, node=node)
        assert [item async for item in stream] == list(range(1000))
        assert stream.outcome
        assert (stream.outcome.name, stream.outcome.attempts) == (node, 1)
        assert [item async for item in stream] == []
        assert await client.invoke("y.numbers", 3) == [0, 1, 2]
        assert [item async for item in client.stream("y.whole", {"a": 1})] == [{"a": 1}]
        assert [item async for item in client.stream("y.numbers", 0)] == []


async def test_an_error_comes_after_the_items_before_it(grid: RunningGrid) -> None:
    async with Grid.connect(grid.gridfile) as client:
        stream = client.stream("y.fails")
        assert await stream.take() == (1,)
        with pytest.raises(TaskRaised, match="after one") as caught:
            await stream.take()
        assert "y.py" in str(caught.value.__cause__)
        with pytest.raises(TaskNotFound):
            await client.stream("y.nothing").take()
        with pytest.raises(UsageError):
            client.stream("y.numbers", timeout=0)
        late = client.stream("y.never", timeout=0.3)
        assert await late.take() == (1,)
        with pytest.raises(CallTimeout):
            await late.take()


async def test_a_slow_reader_stops_the_task_and_leaving_ends_it(grid: RunningGrid) -> None:
    """On each way: within one node, and from one to the other."""
    async with Grid.connect(grid.gridfile) as client:
        for node in ("node-1", "node-2"):
            async with client.stream("y.forever", node=node) as stream:
                for expected in range(3 * FIRST_ITEMS):
                    assert await stream.take() == (expected,)
            count, ended = await client.invoke("y.state", node=node)
            assert ended == [count]
            assert count < 3 * FIRST_ITEMS + 600


async def test_a_broken_off_loop_gives_the_call_up(grid: RunningGrid) -> None:
    async with Grid.connect(grid.gridfile) as client:
        async for item in client.stream("y.forever", node="node-1"):
            assert item > 0
            break
        assert (await client.invoke("y.state", node="node-1"))[1]


async def test_a_lost_connection_is_an_error_in_the_middle(grid: RunningGrid) -> None:
    async with Grid.connect(grid.gridfile) as client:
        stream = client.stream("y.never")
        assert await stream.take() == (1,)
        await client.close()
        with pytest.raises(Exception, match="lost the node"):
            await stream.take()
        with pytest.raises(LinkClosed):
            await client.stream("y.numbers", 1).take()


async def test_a_broadcast_has_an_answer_of_every_node(grid: RunningGrid) -> None:
    async with Grid.connect(grid.gridfile) as client:
        answers = {answer.name: answer async for answer in client.broadcast("y.where", "node-2")}
        assert set(answers) == {"node-1", "node-2"}
        assert (answers["node-1"].result, answers["node-1"].error) == ("node-1", None)
        assert isinstance(answers["node-2"].error, TaskRaised)
        assert all(answer.instance and answer.duration > 0 and not answer.missing for answer in answers.values())
        with pytest.raises(TaskNotFound, match=r"y\.where"):
            await client.broadcast("y.were").take()


def test_the_same_without_async(grid: RunningGrid) -> None:
    with Grid.open(grid.gridfile) as client:
        assert list(client.stream("y.numbers", 100)) == list(range(100))
        for item in client.stream("y.forever"):
            if item > 1:
                break
        assert sorted(answer.name for answer in client.broadcast("y.where")) == ["node-1", "node-2"]


def lines(capture: Capture) -> list[Any]:
    return [json.loads(line) for line in capture.readouterr().out.splitlines()]


def invoke(grid: RunningGrid, *arguments: str) -> int:
    return run(["invoke", *arguments, "--gridfile", str(grid.gridfile)])


def test_the_command_prints_a_line_for_each_item(grid: RunningGrid, capsys: Capture) -> None:
    assert invoke(grid, "y.numbers", "-d", "3", "--stream") == 0
    assert capsys.readouterr().out == "0\n1\n2\n"
    assert invoke(grid, "y.numbers", "-d", "2", "--stream", "--json", "--node", "node-2") == 0
    *items, end = lines(capsys)
    assert items == [{"schema": 1, "item": 0}, {"schema": 1, "item": 1}]
    assert end["end"]["node"] == "node-2"
    assert invoke(grid, "y.fails", "--stream", "--json") == 6
    assert [line.get("error", {}).get("code") for line in lines(capsys)] == [None, "task_raised"]


def test_the_command_prints_a_line_for_each_node(grid: RunningGrid, capsys: Capture) -> None:
    assert invoke(grid, "y.where", "--all") == 0
    assert sorted(capsys.readouterr().out.splitlines()) == ['node-1: "node-1"', 'node-2: "node-2"']
    assert invoke(grid, "y.where", "--all", "--json", "-d", '"node-1"') == 3
    found = {line["node"]["name"]: line for line in lines(capsys)}
    assert found["node-1"]["error"]["code"] == "task_raised"
    assert found["node-2"]["result"] == "node-2"
    assert invoke(grid, "y.fails", "--all") == 6
    assert invoke(grid, "y.nothing", "--all") == 5


@pytest.mark.parametrize(
    "flags",
    [
        ("--stream", "--all"),
        ("--stream", "--repeat", "2"),
        ("--stream", "--idempotency-key", "k"),
        ("--all", "--node", "node-1"),
    ],
)
def test_flags_that_do_not_go_together(grid: RunningGrid, capsys: Capture, flags: tuple[str, ...]) -> None:
    assert invoke(grid, "y.where", *flags) == 2
    assert "does not go together" in capsys.readouterr().err


@pytest.mark.parametrize("line", [b"", b"1", b"{}", b'{"node":1,"name":"a"}', b"\xff", b"[" * 100_000])
def test_garbage_of_a_node(line: bytes) -> None:
    with pytest.raises(BodyInvalid):
        read_answer(line)


def test_nothing_is_left_of_what_was_never_read(grid: RunningGrid, tmp_path: Path) -> None:
    async def forget() -> None:
        async with Grid.connect(grid.gridfile) as client:
            client.stream("y.numbers", 1)
            client.broadcast("y.where")

    asyncio.run(forget())
