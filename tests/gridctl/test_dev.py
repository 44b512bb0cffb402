"""`gridctl dev` on a grid of real nodes in this process, and its parts."""

import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gridctl.client import Grid
from gridctl.deployment import Deployment
from gridctl.dev import _what
from gridctl.dev_grid import _docker
from gridctl.reload import Reload, Reloaded
from gridnode.errors import ProjectInvalid, UsageError
from gridnode.model import Release, Root
from tests.gridctl.conftest import RunningGrid

TASK = "VERSION = 1\ndef handler():\n    print('asked', VERSION)\n    return VERSION\n"


def write(directory: Path, path: str, text: str) -> None:
    (directory / path).parent.mkdir(parents=True, exist_ok=True)
    (directory / path).write_text(text)


@pytest.fixture(scope="module")
def grid(make_grid: Callable[[int], RunningGrid]) -> RunningGrid:
    return make_grid(1)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    write(tmp_path / "shop", "place.txt", str(tmp_path))  # no test begins with what another has deployed
    for name in ("one", "two"):
        write(tmp_path / "shop", f"tasks/{name}.py", TASK)
    return tmp_path / "shop"


async def test_only_what_changed_is_sent_and_replaced(grid: RunningGrid, project: Path) -> None:
    asked: list[object] = []
    reload = Reload(project, lambda tasks, top: asked.append(top) or ())
    async with Grid.connect(grid.gridfile) as link:
        first = await reload.bring(link, await reload.scan())
        assert first
        assert first.tasks == ["one", "two"]
        assert await reload.bring(link, await reload.scan(set())) is None
        write(project, "tasks/one.py", TASK.replace("1", "2", 1))
        second = await reload.bring(link, await reload.scan({"tasks/one.py"}))
        assert second
        assert (second.tasks, second.gone) == (["one"], [])
        assert second.deployment.sent.content < 1000
        assert list(second.spans) == ["scan", "send", "publish", "start"]
        assert [await link.invoke(task) for task in ("one", "two")] == [2, 1]
        (project / "tasks" / "two.py").unlink()
        third = await reload.bring(link, await reload.scan({"tasks/two.py"}))
        assert third
        assert (third.tasks, third.gone) == ([], ["two"])
    assert len(asked) == 1, "packages are looked for once"


async def test_packages_are_looked_for_again_when_anything_but_a_program_changes(project: Path) -> None:
    asked: list[object] = []
    reload = Reload(project, lambda tasks, top: asked.append(top) or ())
    for changed in (None, {"tasks/one.py"}, {"requirements.txt"}, {"tasks/two.py", "lib/x.py"}):
        await reload.scan(changed)
    assert len(asked) == 2
    write(project, "tasks/one.py", "def handler(:")
    with pytest.raises(ProjectInvalid, match=r"tasks/one\.py, line 1"):
        await reload.scan({"tasks/one.py"})


def test_what_a_reload_is_called() -> None:
    deployment = Deployment(None, Release("p", Root("a" * 64), 1, 0, 0, 0, ()))
    assert _what(Reloaded(deployment, ["a", "b"])) == "reloaded a, b"
    assert _what(Reloaded(deployment, [], ["c"])) == "removed c"
    assert _what(Reloaded(deployment, ["a"], ["c"])) == "reloaded a, removed c"
    assert _what(Reloaded(deployment, [])) == "deployed"
    assert _what(Reloaded(deployment, list("abcdefghij"))) == "reloaded a, b, c, d, e, f, g, h and 2 more"


def test_without_an_engine_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="no docker command") as caught:
        _docker("ps")
    assert "gridctl new" in str(caught.value.hint)


class Running:
    """The command as a process, on a grid that is there. events: what it says in JSON."""

    def __init__(self, gridfile: Path, project: Path) -> None:
        argv = ["dev", str(project), "--json", "-y", "--gridfile", str(gridfile)]
        code = "from gridctl.cli import main; main()"
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, *argv], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.events: list[dict[str, Any]] = []
        self.err: list[str] = []
        self._readers = [threading.Thread(target=read) for read in (self._read, self._read_errors)]
        for reader in self._readers:
            reader.start()

    def _read(self) -> None:
        assert self.process.stdout
        self.events.extend(json.loads(line) for line in self.process.stdout)

    def _read_errors(self) -> None:
        assert self.process.stderr
        self.err.extend(self.process.stderr)

    def wait_for(self, found: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
        give_up = time.monotonic() + 60
        while not (events := [event for event in self.events if found(event)]):
            assert time.monotonic() < give_up, (self.events, self.err)
            assert self.process.poll() is None, self.err
            time.sleep(0.02)
        return events[0]

    def end(self, number: int) -> int:
        self.process.send_signal(number)
        code = self.process.wait(30)
        for reader in self._readers:
            reader.join(30)
        assert self.process.stdout
        assert self.process.stderr
        self.process.stdout.close()
        self.process.stderr.close()
        return code


@pytest.fixture
def running(grid: RunningGrid, project: Path) -> Iterator[Running]:
    made = Running(grid.gridfile, project)
    yield made
    if made.process.poll() is None:
        made.end(signal.SIGKILL)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_follows_the_project_until_it_is_told_to_end(
    running: Running, grid: RunningGrid, project: Path, number: int
) -> None:
    running.wait_for(lambda event: event.get("tasks") == ["one", "two"])
    write(project, "tasks/one.py", TASK.replace("1", "2", 1))
    event = running.wait_for(lambda event: event.get("tasks") == ["one"])
    assert (event["schema"], event["gone"], event["nodes"][0]["state"]) == (1, [], "active")
    assert event["seconds"] == pytest.approx(sum(event["spans"].values()), abs=0.01)
    with Grid.open(grid.gridfile) as client:
        assert client.invoke("one") == 2
    running.wait_for(lambda event: event.get("text") == "asked 2")
    write(project, "tasks/one.py", "raise ValueError('broken')")
    event = running.wait_for(lambda event: event.get("nodes") and event["nodes"][0]["failures"])
    assert "broken" in event["nodes"][0]["failures"][0]["message"]
    write(project, "grid.toml", "[tasks.one]\nmemry = 1")
    running.wait_for(lambda event: "memory" in str(event.get("error")))
    assert running.end(number) == 130
    assert running.err[-1] == "gridctl: interrupted\n"


def test_a_directory_that_is_no_project_ends_in_words(running: Running, project: Path) -> None:
    shutil.rmtree(project / "tasks")
    running.wait_for(lambda event: "no tasks/" in str(event.get("error")))
    write(project, "tasks/one.py", TASK)
    running.wait_for(lambda event: event.get("tasks") == ["one"] or event.get("gone") == ["two"])
    assert running.end(signal.SIGINT) == 130
