"""Pub/sub on three nodes: who publishes and who listens are on different ones, by every door there is."""

import asyncio
import json
import subprocess
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from gridctl import Grid as Client
from gridctl.subscription import Subscription
from gridnode.errors import LinkClosed
from integration import project
from integration.conftest import PATIENCE
from integration.grid import GRIDCTL, Grid, until
from integration.node import Node

HANDLES = """
from grid import context, log, publish

def handler(event):
    log.info("got %s", event["data"])
    publish(f"handled.{context.task}", [event["topic"], event["data"], context.topic, context.node])
"""
SENDS = """
import grid

def handler(event):
    return grid.publish(event["topic"], event["data"])

async def later(event):
    return await grid.publish_async(event["topic"], event["data"])

def wrong(event):
    try:
        grid.publish("no topic", 1)
    except grid.TaskError as e:
        return e.code
"""
LOOPS = """
from grid import publish

def handler(event):
    publish("loop.again", event["data"] + 1)
"""
CONFIG = """
[tasks.one]
topics = ["orders.*"]

[tasks.each]
topics = ["orders.*", "stock.>"]
deliver = "each"

[tasks.loops]
topics = ["loop.again"]
"""
FILES = {
    "tasks/one.py": HANDLES,
    "tasks/each.py": HANDLES,
    "tasks/sends.py": SENDS,
    "tasks/loops.py": LOOPS,
    "grid.toml": CONFIG,
}
STREAM = """
import http.client, os, signal, sys, threading
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
connection = http.client.HTTPConnection("127.0.0.1", 10000)
connection.request("GET", sys.argv[1])
answer = connection.getresponse()
print(answer.status, answer.getheader("Content-Type"), flush=True)
if sys.argv[2:] == ["still"]:
    signal.pause()
for line in answer:
    print(line.decode(), end="", flush=True)
"""


@pytest.fixture(scope="module")
def topical(opened: Any, base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Grid]:
    """Three nodes whose tasks listen and publish."""
    opened.settle(base)
    opened.grid.deploy(project.write(tmp_path_factory.mktemp("topics"), FILES))
    yield opened.grid
    opened.grid.disturbed, opened.root = True, ""


def client(node: Node, grid: Grid) -> Any:
    return Client.connect(grid.gridfile, [f"127.0.0.1:{node.port}"])


def nodes(grid: Grid) -> list[Node]:
    return [grid.nodes[name] for name in ("node-1", "node-2", "node-3")]


async def comes_true(check: Callable[[], Awaitable[object]]) -> None:
    """Poll until it holds."""
    deadline = asyncio.get_running_loop().time() + PATIENCE
    while not await check():
        assert asyncio.get_running_loop().time() < deadline, "never came to be"
        await asyncio.sleep(0.02)


async def settled(publisher: Client, topic: str, count: int) -> None:
    """Wait until the publisher's node knows of so many listeners."""

    async def listened() -> bool:
        return await publisher.publish(topic, "first") == count

    await comes_true(listened)


async def some(events: Subscription, count: int) -> list[Any]:
    """What the next `count` events carry, without those that only looked who listens."""
    found: list[Any] = []
    async with asyncio.timeout(PATIENCE):
        while len(found) < count:
            event = await events.next()
            if event.payload != "first":
                found.append(event.payload)
    return found


@contextmanager
def lines_of(argv: list[str], env: dict[str, str] | None = None) -> Iterator[list[str]]:
    """What a program prints while the block runs."""
    found: list[str] = []
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env) as process:
        assert process.stdin
        assert process.stdout
        reader = threading.Thread(target=lambda: found.extend(iter(process.stdout.readline, "")))  # type: ignore[union-attr]
        reader.start()
        try:
            yield found
        finally:
            process.stdin.close()  # the end of what runs in a container: to kill `docker exec` would not end it
            if argv[0] != "docker":
                process.kill()
            reader.join(PATIENCE)


def stream(node: Node, path: str, *how: str) -> list[str]:
    return ["docker", "exec", "-i", node.container, "/usr/bin/python3", "-I", "-c", STREAM, path, *how]


def events_in(lines: list[str]) -> list[Any]:
    """What the events of a stream carry."""
    return [json.loads(line[6:])["data"] for line in list(lines) if line.startswith("data: ")]


async def test_sdk_and_streams_and_the_command_line(topical: Grid) -> None:
    one, two, three = nodes(topical)
    env = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "GRIDCTL_GRIDFILE": str(topical.gridfile)}
    listen = [str(GRIDCTL), "subscribe", "news.*", "--json", "-n", "3"]
    async with client(one, topical) as publisher, client(two, topical) as reader:
        with (
            lines_of(stream(three, "/v1/subscribe?topic=news.*&topic=x.%3E")) as streamed,
            lines_of(listen, env) as printed,
        ):
            async with reader.subscribe("news.*") as events:
                until(lambda: streamed, PATIENCE, "the stream begins")

                async def all_listen() -> bool:
                    await publisher.publish("news.look", "first")
                    return bool(events_in(streamed)) and bool(printed)

                await comes_true(all_listen)
                assert topical.gridctl("publish", "news.cli", '{"n": 1}').returncode == 0
                assert await some(events, 1) == [{"n": 1}]
                answer = one.http("POST", "/v1/publish/news.http", b"[2]")
                assert (answer.status, answer.json["listeners"] >= 2) == (202, True)
                assert await some(events, 1) == [[2]]
                await publisher.publish("news.sdk", 3)
                assert await some(events, 1) == [3]
            until(lambda: events_in(streamed)[-3:] == [{"n": 1}, [2], 3], PATIENCE, "the stream has all")
            until(lambda: len(printed) == 3, PATIENCE, "the command ends by itself")
    assert streamed[0] == "200 text/event-stream\n"
    assert {json.loads(line)["topic"].split(".")[0] for line in printed} == {"news"}
    until(lambda: three.http("GET", "/v1/events").json["streams"] == 0, PATIENCE, "the stream is gone with its client")


async def test_tasks_listen_and_publish(topical: Grid) -> None:
    one, two, _ = nodes(topical)
    async with client(one, topical) as publisher, client(two, topical) as reader:
        async with reader.subscribe("handled.*") as events:
            await settled(publisher, "handled.none", 1)
            await settled(publisher, "orders.none.at.all", 0)

            async def known() -> bool:  # one for the task `one`, one for `each` here, and one for each other node
                return await publisher.publish("orders.created", "first") == 4

            await comes_true(known)
            assert await publisher.invoke("sends", {"topic": "orders.paid", "data": {"n": 1}}, node="node-1") == 4
            async with asyncio.timeout(PATIENCE):
                got: list[Any] = []
                while len(got) < 4:
                    event = await events.next()
                    if event.payload != "first" and event.payload[1] != "first":
                        got.append((event.topic, event.payload))
            by_one = [payload for topic, payload in got if topic == "handled.one"]
            by_each = [payload for topic, payload in got if topic == "handled.each"]
            assert [payload[:3] for payload in by_one] == [["orders.paid", {"n": 1}, "orders.paid"]]
            assert sorted(payload[3] for payload in by_each) == ["node-1", "node-2", "node-3"]
            assert await publisher.invoke("sends.later", {"topic": "handled.x", "data": 5}, node="node-1") == 1
            assert await some(events, 1) == [5]
        assert await publisher.invoke("sends.wrong") == "topic_invalid"


async def test_a_task_that_feeds_itself_comes_to_an_end(topical: Grid) -> None:
    one, two, _ = nodes(topical)
    async with client(one, topical) as publisher, client(two, topical) as reader, reader.subscribe("loop.*") as events:
        await settled(publisher, "loop.look", 1)
        await publisher.publish("loop.again", 0)
        assert sorted(await some(events, 9)) == list(range(9))  # each comes from the node that ran the task

        async def failed() -> bool:
            return any(node.http("GET", "/v1/events").json["failed"] for node in nodes(topical))

        await comes_true(failed)


async def test_a_reader_that_stands_still_slows_nobody(topical: Grid) -> None:
    one, two, three = nodes(topical)
    count, large = 300, "x" * 100_000
    with lines_of(stream(two, "/v1/subscribe?topic=big", "still")) as streamed:
        until(lambda: streamed, PATIENCE, "the stream begins")
        async with (
            client(one, topical) as publisher,
            client(three, topical) as reader,
            reader.subscribe("big") as events,
        ):
            await settled(publisher, "big", 2)
            reading = asyncio.create_task(some(events, count))
            for number in range(count):
                await publisher.publish("big", [number, large])
            got = await reading
        assert [number for number, _ in got] == list(range(count))
        until(lambda: two.http("GET", "/v1/events").json["dropped"] > 0, PATIENCE, "what it did not read was dropped")


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("POST", "/v1/publish/a..b", b"1", 400, "topic_invalid"),
        ("POST", "/v1/publish/a%20b", b"1", 400, "topic_invalid"),
        ("POST", "/v1/publish/a", b"{", 400, "body_invalid"),
        ("GET", "/v1/publish/a", b"", 405, "http"),
        ("GET", "/v1/subscribe?topic=a..b", b"", 400, "topic_invalid"),
        ("GET", "/v1/subscribe", b"", 400, "body_invalid"),
        ("POST", "/v1/subscribe?topic=a", b"", 405, "http"),
    ],
)
def test_garbage_is_refused(topical: Grid, method: str, path: str, body: bytes, status: int, code: str) -> None:
    answer = nodes(topical)[0].http(method, path, body)
    assert (answer.status, answer.json["error"]["code"]) == (status, code)


async def test_a_node_that_dies_and_comes_back(topical: Grid) -> None:
    """Last: it leaves the grid disturbed. Who listens there is told; who comes back is found again."""
    one, two, _ = nodes(topical)
    async with client(one, topical) as publisher:
        reader = await client(two, topical)
        events = await reader.subscribe("dying").open()
        await settled(publisher, "dying", 1)
        topical.kill(two)
        with pytest.raises(LinkClosed):
            await some(events, 1)
        await settled(publisher, "dying", 0)
        await reader.close()
        topical.start(two)
        until(topical.is_full_mesh, PATIENCE, "a full mesh")
        async with client(two, topical) as again, again.subscribe("dying") as events:
            await settled(publisher, "dying", 1)
            await publisher.publish("dying", 7)
            assert await some(events, 1) == [7]
