"""Somebody on the network floods every port of a grid with garbage and with what they heard: the grid works on."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from integration import engine
from integration.conftest import PATIENCE
from integration.engine import docker
from integration.grid import Grid, until
from integration.node import Node

PROGRAM = (Path(__file__).parent / "attacker.py").read_text()
SECONDS = 2.0
KINDS = ("dht-garbage", "dht-replays", "mdns-garbage", "mdns-strangers", "mdns-replays", "tcp-garbage", "tcp-silent")
COST = """
import os, pathlib, re
for path in pathlib.Path("/proc").glob("[0-9]*"):
    if (path / "comm").read_text().strip() == "gridnode":
        ticks = (path / "stat").read_text().rpartition(")")[2].split()[11:13]
        size = re.search(r"VmRSS:\\\\s+(\\\\d+)", (path / "status").read_text())
        print(sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK"), int(size[1]) / 1024)
"""


def attacker(network: str, *argv: str, options: tuple[str, ...] = ()) -> list[str]:
    labels = ("--label", f"{engine.TEST}={engine.RUN}", "--label", f"{engine.NAME}=attacker")
    python = ("--entrypoint", "/usr/bin/python3", engine.image(), "-c", PROGRAM)
    return ["docker", "run", "--rm", "-i", *labels, "--network", network, "--cap-drop", "ALL", *options, *python, *argv]


def cost(node: Node) -> tuple[float, float]:
    """Seconds of CPU that gridnode has used, and MB that it holds."""
    seconds, size = docker("exec", node.container, "/usr/bin/python3", "-c", COST.replace("\\\\", "\\")).split()
    return float(seconds), float(size)


@pytest.fixture(scope="module")
def heard(opened: object, base: Path) -> str:
    """What a node that starts and its peers send, as somebody beside them hears it."""
    opened.settle(base)  # type: ignore[attr-defined]
    grid: Grid = opened.grid  # type: ignore[attr-defined]
    listen = attacker(f"container:{grid.nodes['node-1'].container}", "listen", "6", options=("--cap-add", "NET_RAW"))
    with subprocess.Popen(listen, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as listening:
        grid.restart(grid.nodes["node-3"])
        until(grid.is_full_mesh, PATIENCE, "a full mesh")
        text, _ = listening.communicate(timeout=60)
    return text


@contextmanager
def flood(grid: Grid, kind: str, heard: str) -> Iterator[list[int]]:
    """Runs until the flood is over; holds then how much was sent."""
    sent: list[int] = []
    argv = attacker(
        str(grid.network.name), "flood", kind, str(SECONDS), *(node.address for node in grid.nodes.values())
    )
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as flooding:
        yield sent
        output, _ = flooding.communicate(heard, timeout=60)
    sent.append(int(output))


@pytest.mark.parametrize("kind", KINDS)
def test_a_flood_stops_nothing(grid: Grid, heard: str, kind: str) -> None:
    node = grid.nodes["node-1"]
    with node.load("echo", b"1", jobs=1, rate=20) as load:
        until(lambda: load.statuses[200] > 2, PATIENCE, "calls are answered")
        before = cost(node)
        with flood(grid, kind, heard) as sent:
            pass
        after = cost(node)
    spent, grown = (after[0] - before[0]) / SECONDS, after[1] - before[1]
    print(f"{kind}: {sent[0]} sent, {spent:.2f} of a core, {grown:.1f} MB more, slowest call {load.slowest:.2f} s")
    assert set(load.statuses) == {200}, load.errors
    assert sent[0] > 500
    assert spent < 0.75
    assert grown < 32
    assert grid.is_full_mesh()


def test_after_all_that_a_newcomer_finds_the_grid(grid: Grid) -> None:
    grid.add("late")
    until(grid.is_full_mesh, PATIENCE, "a full mesh of four")
