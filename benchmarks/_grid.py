"""Grids of real nodes, and other containers of the same image, for the length of a benchmark."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from testcontainers.core.config import testcontainers_config

from benchmarks import _proc
from integration import engine
from integration.engine import docker
from integration.grid import Grid, until
from integration.node import Node

PYTHON = "/opt/gridnode/bin/python"
"""The image's interpreter that has the dependencies."""
SAMPLE = engine.REPOSITORY / "examples" / "hello"
PATIENCE = 30.0


@contextmanager
def open_grid(size: int, name: str = "bench") -> Iterator[Grid]:
    """`size` empty nodes that all see each other; removed at the end with all they started."""
    testcontainers_config.ryuk_disabled = True
    engine.remove_leftovers()
    grid = Grid(size, name)
    try:
        until(grid.is_full_mesh, max(PATIENCE, 4.0 * size), "every node sees every other")
        yield grid
    finally:
        grid.close()
        if not engine.REUSED:
            engine.remove(engine.RUN)


def deploy(grid: Grid, project: Path = SAMPLE) -> None:
    ended = grid.gridctl("deploy", str(project), "--yes")
    if ended.returncode:
        raise RuntimeError(f"deploy failed:\n{ended.stderr}")


@contextmanager
def reference(grid: Grid, source: str) -> Iterator[int]:
    """A container of the same image on the grid's network that runs Python `source`; its process id."""
    labels = ["--label", f"{engine.TEST}={engine.RUN}", "--network", grid.network.name]
    container = docker("run", "-d", "--init", *labels, "--entrypoint", PYTHON, engine.image(), "-c", source).strip()
    try:
        yield until(lambda: _main(container), PATIENCE, "the reference container runs")
    finally:
        docker("rm", "-f", container)


def node_pid(node: Node) -> int:
    """The host's process id of the node itself, not of the container's init."""
    return until(lambda: _main(node.container), PATIENCE, f"{node.name} runs")


def sandbox_pid(grid: Grid, node: Node, task: str) -> int:
    """The host's process id of the sandbox that serves `task` on `node`."""
    for row in grid.sandboxes(node):
        if row["Config"]["Labels"].get("gridcontrol.task") == task:
            return int(row["State"]["Pid"])
    raise LookupError(f"no sandbox serves {task} on {node.name}")


def need(program: str, package: str) -> None:
    """Install a Debian package unless its program is there; ends the benchmark where that cannot be."""
    if shutil.which(program):
        return
    try:
        for argv in (["apt-get", "update", "-qq"], ["apt-get", "install", "-y", "-qq", package]):
            subprocess.run(argv, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as exc:
        raise SystemExit(f"this benchmark needs {program}: install {package}, then run it again") from exc


def _main(container: str) -> int:
    pid = int(engine.inspect(container)[0]["State"]["Pid"])
    below = _proc.children(pid) if pid else []
    return below[0] if below else 0
