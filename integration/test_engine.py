"""A node on an engine that restarts, does not answer, or is slow: a daemon of the test's own, beside the host's."""

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gridctl.new import card_text, load_gridfile, new_gridfile
from integration import engine, project
from integration.conftest import PATIENCE
from integration.dockerd import Dockerd
from integration.grid import GRIDCTL, until
from integration.node import INSIDE, Node
from integration.relay import Relay

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("dockerd"), reason="starts a Docker daemon: needs root and dockerd"
)

NO_ANSWER = "no_answer"
TASKS = ("echo", "probe", "fault")
FAULT = """
def spin():
    while True:
        pass

def quick(event):
    return event
"""


class Server(Node):
    """A host with an engine of its own and one node on it, in a network namespace of theirs."""

    def __init__(self, directory: Path) -> None:
        super().__init__("node", directory)
        host = ["run", "-d", "--init", "--network", "none", "--label", f"{engine.TEST}={engine.RUN}"]
        self.host = engine.docker(*host, "--entrypoint", "/usr/bin/sleep", engine.image(), "infinity").strip()
        self.dockerd = Dockerd(directory / engine.OWN_ENGINE, engine.inspect(self.host)[0]["State"]["Pid"])
        self.dockerd.set_live_restore(True)
        self.dockerd.start()
        self.relay = Relay(directory / "docker.sock", self.dockerd.socket)
        self.gridfile = new_gridfile(directory, "engine", servers=["127.0.0.1"], seeds=["127.0.0.1:7400"]).path
        (directory / "Card").touch(mode=0o600)
        (directory / "Card").write_text(card_text(load_gridfile(self.gridfile), self.name))
        self.dockerd.load(engine.image())
        self._run_node()
        until(lambda: self.call("nothing", timeout=1)["error"]["code"] != NO_ANSWER, PATIENCE, "the node is up")
        self.deploy(project.write(directory / "project", {"tasks/fault.py": FAULT}))

    def _run_node(self) -> None:
        argv = ["run", "-d", "--name", self.name, "--init", "--network", "host", "--restart", "always"]
        argv += ["-e", f"GRIDNODE_DATA_DIR={self.directory}/data", "-e", f"GRIDNODE_RUN_DIR={self.directory}/run"]
        argv += ["-e", "GRIDNODE_MDNS=false", "-e", f"GRIDNODE_NAME={self.name}"]
        for name in ("data", "run"):
            (self.directory / name).mkdir()
            argv += ["-v", f"{self.directory / name}:{self.directory / name}"]
        argv += ["-v", f"{self.directory / 'Card'}:/etc/gridnode/Card:ro"]
        argv += ["-v", f"{self.directory / 'docker.sock'}:/var/run/docker.sock"]
        self.dockerd.docker(*argv, engine.image())

    def close(self) -> None:
        self.relay.close()
        self.dockerd.close()
        engine.remove_containers([self.host])
        engine.remove_directory(self.directory)

    def _exec(self) -> list[str]:
        return [*self.dockerd.inside, sys.executable, "-I", "-c", INSIDE]

    def deploy(self, directory: Path) -> None:
        env = os.environ | {"GRIDCTL_GRIDFILE": str(self.gridfile)}
        ended = engine.run(*self.dockerd.inside, str(GRIDCTL), "deploy", str(directory), "-y", env=env, timeout=120)
        assert ended.returncode == 0, ended.stderr

    def call(self, task: str, event: object = None, timeout: float = 10) -> dict[str, Any]:
        """{"body": …} or {"error": …}, with NO_ANSWER as its code when nobody listens."""
        try:
            response = self.http("POST", f"/v1/invoke/{task}?timeout={timeout}", json.dumps(event).encode())
        except RuntimeError as exc:
            return {"error": {"code": NO_ANSWER, "message": str(exc)}}
        return {"body": response.json} if response.status == 200 else dict(response.json)

    def sandboxes(self) -> dict[str, dict[str, Any]]:
        """Rows of `docker inspect` by task, of one instance each; AssertionError where a task has two."""
        ids = self.dockerd.docker("ps", "-aq", "--filter", f"label={engine.NODE}").split()
        rows = json.loads(self.dockerd.docker("inspect", *ids)) if ids else []
        found = {row["Config"]["Labels"]["gridcontrol.task"]: row for row in rows}
        assert len(found) == len(rows), [row["Name"] for row in rows]
        return found

    def is_whole(self) -> bool:
        """Whether every task answers, on one running sandbox each, with its socket, and nothing else is there."""
        answers = [self.call(task, 1, timeout=2).get("body") for task in ("echo", "fault.quick", "probe.version")]
        ids = self.dockerd.docker("ps", "-aq", "--filter", f"label={engine.NODE}").split()
        running = self.dockerd.docker("ps", "-q", "--filter", f"label={engine.NODE}").split()
        sockets = list((self.directory / "run").glob("*/*"))
        return answers == [1, 1, 1] and len(ids) == len(running) == len(sockets) == len(TASKS)

    def restart_engine(self, signum: signal.Signals = signal.SIGTERM) -> None:
        self.dockerd.stop(signum)
        self.dockerd.start()


@pytest.fixture(scope="module")
def whole(nothing_left: None) -> Iterator[Server]:
    server = Server(engine.DIRECTORY / "own")
    yield server
    server.close()


@pytest.fixture
def server(whole: Server) -> Iterator[Server]:
    """Every task has one instance, before and after."""
    until(whole.is_whole, PATIENCE, "all as it should be")
    yield whole
    whole.relay.delay = 0
    until(whole.is_whole, 2 * PATIENCE, "all as it was")


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL], ids=["stopped", "killed"])
def test_no_call_fails_while_an_engine_with_live_restore_is_replaced(server: Server, signum: signal.Signals) -> None:
    before = {task: row["Id"] for task, row in server.sandboxes().items()}
    with server.load("echo", b"1", jobs=1) as load:
        server.restart_engine(signum)
        seen = load.statuses[200]
        until(lambda: load.statuses[200] > seen + 20, PATIENCE, "calls go on")
    assert set(load.statuses) == {200}, load.errors
    after = server.sandboxes()
    assert {task: row["Id"] for task, row in after.items()} == before
    server.dockerd.docker("kill", after["echo"]["Id"])
    until(lambda: server.call("echo", 2).get("body") == 2, PATIENCE, "exits are noticed as before")


def test_an_instance_that_ends_while_the_engine_is_away_is_started_when_it_is_back(server: Server) -> None:
    lost = server.sandboxes()["fault"]
    server.dockerd.stop()
    with server.load("echo", b"1", jobs=1) as load:
        os.kill(lost["State"]["Pid"], signal.SIGKILL)
        error = until(lambda: server.call("fault.quick", 1, timeout=2).get("error"), PATIENCE, "it is missed")
        assert error["code"] in ("timeout", "not_ready", "task_crashed"), error
        late = server.call("probe.nap", 60, timeout=1)["error"]  # is to be killed, and cannot be yet
        assert late["code"] == "timeout"
        server.dockerd.start()
        until(server.is_whole, PATIENCE, "all as it was")
    assert set(load.statuses) == {200}, load.errors


def test_an_engine_that_does_not_answer_holds_up_no_call(server: Server) -> None:
    with server.load("echo", b"1", jobs=1) as load, server.dockerd.mute():
        started = time.monotonic()
        crashed = server.call("probe.leave", timeout=20)["error"]
        assert (crashed["code"], time.monotonic() - started < 10) == ("task_crashed", True), crashed
        assert server.call("fault.spin", timeout=1)["error"]["code"] == "timeout"
        seen = load.statuses[200]
        until(lambda: load.statuses[200] > seen + 20, PATIENCE, "others go on")
    assert set(load.statuses) == {200}, load.errors
    until(server.is_whole, 2 * PATIENCE, "what was to be done is done")


def test_a_slow_engine_makes_a_deploy_slow_and_nothing_else(server: Server, tmp_path: Path) -> None:
    server.relay.delay = 0.4
    files = {"tasks/fault.py": FAULT} | project.versioned(2)
    with server.load("echo", b"1", jobs=1) as load:
        server.deploy(project.write(tmp_path / "project", files))
        assert server.call("probe.version")["body"] == 2
        assert server.call("probe.leave", timeout=20)["error"]["code"] == "task_crashed"
        until(lambda: server.call("probe.version", timeout=2).get("body") == 2, PATIENCE, "it is restarted")
    assert set(load.statuses) == {200}, load.errors
    server.relay.delay = 0
    server.deploy(project.write(tmp_path / "project", {"tasks/fault.py": FAULT} | project.versioned(1)))


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL], ids=["stopped", "killed"])
def test_a_node_and_its_tasks_come_back_with_an_engine_that_ended_them(server: Server, signum: signal.Signals) -> None:
    server.dockerd.set_live_restore(False)
    before = {row["Id"] for row in server.sandboxes().values()}
    server.restart_engine(signum)
    started = time.monotonic()
    until(server.is_whole, PATIENCE, "all answer again")
    print(f"serving {time.monotonic() - started:.1f} s after the engine was back")
    assert before.isdisjoint(row["Id"] for row in server.sandboxes().values())
