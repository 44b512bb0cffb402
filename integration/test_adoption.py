"""A node that comes back takes its running sandboxes over, and one that goes lets every call finish."""

import time
from concurrent.futures import ThreadPoolExecutor

from integration import project
from integration.conftest import PATIENCE
from integration.engine import docker
from integration.grid import Grid, until
from integration.node import Node

SERVING_WITHIN = 15.0  # a bound that a loaded machine keeps; `scripts/bench recovery` has the figure


def test_a_killed_node_serves_again_at_once_with_the_sandboxes_it_had(grid: Grid, node: Node) -> None:
    before = _ids(grid, node)
    start = time.monotonic()
    grid.kill(node)
    grid.start(node)
    until(lambda: _answers(node), PATIENCE, "it answers")
    took = time.monotonic() - start
    print(f"from kill -9 to serving again: {took:.2f} s")
    assert len(before) == project.TASK_FILES
    assert _ids(grid, node) == before
    assert node.logs().count("instance adopted") == project.TASK_FILES
    assert took <= SERVING_WITHIN


def test_a_stopped_node_leaves_its_sandboxes_to_its_next_life(grid: Grid, node: Node) -> None:
    before = _ids(grid, node)
    grid.stop(node)
    assert node.exit_code == 0
    assert _ids(grid, node) == before
    grid.start(node)
    until(lambda: _answers(node), PATIENCE, "it answers")
    assert _ids(grid, node) == before


def test_a_sandbox_that_ended_meanwhile_is_replaced(grid: Grid, node: Node) -> None:
    before = _ids(grid, node)
    grid.kill(node)
    lost = min(before)
    docker("kill", lost)
    grid.start(node)
    until(lambda: len(_ids(grid, node) - {lost}) == project.TASK_FILES, PATIENCE, "both tasks have an instance")
    assert before - _ids(grid, node) == {lost}


def test_no_call_fails_while_all_nodes_are_restarted_one_after_the_other(grid: Grid) -> None:
    for name in list(grid.nodes):
        asked = next(other for other in grid.nodes.values() if other.name != name)
        with asked.load("echo", jobs=4) as load:
            until(lambda: load.nodes[name] > 10, PATIENCE, f"calls reach {name}")  # noqa: B023
            grid.restart(grid.nodes[name])
            seen = load.nodes[name]
            until(lambda: load.nodes[name] > seen + 10, PATIENCE, f"calls reach {name} again")  # noqa: B023
        print(f"{name}: {load.statuses}, slowest {load.slowest:.2f} s")
        assert (set(load.statuses), load.errors) == ({200}, {})


def test_a_long_call_is_let_finish(grid: Grid) -> None:
    leaving = grid.nodes["node-2"]
    with ThreadPoolExecutor(1) as pool:
        napping = pool.submit(grid.gridctl, "invoke", "probe.nap", "-d", "4", "--node", leaving.name, "--json")
        until(lambda: _in_flight(grid, leaving), PATIENCE, "the call is inside")
        start = time.monotonic()
        grid.stop(leaving)
        print(f"stopped in {time.monotonic() - start:.1f} s")
        ended = napping.result(PATIENCE)
    assert ended.returncode == 0, ended.stderr
    assert "slept" in ended.stdout


def _ids(grid: Grid, node: Node) -> set[str]:
    return {row["Id"] for row in grid.sandboxes(node) if row["State"]["Running"]}


def _answers(node: Node) -> bool:
    try:
        return node.http("POST", f"/v1/invoke/echo?node={node.name}", b"1").status == 200
    except RuntimeError:
        return False


def _in_flight(grid: Grid, node: Node) -> bool:
    return any(row["name"] == node.name and row["load"]["in_flight"] for row in grid.members())
