"""When an order counts as carried out."""

from dataclasses import replace
from typing import Any

import pytest

from gridctl.settle import Settle, Standing, standing
from gridnode.messages import ProcessReport
from gridnode.model import InstanceId, MemberState, NodeId, Process

NODE = NodeId("a" * 40)


def process(state: str, instance: str = "", why: str = "", task: str = "echo") -> Process:
    return Process(task, f"tasks/{task}.py", state, InstanceId(instance) if instance else None, why=why)


def report(*processes: Process, seen: int = 2, **changes: Any) -> ProcessReport:
    return ProcessReport(NODE, "node-1", processes=processes, orders={"echo": seen}, **changes)


READY, FRESH, DRAINING = process("ready", "old"), process("ready", "new"), process("draining", "old")


@pytest.mark.parametrize(
    ("processes", "stale", "state", "counts"),
    [
        ((READY, FRESH), {}, "done", (2, 2, 0)),
        ((), {}, "done", (0, 0, 0)),
        ((READY, process("starting")), {}, "waiting", (1, 2, 0)),
        ((READY, process("waiting", why="boom")), {}, "waiting", (1, 2, 0)),
        ((READY, DRAINING), {}, "waiting", (1, 1, 1)),
        ((DRAINING,), {}, "waiting", (0, 0, 1)),
        ((READY, process("errored", why="boom")), {}, "errored", (1, 2, 0)),
        ((READY,), {"old": ""}, "waiting", (0, 1, 0)),
        ((FRESH,), {"old": ""}, "done", (1, 1, 0)),
        ((process("ready", "old", "no module"),), {"old": ""}, "errored", (0, 1, 0)),
        ((process("ready", "old", "no module"),), {"old": "no module"}, "waiting", (0, 1, 0)),
        ((READY, process("errored", task="words")), {}, "done", (1, 1, 0)),
    ],
)
def test_states(
    processes: tuple[Process, ...], stale: dict[str, str], state: str, counts: tuple[int, int, int]
) -> None:
    one = standing(report(*processes), {"echo": 2}, stale)
    assert (one.state, (one.ready, one.wanted, one.draining)) == (state, counts)
    assert one.final is (state != "waiting")
    assert one.reachable


def test_a_node_that_has_not_heard_is_waited_for() -> None:
    one = standing(report(READY, seen=1), {"echo": 2}, {})
    assert (one.state, one.error) == ("waiting", "it has not heard of the order for echo")


def test_a_node_that_does_not_answer_is_waited_for_and_a_dead_one_is_not() -> None:
    silent = standing(report(error="no answer within 2 s"), {"echo": 2}, {})
    assert (silent.state, silent.error, silent.reachable) == ("waiting", "no answer within 2 s", True)
    dead = standing(report(state=MemberState.DEAD, error="node-1 is dead"), {"echo": 2}, {})
    assert (dead.state, dead.final, dead.reachable) == ("dead", True, False)


class Replies:
    """A grid that answers each look with the next of these."""

    def __init__(self, *looks: list[ProcessReport]) -> None:
        self.looks = list(looks)
        self.asked: list[str] = []

    async def processes(self, task: str = "") -> list[ProcessReport]:
        self.asked.append(task)
        return self.looks.pop(0)


async def test_it_looks_until_every_node_is_done_and_tells_each_change_once() -> None:
    starting = report(process("starting"))
    other = replace_node(report(READY))
    grid = Replies([starting, other], [starting, other], [report(READY), other])
    told: list[Standing] = []
    settle = Settle(grid, {"echo": 2}, told.append)
    await settle.run()
    assert grid.asked == ["echo"] * 3
    assert [(one.name, one.state) for one in told] == [("node-1", "waiting"), ("node-2", "done"), ("node-1", "done")]
    assert {one.state for one in settle.standings.values()} == {"done"}
    assert replace(told[0], state="done").final


async def test_several_tasks_are_asked_about_together() -> None:
    grid = Replies([ProcessReport(NODE, "node-1", processes=(READY,), orders={"echo": 1, "words": 1})])
    assert await Settle(grid, {"echo": 1, "words": 1}, lambda one: None).poll()
    assert grid.asked == [""]


def replace_node(one: ProcessReport) -> ProcessReport:
    return ProcessReport(NodeId("b" * 40), "node-2", one.state, one.processes, one.orders)
