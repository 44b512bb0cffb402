"""Tasks that call tasks, over the whole grid."""

import json
from pathlib import Path

from integration import project
from integration.grid import Grid
from integration.node import Node

CALLER = """
import time
from grid import TaskError, context, invoke, log

def handler(event):
    log.info("calling")
    return {"result": invoke("callee", event), "id": context.invocation_id}

def typed(event):
    try:
        invoke("callee.fail", event)
    except TaskError as e:
        return [type(e).__name__, e.code, e.message, "raise ValueError" in e.trace]

def uncaught(event):
    return invoke("callee.fail", event)

def impatient(event):
    started = time.monotonic()
    try:
        invoke("callee.nap", 20, timeout=0.3)
    except TaskError as e:
        return [e.code, time.monotonic() - started < 5]

def unknown(event):
    return invoke("no-such-task")
"""
CALLEE = """
import time

def handler(event):
    return [event, event]

def fail(event):
    raise ValueError(f"cannot take {event}")

def nap(event):
    time.sleep(event)
"""
DEEP = """
import grid

async def handler(event):
    try:
        return 1 + await grid.invoke_async("deep")
    except grid.Forbidden as e:
        assert "8 deep" in e.message
        return 1

async def wide(event):
    import asyncio
    return sum(await asyncio.gather(*(grid.invoke_async("callee", n) for n in range(event))), [])
"""
FILES = {"tasks/caller.py": CALLER, "tasks/callee.py": CALLEE, "tasks/deep.py": DEEP}


def result(node: Node, task: str, event: object = None) -> object:
    response = node.http("POST", f"/v1/invoke/{task}", json.dumps(event).encode())
    assert response.status == 200, response.body
    return response.json


def test_tasks_call_tasks(grid: Grid, node: Node, tmp_path: Path) -> None:
    grid.deploy(project.write(tmp_path / "nested", FILES))
    answer = result(node, "caller", "x")
    assert isinstance(answer, dict)
    assert answer["result"] == ["x", "x"]
    assert result(node, "caller.typed", 3) == ["TaskRaised", "task_raised", "ValueError: cannot take 3", True]
    assert result(node, "caller.impatient") == ["timeout", True]
    assert result(node, "deep") == 9
    assert result(node, "deep.wide", 20) == [n for n in range(20) for _ in range(2)]

    failed = node.http("POST", "/v1/invoke/caller.uncaught", b"3").json["error"]
    assert (failed["code"], failed["message"]) == ("task_raised", "TaskRaised: ValueError: cannot take 3")
    assert "raise ValueError" in failed["trace"]
    assert "TaskNotFound" in node.http("POST", "/v1/invoke/caller.unknown", b"3").json["error"]["message"]
