"""Thirty live nodes that are linked to a few of each other: they find all, answer for all, and survive ten deaths."""

import asyncio
import json
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from gridctl import Grid as Client
from gridctl.new import card_text, load_gridfile
from gridnode.errors import GridError
from gridnode.model import MemberState
from integration import project
from integration.engine import docker
from integration.grid import Grid, until
from integration.node import Node

COUNT, KILLED = 30, 10
PATIENCE = 180.0
FULL = 8
"""Up to how many nodes these would link all to all."""
CONFIG = "[defaults]\non = { works = true }\n"


@pytest.fixture(scope="module")
def many(nothing_left: None) -> Iterator[Grid]:
    """The first two have a label, by which alone they get sandboxes."""
    grid = Grid(0, "many")
    gridfile = load_gridfile(grid.gridfile)
    for number in range(1, COUNT + 1):
        name = f"node-{number}"
        card = card_text(gridfile, name, labels={"works": str(number <= 2).lower()}, seeds=())
        grid.add(name, card, env={"GRIDNODE_FULL_MESH": str(FULL)})
    yield grid
    grid.close()


async def test_thirty_nodes_find_each_other(many: Grid) -> None:
    started = time.monotonic()
    await _all_see(many, list(many.nodes.values()))
    print(f"{COUNT} nodes know of each other {time.monotonic() - started:.1f} s after the last was started")
    links = sorted(_links(node) for node in list(many.nodes.values())[::5])
    print(f"links of a node, some of them: {links}")
    assert links[0] >= 2
    assert links[len(links) // 2] < COUNT * 2 // 3, "not all are linked to all"


def test_one_answers_for_all_and_calls_reach_who_is_not_linked(many: Grid, tmp_path: Path) -> None:
    report = many.deploy(project.write(tmp_path / "base", {"grid.toml": CONFIG}))
    assert [row["state"] for row in report["nodes"]] == ["active"] * COUNT
    ended = many.gridctl("ps", "--json")
    assert ended.returncode == 0, ended.stderr
    rows = json.loads(ended.stdout)["nodes"]
    assert (len(rows), {row["error"] for row in rows}) == (COUNT, {None})
    for node in list(many.nodes.values())[2:10]:
        for target in ("node-1", "node-2"):
            called = node.http("POST", f"/v1/invoke/echo?node={target}", b"1")
            assert (called.status, called.json) == (200, 1)


async def test_ten_deaths_at_once_are_known_to_all_and_the_rest_goes_on(many: Grid) -> None:
    nodes = list(many.nodes.values())
    killed, rest = nodes[-KILLED:], nodes[:-KILLED]
    started = time.monotonic()
    docker("kill", *(node.container for node in killed))
    await _all_see(many, rest)
    print(f"{KILLED} deaths are known to all {time.monotonic() - started:.1f} s after they were killed")
    called = rest[-1].http("POST", "/v1/invoke/echo", b"2")
    assert (called.status, called.json) == (200, 2)
    assert many.gridctl("scale", "echo=2").returncode == 0, "documents still reach all"
    until(lambda: len(many.sandboxes()) == 6, PATIENCE, "both nodes run two instances of echo and one of probe")


async def _all_see(grid: Grid, nodes: list[Node]) -> None:
    """Wait until each of these has counted exactly these as alive."""
    names, waiting = {node.name for node in nodes}, list(nodes)
    deadline = time.monotonic() + PATIENCE
    while waiting:
        told, _ = await asyncio.gather(asyncio.gather(*(_alive(grid, node) for node in waiting)), asyncio.sleep(0.1))
        differ = {node.name: len(seen ^ names) for node, seen in zip(waiting, told, strict=True) if seen != names}
        waiting = [node for node in waiting if node.name in differ]
        assert time.monotonic() < deadline, f"how many each sees wrongly: {differ}"


async def _alive(grid: Grid, node: Node) -> set[str]:
    """Whom it counts as alive; nobody while it does not answer."""
    with suppress(GridError):
        async with Client.connect(grid.gridfile, [f"127.0.0.1:{node.port}"], links=1) as client:
            return {one.record.name for one in await client.nodes() if one.state is MemberState.ALIVE}
    return set()


def _links(node: Node) -> int:
    """To how many others it has an open connection at the link's port, on either side."""
    inside = "cat /proc/net/tcp /proc/net/tcp6"
    lines = docker("exec", node.container, "sh", "-c", inside).splitlines()
    rows = [line.split() for line in lines if line.split()[3] == "01"]
    port = ":1CE8"
    ends = {row[2].split(":")[0] for row in rows if row[1].endswith(port) or row[2].endswith(port)}
    return len(ends)
