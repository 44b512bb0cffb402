"""`gridctl dev` on a node that it starts itself: save, and the new code answers."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gridctl.client import Grid
from gridctl.sync_client import SyncGrid
from integration import engine
from integration.grid import GRIDCTL, until

PATIENCE = 60.0
FAST = 5.0
"""Seconds; a quiet machine needs less than one."""
WELL = """
VERSION = 1

def handler(event, context):
    print("asked for", VERSION)
    return {"version": VERSION, "instance": context.instance}
"""


class Dev:
    """The command, what it says, and a client of its grid."""

    def __init__(self, directory: Path, *argv: str) -> None:
        self.project = directory / "shop"
        self.write("tasks/one.py", WELL)
        self.write("tasks/two.py", WELL)
        env = {name: value for name, value in os.environ.items() if not name.startswith("GRIDCTL_")}
        self.process = subprocess.Popen(
            [str(GRIDCTL), "dev", str(self.project), "--verbose", "--image", engine.image(), *argv],
            cwd=directory,
            env=env | {"PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.out: list[str] = []
        self.err: list[str] = []
        self._readers = [
            threading.Thread(target=lines.extend, args=(stream,), daemon=True)
            for lines, stream in ((self.out, self.process.stdout), (self.err, self.process.stderr))
        ]
        for reader in self._readers:
            reader.start()

    def write(self, path: str, text: str) -> None:
        place = self.project / path
        place.parent.mkdir(parents=True, exist_ok=True)
        draft = self.project.parent / "draft"
        draft.write_text(text)
        draft.rename(place)

    def says(self, text: str) -> int:
        """How many lines with this text there were so far."""
        return sum(text in line for line in self.err)

    def wait_for(self, text: str, times: int = 1) -> None:
        until(lambda: self.says(text) >= times or self._ended(), PATIENCE, f"{text!r} in {self.err}")
        assert self.says(text) >= times, self.err

    def _ended(self) -> bool:
        return self.process.poll() is not None

    def interrupt(self) -> int:
        """Ctrl-C; the exit code."""
        self.process.send_signal(signal.SIGINT)
        code = self.process.wait(PATIENCE)
        for reader in self._readers:
            reader.join(PATIENCE)
        for stream in (self.process.stdout, self.process.stderr):
            assert stream
            stream.close()
        return code


def left() -> list[str]:
    return engine.containers("gridcontrol.dev")


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dev]:
    made = Dev(tmp_path_factory.mktemp("dev"))
    try:
        made.wait_for("reloaded one, two")
        yield made
    finally:
        if made.process.poll() is None:
            made.interrupt()


@pytest.fixture(scope="module")
def grid(dev: Dev) -> Iterator[SyncGrid]:
    with Grid.open(dev.project / ".gridctl/dev/Gridfile") as grid:
        yield grid


def saved(dev: Dev, grid: SyncGrid, task: str, version: int) -> float:
    """Seconds from saving a file to the first answer of the new code."""
    dev.write(f"tasks/{task}.py", WELL.replace("VERSION = 1", f"VERSION = {version}"))
    started = time.monotonic()
    until(lambda: grid.invoke(task)["version"] == version, PATIENCE, f"version {version} of {task}")
    return time.monotonic() - started


def test_what_is_saved_answers_a_moment_later_in_a_new_instance_of_that_task_alone(dev: Dev, grid: SyncGrid) -> None:
    before: dict[str, Any] = {task: grid.invoke(task) for task in ("one", "two")}
    times = [saved(dev, grid, "one", version) for version in range(2, 6)]
    print(f"from save to answer: {', '.join(f'{seconds:.2f}' for seconds in times)} s")
    print("".join(line for line in dev.err if "reloaded one in" in line))
    assert min(times) < FAST
    assert grid.invoke("two") == before["two"]
    assert grid.invoke("one")["instance"] != before["one"]["instance"]
    dev.wait_for("reloaded one in", 4)
    assert dev.says("reloaded one, two") == 1


def test_mistakes_are_shown_and_it_goes_on(dev: Dev, grid: SyncGrid) -> None:
    before = grid.invoke("two")
    dev.write("tasks/two.py", "def handler(:")
    dev.wait_for("tasks/two.py, line 1")
    dev.write("tasks/two.py", WELL + "\nraise RuntimeError('no such luck')\n")
    dev.wait_for("RuntimeError: no such luck")
    dev.write("grid.toml", "[tasks.two]\nmemry = 1\n")
    dev.wait_for("did you mean memory?")
    assert grid.invoke("two") == before
    dev.write("tasks/two.py", WELL + "\ndef well():\n    return False\n")
    dev.write("grid.toml", '[tasks.two]\nhealth = "well"\n')
    dev.wait_for("unhealthy: well said false")
    assert grid.invoke("two") == before
    (dev.project / "grid.toml").unlink()
    assert saved(dev, grid, "two", 9) < PATIENCE


def test_what_tasks_print_follows(dev: Dev, grid: SyncGrid) -> None:
    version = grid.invoke("one")["version"]
    until(lambda: any(f"asked for {version}" in line for line in dev.out), PATIENCE, f"its lines in {dev.out}")


def test_a_shared_file_reloads_all_and_a_removed_task_goes(dev: Dev, grid: SyncGrid) -> None:
    before = {task: grid.invoke(task)["instance"] for task in ("one", "two")}
    count = dev.says("reloaded one, two")
    dev.write("shared.txt", "for both")
    dev.wait_for("reloaded one, two", count + 1)
    assert all(grid.invoke(task)["instance"] != before[task] for task in before)
    (dev.project / "tasks" / "two.py").unlink()
    dev.wait_for("removed two")
    assert grid.invoke("one")["version"]


def test_ctrl_c_removes_the_grid(dev: Dev) -> None:
    assert len(left()) == 1
    assert dev.interrupt() == 130
    assert left() == []
    assert "Traceback" not in "".join(dev.err[-5:])
    assert not (dev.project / ".gridctl").exists()
