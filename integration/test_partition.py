"""Grids that split and heal, nodes that stand still for long, and a node whose disk was cloned."""

import json
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from integration import engine, project
from integration.conftest import PATIENCE
from integration.engine import docker
from integration.grid import GRIDCTL, Grid, until
from integration.node import Node
from integration.subnets import rules

NAMES = ("node-1", "node-2", "node-3", "node-4")


@pytest.fixture(scope="module")
def four(nothing_left: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Grid]:
    """Four nodes of a grid of their own, that serve the base project."""
    grid = Grid(4, "split")
    until(grid.is_full_mesh, PATIENCE, "a full mesh")
    grid.deploy(project.write(tmp_path_factory.mktemp("projects") / "base"))
    yield grid
    grid.close()


@contextmanager
def split(one: list[Node], other: list[Node]) -> Iterator[None]:
    """Nothing passes between the two while the block runs."""
    far = ", ".join(node.address for node in other)
    chains = [f"add chain inet split {hook} {{ type filter hook {hook} priority 0; }}" for hook in ("input", "output")]
    drops = [
        f"add rule inet split input ip saddr {{ {far} }} drop",
        f"add rule inet split output ip daddr {{ {far} }} drop",
    ]
    for node in one:
        rules(node.container, "add table inet split", *chains, *drops)
    try:
        yield
    finally:
        for node in one:
            rules(node.container, "delete table inet split")


def via(grid: Grid, node: Node, path: Path, *argv: str) -> Any:
    """gridctl with a Gridfile that knows this node alone."""
    gridfile = grid.gridfile_for(node, path / f"Gridfile-{node.name}")
    return engine.run(str(GRIDCTL), *argv, "--gridfile", gridfile, timeout=120)


@pytest.mark.parametrize("size", [4, 3], ids=["2|2", "2|1"])
def test_both_sides_of_a_split_serve_and_deploy_and_are_one_again_after_it(
    four: Grid, size: int, tmp_path: Path
) -> None:
    nodes = list(four.nodes.values())[:size]
    near, far = nodes[:2], nodes[2:]
    for node in list(four.nodes.values())[size:]:
        four.stop(node)
    with split(far, near):
        started = time.monotonic()
        until(lambda: _sees_itself(four, near) and _sees_itself(four, far), PATIENCE, "both sides are whole")
        print(f"both sides know {time.monotonic() - started:.1f} s after the split")
        with ThreadPoolExecutor(2) as pool:
            deploys = [
                pool.submit(via, four, side[0], tmp_path, "deploy", str(directory), "--json", "-y")
                for number, side in enumerate((near, far))
                for directory in [project.write(tmp_path / str(number) / "base", project.versioned(size * 10 + number))]
            ]
        for number, (side, deploy) in enumerate(zip((near, far), deploys, strict=True)):
            assert deploy.result().returncode == 0, deploy.result().stderr
            for node in side:
                called = node.http("POST", "/v1/invoke/probe.version")
                assert (called.status, called.json) == (200, size * 10 + number)
    healed = time.monotonic()
    until(lambda: _sees_itself(four, nodes), PATIENCE, "one grid")
    print(f"one again {time.monotonic() - healed:.1f} s after the split ended")
    until(lambda: len(_roots(nodes)) == 1, PATIENCE, "all serve the same one of the two releases")
    paths = [f"/v1/invoke/probe.version?node={node.name}" for node in nodes]
    versions = {node.http("POST", path).json for node in nodes for path in paths}
    assert len(versions) == 1
    assert versions <= {size * 10, size * 10 + 1}
    for node in list(four.nodes.values())[size:]:
        four.start(node)
    until(four.is_full_mesh, PATIENCE, "a full mesh")


def _sees_itself(grid: Grid, side: list[Node]) -> bool:
    """Whether each of them sees all of them alive, and nobody else."""
    return all(grid.alive(node) == {one.name for one in side} for node in side)


def _roots(nodes: list[Node]) -> set[str]:
    """What the nodes serve, once all are active, as the first sees it."""
    rows = nodes[0].http("GET", "/v1/nodes").json["nodes"]
    releases = [row["record"]["release"] for row in rows if row["state"] == "alive"]
    active = [release["root"] for release in releases if release and release["state"] == "active"]
    return set(active) if len(active) == len(nodes) else set()


def test_a_node_that_stood_still_for_half_a_minute_is_taken_back(four: Grid) -> None:
    frozen, others = four.nodes["node-2"], [four.nodes[name] for name in NAMES if name != "node-2"]
    with four.frozen(frozen):
        started = time.monotonic()
        until(lambda: "node-2" not in four.alive(others[0]), PATIENCE, "it is missed")
        print(f"missed {time.monotonic() - started:.1f} s after it froze")
        until(lambda: _state(others[0], "node-2") == "dead", PATIENCE, "it is dead")
        print(f"dead {time.monotonic() - started:.1f} s after it froze")
        with others[0].load("echo", jobs=2) as load:
            until(lambda: time.monotonic() - started > 30, 60, "half a minute is over")
        assert set(load.statuses) == {200}
    until(four.is_full_mesh, PATIENCE, "a full mesh")
    called = others[0].http("POST", "/v1/invoke/echo?node=node-2", b"1")
    assert (called.status, called.json) == (200, 1)


@contextmanager
def lossy(node: Node, percent: int) -> Iterator[None]:
    """Of what comes to the node so much is lost, at random, while the block runs."""
    chain = "add chain inet lossy input { type filter hook input priority 0; }"
    rule = f"add rule inet lossy input iifname != lo numgen random mod 100 < {percent} drop"
    rules(node.container, "add table inet lossy", chain, rule)
    try:
        yield
    finally:
        rules(node.container, "delete table inet lossy")


def test_a_fifth_of_all_packets_lost_slows_calls_and_fails_few(four: Grid) -> None:
    with ExitStack() as stack:
        for node in four.nodes.values():
            stack.enter_context(lossy(node, 20))
        with four.nodes["node-1"].load("echo?timeout=30", jobs=8) as load:
            until(lambda: load.statuses.total() >= 200, 2 * PATIENCE, "calls get through")
        print(f"{load.statuses} on {load.nodes}, slowest {load.slowest:.1f} s, errors {load.errors}")
        assert load.statuses[200] >= 0.95 * load.statuses.total()
    until(four.is_full_mesh, PATIENCE, "a full mesh")


def test_a_node_with_a_cloned_disk_is_refused_with_advice(four: Grid) -> None:
    original = four.nodes["node-1"]
    clone = four.directory / "node-9" / "data"
    clone.mkdir(parents=True)
    shutil.copy(original.directory / "data" / "node.key", clone / "node.key")
    twin = four.add("node-9", card=(original.directory / "Card").read_text())
    try:
        said = until(lambda: _complaints(twin), PATIENCE, "the twin says why it is alone")
        assert "was a disk cloned?" in said[0]["hint"]
        assert "node.key" in said[0]["hint"]
        until(lambda: any(_complaints(four.nodes[name]) for name in NAMES), PATIENCE, "so do the others")
        rows = four.nodes["node-2"].http("GET", "/v1/nodes").json["nodes"]
        assert {row["record"]["name"]: row["state"] for row in rows} == dict.fromkeys(NAMES, "alive")
        assert four.nodes["node-2"].http("POST", "/v1/invoke/echo?node=node-1", b"1").json == 1
    finally:
        docker("stop", "-t", "5", twin.container)
        engine.remove_containers([twin.container])
        del four.nodes["node-9"]
    until(four.is_full_mesh, PATIENCE, "a full mesh")


def _state(node: Node, name: str) -> str:
    rows = node.http("GET", "/v1/nodes").json["nodes"]
    return next((str(row["state"]) for row in rows if row["record"]["name"] == name), "")


def _complaints(node: Node) -> list[dict[str, Any]]:
    lines = (json.loads(line) for line in node.logs().splitlines() if '"a node id is used twice"' in line)
    return list(lines)
