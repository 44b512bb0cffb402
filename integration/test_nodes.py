"""Nodes in operation: listed, drained, forgotten, pinged, and diagnosed with real faults."""

import itertools
import json
import subprocess
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from gridctl.new import card_text, load_gridfile
from integration import engine, project
from integration.conftest import PATIENCE, is_active
from integration.grid import Grid, until
from integration.node import Load, Node

NAMES = {"node-1", "node-2", "node-3"}
DAY = 86_400.0
UNMOUNT = "import ctypes; assert ctypes.CDLL(None).umount2(b'/var/run/docker.sock', 2) == 0"
"""Takes the engine's socket away from a node that runs: lazily, MNT_DETACH."""


def said(grid: Grid, *argv: str, code: int = 0) -> dict[str, Any]:
    """The command's answer in JSON."""
    ended = grid.gridctl(*argv, "--json")
    assert ended.returncode == code, ended.stdout + ended.stderr
    fields: dict[str, Any] = json.loads(ended.stdout)
    return fields


def row(grid: Grid, name: str) -> dict[str, Any]:
    return next((one for one in grid.members() if one["name"] == name), {})


def wrong(grid: Grid, code: int = 1) -> dict[str, dict[str, str]]:
    """What the doctor finds wrong: by node, the grid among them, what is said by subject."""
    found = said(grid, "doctor", code=code)
    checks = ((one["name"], check) for one in (found["grid"], *found["nodes"]) for check in one["checks"])
    texts: dict[str, dict[str, str]] = {one["name"]: {} for one in (found["grid"], *found["nodes"])}
    for name, check in checks:
        if check["verdict"] == "wrong":
            texts[name][check["subject"]] = f"{texts[name].get(check['subject'], '')}{check['said']}; "
    return texts


def inside(node: Node, *argv: str, namespace: str = "-n") -> None:
    """Run a command of this machine in a namespace of the node's container."""
    pid = str(engine.inspect(node.container)[0]["State"]["Pid"])
    subprocess.run(["nsenter", "-t", pid, namespace, *argv], check=True, capture_output=True)


@pytest.fixture
def extra(grid: Grid) -> Iterator[list[Node]]:
    """Nodes that go with the test."""
    added: list[Node] = []
    yield added
    for node in added:
        if node.name in grid.nodes:
            grid.drop(node)


def test_nodes_are_listed_with_all_there_is_to_know(grid: Grid) -> None:
    rows = {one["name"]: one for one in grid.members() if one["state"] != "left"}
    assert set(rows) == NAMES
    assert {(one["state"], one["drained"], one["last_seen"]) for one in rows.values()} == {("alive", False, None)}
    assert all(one["addresses"] and one["version"] and one["release"]["state"] == "active" for one in rows.values())
    head, *lines = grid.gridctl("ls").stdout.splitlines()
    assert head.split() == ["NAME", "ID", "ADDRESS", "STATE", "RELEASE", "LOAD", "VERSION", "UPTIME", "SEEN"]
    assert {line.split()[0] for line in lines} >= NAMES


def test_a_drained_node_finishes_its_calls_and_stays_drained_over_a_restart(grid: Grid) -> None:
    def serves_again() -> dict[str, Any]:
        here = row(grid, "node-2")
        is_back = here.get("state") == "alive" and is_active(here, row(grid, "node-1")["release"]["root"])
        return here if is_back else {}

    with ThreadPoolExecutor(1) as aside, grid.nodes["node-1"].load("echo", jobs=4, rate=200) as load:
        until(lambda: load.nodes["node-2"] > 20, PATIENCE, "calls on node-2")
        nap = a_nap_inside(grid, "node-2", aside)
        done = said(grid, "drain", "node-2")["nodes"][0]
        assert (done["done"], done["calls"]) == (True, 0)
        assert nap.result(PATIENCE).stdout.strip() == '"slept"'
        before = load.nodes["node-2"]
        goes_on_elsewhere(load, before)
        grid.restart(grid.nodes["node-2"])
        assert until(serves_again, PATIENCE, "it is back")["drained"] is True
        assert " drained " in grid.gridctl("ls").stdout
        goes_on_elsewhere(load, before)
        said(grid, "undrain", "node-2")
        until(lambda: load.nodes["node-2"] > before + 20, PATIENCE, "calls on node-2 again")
    assert set(load.statuses) == {200}, load.errors


def a_nap_inside(grid: Grid, name: str, aside: Executor) -> "Future[subprocess.CompletedProcess[str]]":
    """A call that a node is busy with; a longer one, should it be over before it was seen."""
    lengths = itertools.count(1)

    def is_inside() -> bool:
        [report] = [one for one in said(grid, "ps", "probe")["nodes"] if one["name"] == name]
        return any(process["calls"] for process in report["processes"])

    def napping() -> "Future[subprocess.CompletedProcess[str]] | None":
        seconds = str(2 ** next(lengths))
        nap = aside.submit(grid.gridctl, "invoke", "probe.nap", "-d", seconds, "--node", name)
        while not nap.done():
            if is_inside():
                return nap
        return None

    return until(napping, PATIENCE, "a nap inside")


def goes_on_elsewhere(load: Load, before: int) -> None:
    """Calls go on, and none to the drained node, which had had so many."""
    total = load.statuses[200]
    until(lambda: load.statuses[200] > total + 100, PATIENCE, "calls go on elsewhere")
    assert load.nodes["node-2"] == before


def test_every_node_pings_every_other(grid: Grid) -> None:
    rows = said(grid, "ping", "--all", "--count", "3")["nodes"]
    assert {one["name"]: {to["name"] for to in one["to"]} for one in rows} == {name: NAMES - {name} for name in NAMES}
    assert all(len(to["ms"]) == 3 for one in rows for to in one["to"])
    assert "median" in grid.gridctl("ping", "node-2", "-c", "3").stdout
    with grid.frozen(grid.nodes["node-3"]):
        ended = grid.gridctl("ping", "--all")
        assert (ended.returncode, "node-3" in ended.stdout) == (3, True)


def test_a_sound_grid_is_found_sound(grid: Grid) -> None:
    assert wrong(grid, code=0) == {"grid": {}, "node-1": {}, "node-2": {}, "node-3": {}}


def test_faults_are_found_where_they_are_and_a_dead_node_is_forgotten(grid: Grid, extra: list[Node]) -> None:
    short = card_text(load_gridfile(grid.gridfile), "lame", ttl=DAY, seeds=())
    lame = grid.add("lame", card=short, env={"GRIDNODE_DISK_RESERVE": str(10**15)})
    nameless = grid.add("localhost")
    extra += [lame, nameless]
    name = until(lambda: "".join(alive(grid) - NAMES - {"lame"}), PATIENCE, "the fifth node")
    assert name.count("-") == 1
    assert (nameless.directory / "data" / "name").read_text() == f"{name}\n"
    until(lambda: "lame" in alive(grid), PATIENCE, "it is linked")
    inside(lame, "/usr/bin/python3", "-c", UNMOUNT, namespace="-m")
    inside(lame, "iptables", "-I", "INPUT", "-p", "tcp", "--dport", "7400", "--syn", "-j", "DROP")
    found = wrong(grid)
    assert set(found["lame"]) >= {"disk", "card", "engine"}
    assert "no container engine answers" in found["lame"]["engine"]
    assert all("lame cannot be dialled from here" in found[one]["ports"] for one in (*NAMES, name))
    assert "seeds" in found["grid"]
    is_forgotten_when_it_is_dead(grid, lame)


def is_forgotten_when_it_is_dead(grid: Grid, late: Node) -> None:
    """Everywhere, and not before; and when it starts again it is a member again."""
    others = [node for node in grid.nodes.values() if node is not late]

    def known() -> set[str]:
        rows = [one for node in others for one in node.http("GET", "/v1/nodes").json["nodes"]]
        return {one["record"]["name"] for one in rows}

    assert f"{late.name} is alive" in said(grid, "forget", late.name, code=2)["error"]["message"]
    grid.kill(late)
    until(lambda: row(grid, late.name)["state"] == "dead", PATIENCE, "it is dead")
    assert f"{late.name} is dead" in wrong(grid)["grid"]["members"]
    assert said(grid, "forget", late.name) == {"schema": 1, "id": late.id, "name": late.name, "was": "dead"}
    until(lambda: late.name not in known(), PATIENCE, "nobody knows it")
    assert said(grid, "forget", late.name, code=5)["error"]["code"] == "node_not_found"
    grid.start(late)
    until(lambda: all(late.name in grid.alive(node) for node in others), PATIENCE, "it is a member again")


def alive(grid: Grid) -> set[str]:
    return {one["name"] for one in grid.members() if one["state"] == "alive"}


def test_a_release_that_lacks_its_image(grid: Grid, tmp_path: Path) -> None:
    grid.disturbed = True
    toml = '[tasks.echo]\nimage = "nowhere/nothing:1"\n'
    ended = grid.gridctl("deploy", str(project.write(tmp_path / "base", {"grid.toml": toml})), "--timeout", "20")
    assert ended.returncode != 0
    found = wrong(grid)
    assert "failed on node-1" in found["grid"]["release"]
    assert all("nowhere/nothing:1 is not there, for echo" in found[name]["images"] for name in NAMES)
