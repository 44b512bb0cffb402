"""What is promised of a call: its deadline, what ends it, who is refused, and how often it runs."""

import asyncio
import json
import subprocess
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from gridctl.client import Grid as Client
from gridnode.errors import CallTimeout, NoCapacity, NodeLost
from gridnode.model import Outcome
from integration import engine, project
from integration.conftest import PATIENCE, Opened
from integration.grid import Grid, until
from integration.node import Node

CALLS = 100
LONG = 6
TASKS = {
    "tasks/keyed.py": """
import os
import time

def handler(event):
    print(f"ran {event}", flush=True)
    time.sleep(event["seconds"])
    return os.urandom(8).hex()
""",
    "tasks/chain.py": """
import time
from grid import invoke

def handler(event, context):
    left = context.remaining()
    time.sleep(0.1)
    return [left, *(invoke("chain", event - 1) if event else [])]
""",
    "tasks/loop.py": """
import time

def handler(event, context):
    print(f"began {event}", flush=True)
    while not context.cancelled:
        time.sleep(0.01)
    print(f"gave up {event}", flush=True)

def name(event, context):
    return context.instance
""",
    "tasks/once.py": """
import asyncio

async def handler(event, context):
    print(f"ran {event}", flush=True)
    if context.attempt == 1:
        await asyncio.sleep(LONG)
    return event
""".replace("LONG", str(LONG)),
    "grid.toml": """
[tasks.twice]
idempotent = true

[tasks.chain]
instances = 2
""",
}
TASKS["tasks/twice.py"] = TASKS["tasks/once.py"]
LEAVE = """
import http.client, sys
connection = http.client.HTTPConnection("127.0.0.1", 10000)
connection.request("POST", sys.argv[1], sys.argv[2])
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def served(opened: Opened, base: Path, tmp_path_factory: pytest.TempPathFactory) -> Grid:
    """Three nodes that serve the tasks above."""
    opened.settle(base)
    opened.grid.deploy(project.write(tmp_path_factory.mktemp("projects") / "calls", TASKS))
    return opened.grid


def printed(grid: Grid, task: str, node: Node | None = None) -> Counter[str]:
    """The lines that this task file's instances have printed."""
    rows = [row["Id"] for row in grid.sandboxes(node) if row["Config"]["Labels"]["gridcontrol.task"] == task]
    return Counter(line for row in rows for line in engine.run("docker", "logs", row).stdout.splitlines())


def through(node: Node, work: Callable[[Client], Awaitable[Any]], grid: Grid) -> Any:
    """Run `work` with a connection to this node."""

    async def run() -> Any:
        async with Client.connect(grid.gridfile, [f"127.0.0.1:{node.port}"]) as client:
            return await work(client)

    return asyncio.run(run())


# -- deadlines ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["header", "query", "sdk"])
def test_a_deadline_given_once_travels_every_hop(served: Grid, way: str) -> None:
    """Over another node, and from there on to calls of calls."""
    node = served.nodes["node-1"]
    if way == "sdk":
        left = through(node, lambda client: client.invoke("chain", 2, timeout=9, node="node-2"), served)
    else:
        query, headers = ("&timeout=9", {}) if way == "query" else ("", {"Grid-Timeout": "9"})
        answer = node.http("POST", f"/v1/invoke/chain?node=node-2{query}", b"2", headers)
        assert answer.status == 200, answer.body
        left = answer.json
    assert len(left) == 3
    assert 9 >= left[0] > left[1] + 0.05 > left[2] + 0.1 > 0.1


# -- ends -----------------------------------------------------------------------------------------------------------


def test_a_client_that_goes_away_frees_the_instance(served: Grid) -> None:
    """A sync handler learns it too, and its instance lives on."""
    node = served.nodes["node-1"]
    before = node.http("POST", "/v1/invoke/loop.name?node=node-2").json
    argv = ["docker", "exec", "-i", node.container, "/usr/bin/python3", "-I", "-c", LEAVE]
    with subprocess.Popen([*argv, "/v1/invoke/loop?node=node-2", '"http"'], stdin=subprocess.PIPE) as client:
        until(lambda: printed(served, "loop")["began http"], PATIENCE, "the call runs")
        client.communicate()
    until(lambda: printed(served, "loop")["gave up http"], PATIENCE, "the handler has heard of it")
    assert node.http("POST", "/v1/invoke/loop.name?node=node-2&timeout=9").json == before


def test_a_cancel_and_a_deadline_reach_the_handler(served: Grid) -> None:
    async def gives_up(client: Client) -> Outcome:
        call = asyncio.ensure_future(client.call("loop", "cancel", node="node-3"))
        await asyncio.to_thread(until, lambda: printed(served, "loop")["began cancel"], PATIENCE, "the call runs")
        call.cancel()
        await asyncio.wait({call})
        return await client.call("loop", "late", node="node-3", timeout=1)

    outcome = through(served.nodes["node-1"], gives_up, served)
    assert outcome.duration < 3
    until(lambda: printed(served, "loop")["gave up cancel"], PATIENCE, "the cancelled one has heard of it")
    until(lambda: printed(served, "loop")["gave up late"], PATIENCE, "the late one has heard of it")


def test_a_queue_that_is_full_refuses_at_once(served: Grid) -> None:
    """One call inside, 256 wait; the next is refused, with Retry-After, long before any of them ends."""
    node = served.nodes["node-1"]

    async def fill(client: Client) -> list[type | None]:
        calls = [asyncio.ensure_future(client.call("loop", n, node="node-1", timeout=12)) for n in range(300)]
        done, _ = await asyncio.wait(calls, timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED)
        refused = {type(call.result().error) for call in done}
        assert refused == {NoCapacity}
        answer = await asyncio.to_thread(node.http, "POST", "/v1/invoke/loop?node=node-1", b"1")
        assert (answer.status, answer.json["error"]["code"]) == (429, "no_capacity"), answer.body
        assert int(answer.headers["Retry-After"]) >= 1
        assert sum(call.done() for call in calls) == 43
        outcomes = await asyncio.gather(*calls)
        return [type(outcome.error) for outcome in outcomes]

    ends = Counter(through(node, fill, served))
    assert ends[NoCapacity] + ends[CallTimeout] > 290, "but those that got inside, and gave up by themselves"
    assert set(ends) <= {NoCapacity, CallTimeout, type(None)}


# -- how often ------------------------------------------------------------------------------------------------------


def test_calls_with_one_key_run_once_wherever_they_come_from(served: Grid) -> None:
    headers = {"Idempotency-Key": "order 17"}
    body = b'{"seconds":2}'
    nodes = list(served.nodes.values())
    with ThreadPoolExecutor(len(nodes)) as pool:
        answers = list(pool.map(lambda node: node.http("POST", "/v1/invoke/keyed", body, headers), nodes))
    assert [answer.status for answer in answers] == [200] * 3
    token = answers[0].json
    assert {answer.json for answer in answers} == {token}
    cli = served.gridctl("invoke", "keyed", "-d", body.decode(), "--idempotency-key", "order 17")
    assert (cli.returncode, json.loads(cli.stdout)) == (0, token)
    sdk = through(nodes[2], lambda client: client.invoke("keyed", {"seconds": 2}, idempotency_key="order 17"), served)
    assert sdk == token
    assert printed(served, "keyed") == {"ran {'seconds': 2}": 1}

    other = nodes[1].http("POST", "/v1/invoke/keyed", b'{"seconds": 0}', headers)
    assert (other.status, other.json["error"]["code"]) == (422, "key_reused")
    assert nodes[1].http("POST", "/v1/invoke/keyed", b'{"seconds": 0}', {"Idempotency-Key": "18"}).json != token


def test_a_node_killed_with_calls_inside_fails_only_those_that_may_not_run_twice(served: Grid) -> None:
    lost = served.nodes["node-3"]
    ended: dict[tuple[str, int], float] = {}

    async def ask(client: Client, task: str, number: int) -> Outcome:
        outcome = await client.call(task, number)
        ended[task, number] = time.monotonic()
        return outcome

    async def calls(client: Client) -> tuple[list[Outcome], list[Outcome]]:
        asked = [[asyncio.ensure_future(ask(client, task, n)) for n in range(CALLS)] for task in ("once", "twice")]
        await asyncio.to_thread(until, all_run, LONG, "every call runs")
        await asyncio.to_thread(served.kill, lost)
        once, twice = [await asyncio.gather(*found) for found in asked]
        return once, twice

    def all_run() -> bool:
        return all(printed(served, task).total() == CALLS for task in ("once", "twice"))

    once, twice = through(served.nodes["node-1"], calls, served)
    inside = {task: {int(line.split()[1]) for line in printed(served, task, lost)} for task in ("once", "twice")}
    assert len(inside["once"]) > CALLS / 5, "the lost node had its share"

    assert {n for n, outcome in enumerate(once) if outcome.error} == inside["once"]
    assert {type(outcome.error) for outcome in once if outcome.error} == {NodeLost}
    assert {outcome.attempts for outcome in once} == {1}
    assert printed(served, "once") == {f"ran {n}": 1 for n in range(CALLS)}

    assert [outcome.error for outcome in twice] == [None] * CALLS
    assert {n for n, outcome in enumerate(twice) if outcome.attempts == 2} == inside["twice"]
    assert "node-3" not in {outcome.name for outcome in twice}
    assert printed(served, "twice") == {f"ran {n}": 2 if n in inside["twice"] else 1 for n in range(CALLS)}

    heard = [ended["once", n] for n in inside["once"]]
    again = [ended["twice", n] for n in inside["twice"]]
    print(f"{len(heard)} callers told within {max(heard) - min(heard):.3f} s of detection")
    print(f"{len(again)} run again by {max(again) - min(heard):.3f} s after it")
    assert max(heard) - min(heard) <= 1.0
    assert max(again) - min(heard) <= 2.0
