"""Streams and broadcasts on three nodes: items over every hop, readers that are slow or go, nodes that die."""

import asyncio
import json
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from gridctl import Grid as Client
from gridnode.errors import NodeLost
from integration import project
from integration.conftest import PATIENCE
from integration.engine import docker
from integration.grid import Grid, until
from integration.node import Node

ITEM, ITEMS = 250_000, 4_300
"""A little more than a gigabyte."""
GROWTH = 64 * 1024
"""KiB that a node may need for it."""
FLOW = """
import asyncio
made, ended = 0, []

async def large(event):
    global made
    made = 0
    for made in range(1, event["items"] + 1):
        yield "x" * event["size"]

async def forever(event):
    number = 0
    try:
        while True:
            yield number
            number += 1
            await asyncio.sleep(0.01)
    finally:
        ended.append(event)

async def state():
    return {"made": made, "ended": ended}
"""
YIELDS = """
import time

def handler(event):
    for number in range(event):
        yield number

def fails():
    yield 1
    raise ValueError("after one")
"""
YIELDS_NODE = "module.exports = function* (event) { for (let n = 0; n < event; n += 1) yield { n }; };"
LINES = "#!/bin/sh\nread count\nseq $count\n"
FILES = {
    "tasks/flow.py": FLOW,
    "tasks/yields.py": YIELDS,
    "tasks/script.js": YIELDS_NODE,
    "tasks/lines": LINES,
    "grid.toml": '[tasks.flow]\nmemory = "64M"\ntimeout = "10m"\n',
}
READ = """
import http.client, os, sys, threading
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
path, accept, body = sys.argv[1:]
connection = http.client.HTTPConnection("127.0.0.1", 10000)
connection.request("POST", path, body, {"Accept": accept})
answer = connection.getresponse()
print(answer.status, answer.getheader("Content-Type"), flush=True)
try:
    while some := answer.read1(65536):
        print(some.decode(), end="", flush=True)
    print("whole", flush=True)
except http.client.IncompleteRead:
    print("broken", flush=True)
"""


@pytest.fixture(scope="module")
def flowing(opened: Any, base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Grid]:
    """Three nodes whose tasks yield."""
    opened.settle(base)
    directory = project.write(tmp_path_factory.mktemp("streaming"), FILES)
    (directory / "tasks" / "lines").chmod(0o755)
    opened.grid.deploy(directory)
    yield opened.grid
    opened.grid.disturbed, opened.root = True, ""


def client(node: Node, grid: Grid) -> Any:
    return Client.connect(grid.gridfile, [f"127.0.0.1:{node.port}"], links=1)


def nodes(grid: Grid) -> list[Node]:
    return [grid.nodes[name] for name in ("node-1", "node-2", "node-3")]


@contextmanager
def asked(node: Node, path: str, accept: str, body: str = "null") -> Iterator[list[str]]:
    """Lines of an answer to a request from inside the node's container, as they come; it ends with the block."""
    argv = ["docker", "exec", "-i", node.container, "/usr/bin/python3", "-I", "-c", READ, path, accept, body]
    found: list[str] = []
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin
        lines = process.stdout
        assert lines
        reader = threading.Thread(target=lambda: found.extend(iter(lines.readline, "")))
        reader.start()
        try:
            yield found
        finally:
            process.stdin.close()  # the end of what runs in a container: to kill `docker exec` would not end it
            reader.join(PATIENCE)


def whole(node: Node, path: str, accept: str, body: str = "null") -> list[str]:
    """The answer, once it has ended."""
    with asked(node, path, accept, body) as lines:
        until(lambda: lines and lines[-1].endswith(("whole\n", "broken\n")), PATIENCE, "the answer ends")
        return lines[:]


def memory(container: str) -> int:
    """KiB of the largest process in it."""
    rows = docker("top", container, "-eo", "pid,rss").splitlines()[1:]
    return max(int(row.split()[1]) for row in rows)


@pytest.mark.parametrize(
    ("task", "items"),
    [
        ("yields", list(range(500))),
        ("script", [{"n": number} for number in range(500)]),
        ("lines", list(range(1, 501))),
        ("echo", [500]),
    ],
)
async def test_items_of_every_runtime_over_every_hop(flowing: Grid, task: str, items: list[Any]) -> None:
    async with client(nodes(flowing)[0], flowing) as grid:
        for node in ("node-1", "node-3"):
            stream = grid.stream(task, 500, node=node)
            assert [item async for item in stream] == items
            assert stream.outcome.name == node


async def test_a_gigabyte_for_a_slow_reader_fills_no_memory(flowing: Grid) -> None:
    """The task is on one node, the reader's link leads to another; the instance may have 64 MB in all."""
    one, two, _ = nodes(flowing)
    before = {node.name: memory(node.container) for node in (one, two)}
    async with client(one, flowing) as grid, client(one, flowing) as watcher:
        stream = grid.stream("flow.large", {"items": ITEMS, "size": ITEM}, node="node-2")
        read = 0
        for pause in (10, 60, ITEMS // 2):
            while read < pause:
                assert len((await stream.take())[0]) == ITEM
                read += 1
            made = await at_rest(watcher, "node-2")
            assert read <= made < read + 40  # a megabyte at the reader, a quarter of one and an item on the way
            grown = {node.name: memory(node.container) - before[node.name] for node in (one, two)}
            assert max(grown.values()) < GROWTH, grown
        while (item := await stream.take()) is not None:
            assert len(item[0]) == ITEM
            read += 1
    grown = {node.name: memory(node.container) - before[node.name] for node in (one, two)}
    assert max(grown.values()) < GROWTH, grown
    assert read == ITEMS


async def at_rest(grid: Client, node: str) -> int:
    """How many items the task has made, once it makes no more."""
    seen, quiet = -1, 0
    async with asyncio.timeout(PATIENCE):
        while quiet < 20:
            made = int((await grid.invoke("flow.state", node=node))["made"])
            seen, quiet = made, quiet + 1 if made == seen else 0
    return seen


async def all_of(stream: Any) -> list[Any]:
    return [item async for item in stream]


def test_over_http(flowing: Grid) -> None:
    one = nodes(flowing)[0]
    path = "/v1/invoke/yields?node=node-2"
    assert whole(one, path, "application/x-ndjson", "3") == [
        "200 application/x-ndjson\n",
        "0\n",
        "1\n",
        "2\n",
        "whole\n",
    ]
    status, *lines, ended = whole(one, path, "text/event-stream", "2")
    assert (status, ended) == ("200 text/event-stream\n", "whole\n")
    assert lines[:4] == ["data: 0\n", "\n", "data: 1\n", "\n"]
    assert lines[4] == "event: end\n"
    assert json.loads(lines[5].removeprefix("data: "))["node"] == "node-2"
    status, first, error, ended = whole(one, "/v1/invoke/yields.fails?node=node-3", "application/x-ndjson")
    assert (status, first, ended) == ("200 application/x-ndjson\n", "1\n", "broken\n")
    assert json.loads(error)["error"]["message"] == "ValueError: after one"
    assert whole(one, "/v1/invoke/nothing", "text/event-stream")[0] == "404 application/json\n"


async def test_a_client_that_goes_ends_the_task(flowing: Grid) -> None:
    one = nodes(flowing)[0]
    with asked(one, "/v1/invoke/flow.forever?node=node-3", "text/event-stream", '"http"') as lines:
        until(lambda: "data: 5\n" in lines, PATIENCE, "items come as they are made")
    async with client(one, flowing) as grid:
        stream = grid.stream("flow.forever", "sdk", node="node-3")
        assert await stream.take() == (0,)
        await stream.aclose()
        async with asyncio.timeout(PATIENCE):
            while True:
                state = await grid.invoke("flow.state", node="node-3")
                if state["ended"] == ["http", "sdk"]:
                    break


def test_a_broadcast_reaches_every_node(flowing: Grid) -> None:
    one = nodes(flowing)[0]
    status, *lines, ended = whole(one, "/v1/broadcast/probe.whoami", "*/*")
    assert (status, ended) == ("200 application/x-ndjson\n", "whole\n")
    answers = [json.loads(line) for line in lines]
    assert sorted(answer["result"]["node"] for answer in answers) == ["node-1", "node-2", "node-3"]
    assert all(answer["name"] == answer["result"]["node"] for answer in answers)
    ended_ok = flowing.gridctl("invoke", "probe.whoami", "--all")
    assert ended_ok.returncode == 0
    assert [line.partition(":")[0] for line in sorted(ended_ok.stdout.splitlines())] == ["node-1", "node-2", "node-3"]


async def test_a_node_that_dies(flowing: Grid) -> None:
    """Last: it leaves the grid disturbed. Its stream ends with an error and is not begun again; it is named."""
    one, _, three = nodes(flowing)
    async with client(one, flowing) as grid:
        stream = grid.stream("flow.forever", "dies", node="node-3")
        assert await stream.take() == (0,)
        flowing.kill(three)
        with pytest.raises(NodeLost):
            await asyncio.wait_for(all_of(stream), PATIENCE)
        until(lambda: flowing.alive(one) == {"node-1", "node-2"}, PATIENCE, "its death is noticed")
        answers = {answer.name: answer async for answer in grid.broadcast("probe.whoami")}
        assert {name: answer.missing for name, answer in answers.items()} in (
            {"node-1": "", "node-2": "", "node-3": "dead"},
            {"node-1": "", "node-2": "", "node-3": "suspect"},
        )
    found = flowing.gridctl("invoke", "probe.whoami", "--all", "--json")
    assert found.returncode == 3
    lines = [json.loads(line) for line in found.stdout.splitlines()]
    assert [line["node"]["name"] for line in lines if "error" in line] == ["node-3"]
