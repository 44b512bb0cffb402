"""Servers in later life: another SSH key, the log of a node that is down or hangs, nodes started anew under load."""

import asyncio
import json
import os
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from gridctl.new import load_gridfile
from gridctl.sample import copy_sample
from integration import engine
from integration.calling import call_on
from integration.engine import docker
from integration.grid import GRIDCTL, until
from integration.whole_server import WholeServer

IMAGE = f"gridcontrol/gridnode:life-{engine.RUN}"


@dataclass
class Fleet:
    """Two servers, and an operator who has no SSH key but the Gridfile's."""

    directory: Path
    servers: dict[str, WholeServer]

    @property
    def gridfile(self) -> Path:
        return self.directory / "Gridfile"

    def gridctl(self, *argv: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        """Run gridctl as this operator; AssertionError when it ends with another exit code."""
        ended = self._gridctl(*argv)
        assert ended.returncode == code, ended.stdout + ended.stderr
        return ended

    def serving(self) -> set[str]:
        """Names of the nodes that are alive and have a task ready; none while no node answers."""
        ended = self._gridctl("ls", "--json")
        rows = json.loads(ended.stdout)["nodes"] if ended.returncode == 0 else []
        return {row["name"] for row in rows if row["state"] == "alive" and row["tasks"]}

    def _gridctl(self, *argv: str) -> subprocess.CompletedProcess[str]:
        env = {name: value for name, value in os.environ.items() if not name.startswith(("GRIDCTL_", "SSH_"))}
        env |= {"HOME": str(self.directory), "GRIDCTL_GRIDFILE": str(self.gridfile)}
        return engine.run(str(GRIDCTL), *argv, env=env, timeout=240)

    def let_in(self, name: str) -> str:
        """Public keys that may log in."""
        return self.servers[name].run("cat /root/.ssh/authorized_keys")


@pytest.fixture(scope="module")
def fleet(nothing_left: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    home = tmp_path_factory.mktemp("operator")
    network = f"gridcontrol-test-{engine.RUN}-life"
    docker("network", "create", "--label", f"{engine.TEST}={engine.RUN}", network)
    docker("tag", engine.image(), IMAGE)
    env = {**os.environ, "HOME": str(home)}
    try:
        with ThreadPoolExecutor() as threads:
            booting = {name: threads.submit(WholeServer.start, name, network) for name in ("one", "two")}
        fleet = Fleet(home, {name: job.result() for name, job in booting.items()})
        logins = [f"root@{server.address}" for server in fleet.servers.values()]
        made = ["new", "--name", "life", *(part for login in logins for part in ("--server", login))]
        subprocess.run([GRIDCTL, *made], cwd=home, env=env, check=True, timeout=60, capture_output=True)
        for server in fleet.servers.values():
            server.run("cat >>/root/.ssh/authorized_keys", stdin=f"{load_gridfile(fleet.gridfile).ssh_public_key}\n")
        fleet.gridctl("provision", "--image", IMAGE)
        copy_sample("hello", home / "hello")
        fleet.gridctl("deploy", str(home / "hello"), "-y")
        yield fleet
    finally:
        engine.remove_containers(engine.containers(f"{engine.TEST}={engine.RUN}", f"{engine.NAME}=server"))
        docker("network", "rm", network)
        docker("image", "rm", IMAGE, check=False)


def test_another_ssh_key_also_for_a_server_that_was_away(fleet: Fleet) -> None:
    old = load_gridfile(fleet.gridfile)
    away = fleet.servers["two"]
    away.run("systemctl stop ssh.socket ssh 2>/dev/null || systemctl stop ssh")
    ended = fleet.gridctl("keygen", code=3)
    new = load_gridfile(fleet.gridfile)
    assert f"unfinished: root@{away.address}" in ended.stderr
    assert new.ssh_key not in ("", old.ssh_key)
    assert old.ssh_public_key not in fleet.let_in("one")
    assert old.ssh_public_key in fleet.let_in("two")
    away.run("systemctl start ssh")
    fleet.gridctl("keygen")
    for name in fleet.servers:
        assert new.ssh_public_key in fleet.let_in(name)
        assert old.ssh_public_key not in fleet.let_in(name)
    assert load_gridfile(fleet.gridfile).ssh_key == new.ssh_key
    assert (fleet.gridfile.stat().st_mode & 0o777, fleet.gridfile.with_name("Gridfile.keys").exists()) == (0o600, False)
    assert fleet.gridctl("multissh", "hostname").returncode == 0
    secret = max(new.ssh_key.splitlines(), key=len)
    said = fleet.servers["one"].run("journalctl --no-pager; ps axww")
    assert (secret in said, "sshd" in said) == (False, True)


def test_the_log_of_a_node_that_is_down_comes_by_ssh(fleet: Fleet) -> None:
    one, two = fleet.servers["one"], fleet.servers["two"]
    two.run("systemctl stop gridnode")
    try:
        journal_and_file(fleet, two)
        one.run("systemctl stop gridnode")
        nobody_answers(fleet, one)
    finally:
        for server in (one, two):
            server.run("systemctl start gridnode")
    until(lambda: fleet.serving() == set(fleet.servers), 60, "both serve again")


def journal_and_file(fleet: Fleet, two: WholeServer) -> None:
    """Of the node that is down, while another can be asked."""
    ended = fleet.gridctl("logs", "--node", "two", "--system", "-n", "50", code=3)
    print(ended.stderr + "\n".join(ended.stdout.splitlines()[-4:]))
    assert ended.stderr.count(f"by SSH to root@{two.address}") == 1
    assert "two gridnode | link listening" in ended.stdout
    rows = [json.loads(line) for line in fleet.gridctl("logs", "--node", "two", "--json", code=3).stdout.splitlines()]
    assert {(row["node"]["name"], row["task"]) for row in rows} == {("two", None)}
    assert any("Stopped gridnode" in row["text"] for row in rows), "systemd's own words are there, too"
    assert rows == sorted(rows, key=lambda row: row["time"])
    journals = "/var/log/journal/* /run/log/journal/*"
    two.run(f"journalctl --rotate -q; rm -rf {journals}; systemctl restart systemd-journald")
    kept = fleet.gridctl("logs", "--node", "two", "--grep", "link listening", code=3).stdout
    assert "two gridnode | link listening" in kept, "of its file"


def nobody_answers(fleet: Fleet, one: WholeServer) -> None:
    """The log of one server all the same; and clear words for a name that is none of theirs."""
    assert "link listening" in fleet.gridctl("logs", "--node", one.address, "-n", "100", code=3).stdout
    assert "cannot be told" in fleet.gridctl("logs", "--node", "three", code=4).stderr
    assert fleet.gridctl("logs", "--node", one.address, "--via", "direct", code=4).stdout == ""


def sandboxes(fleet: Fleet) -> dict[str, str]:
    command = "docker ps -q --no-trunc --filter label=gridcontrol.node | sort"
    return {name: server.run(command) for name, server in fleet.servers.items()}


def started(fleet: Fleet) -> dict[str, str]:
    return {
        name: server.run("docker inspect -f '{{.State.StartedAt}}' gridnode") for name, server in fleet.servers.items()
    }


def test_nodes_are_started_anew_one_after_the_other_and_no_call_fails(fleet: Fleet) -> None:
    boxes, before, over = sandboxes(fleet), started(fleet), threading.Event()
    with ThreadPoolExecutor() as threads:
        calls = threads.submit(asyncio.run, call_on(fleet.gridfile, over))
        try:
            argv = ("restart", "--node", "one", "--node", fleet.servers["two"].address, "--json")
            rows = json.loads(fleet.gridctl(*argv).stdout)["hosts"]
        finally:
            over.set()
        good, bad = calls.result()
    print(f"{good} calls while two nodes were started anew in {sum(row['seconds'] for row in rows):.1f} s")
    assert [(row["ok"], row["changed"]) for row in rows] == [(True, ["restart"])] * 2
    assert (bad, good > 10) == ([], True)
    assert sandboxes(fleet) == boxes
    assert all(now != before[name] for name, now in started(fleet).items())


def test_a_node_that_hangs_is_told_of_and_started_anew(fleet: Fleet) -> None:
    server = fleet.servers["two"]
    server.run("docker pause gridnode")
    ended = fleet.gridctl("logs", "--node", "two", code=3)
    assert f"by SSH to root@{server.address}" in ended.stderr
    assert "two gridnode |" in ended.stdout
    fleet.gridctl("restart", "--node", "two")
    assert fleet.serving() == set(fleet.servers)
    assert "no node is called three" in fleet.gridctl("restart", "--node", "three", code=5).stderr
