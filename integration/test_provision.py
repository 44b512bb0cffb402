"""From bare servers to a grid by SSH: one has no engine, one is entered as a sudo user, one listens on port 2222."""

import asyncio
import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gridctl.sample import copy_sample
from integration import engine
from integration.calling import call_on
from integration.engine import docker
from integration.grid import GRIDCTL, until
from integration.whole_server import WholeServer

IMAGE = f"gridcontrol/gridnode:test-{engine.RUN}"
STEPS = ["key", "system", "engine", "image", "settings", "gridnode.service", "gridnode.path", "card", "start"]


@dataclass
class Fleet:
    """Three servers and an operator with an SSH key of their own. seconds: what provisioning them took."""

    directory: Path
    servers: dict[str, WholeServer]
    seconds: float = 0.0

    @property
    def gridfile(self) -> Path:
        return self.directory / "Gridfile"

    def gridctl(self, *argv: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        """Run gridctl as this operator; AssertionError when it ends with another exit code."""
        env = {name: value for name, value in os.environ.items() if not name.startswith(("GRIDCTL_", "SSH_"))}
        env |= {"HOME": str(self.directory), "GRIDCTL_GRIDFILE": str(self.gridfile)}
        ended = engine.run(str(GRIDCTL), *argv, env=env, timeout=240)
        assert ended.returncode == code, ended.stdout + ended.stderr
        return ended

    def provision(self, *argv: str, code: int = 0) -> dict[str, dict[str, Any]]:
        """Rows of `gridctl provision --json` by address."""
        rows = json.loads(self.gridctl("provision", "--image", IMAGE, "--json", *argv, code=code).stdout)["hosts"]
        return {row["host"].split("@")[1].split(":")[0]: row for row in rows}

    def alive(self) -> set[str]:
        rows = json.loads(self.gridctl("ls", "--json").stdout)["nodes"]
        return {row["name"] for row in rows if row["state"] == "alive"}

    def serve(self) -> set[str]:
        """Names of the servers that answer one of six calls."""
        return {json.loads(self.gridctl("invoke", "whoami").stdout)["node"] for _ in range(6)}


@pytest.fixture(scope="module")
def fleet(nothing_left: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """The servers, provisioned from nothing, with the sample deployed."""
    home = tmp_path_factory.mktemp("operator")
    (home / ".ssh").mkdir(mode=0o700)
    key = home / ".ssh" / "id_ed25519"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True, timeout=60)
    authorized = key.with_suffix(".pub").read_text().strip()
    network = f"gridcontrol-test-{engine.RUN}-servers"
    docker("network", "create", "--label", f"{engine.TEST}={engine.RUN}", network)
    servers: dict[str, WholeServer] = {}
    try:
        with ThreadPoolExecutor() as threads:
            wanted = {"bare": (False, 22), "sudo": (True, 22), "port": (True, 2222)}
            booting = {
                name: threads.submit(WholeServer.start, name, network, authorized, has_engine, port)
                for name, (has_engine, port) in wanted.items()
            }
        servers |= {name: job.result() for name, job in booting.items()}
        fleet = Fleet(home, servers)
        _provision_all(fleet)
        yield fleet
    finally:
        engine.remove_containers(engine.containers(f"{engine.TEST}={engine.RUN}", f"{engine.NAME}=server"))
        docker("network", "rm", network)
        docker("image", "rm", IMAGE, check=False)


def _provision_all(fleet: Fleet) -> None:
    addresses = {name: server.address for name, server in fleet.servers.items()}
    logins = [f"root@{addresses['bare']}", f"ops@{addresses['sudo']}", f"root@{addresses['port']}:2222"]
    env = {**os.environ, "HOME": str(fleet.directory)}
    made = ["new", "--name", "fleet", *(part for login in logins for part in ("--server", login))]
    subprocess.run([GRIDCTL, *made], cwd=fleet.directory, env=env, check=True, timeout=60, capture_output=True)
    docker("tag", engine.image(), IMAGE)  # a name that no other build takes over
    started = time.monotonic()
    rows = fleet.provision()
    fleet.seconds = time.monotonic() - started
    for name, address in addresses.items():
        changed = [step for step in STEPS if step != "system" and (name == "bare" or step != "engine")]
        assert rows[address]["changed"] == changed, rows[address]
    copy_sample("hello", fleet.directory / "hello")
    fleet.gridctl("deploy", str(fleet.directory / "hello"), "-y")


def test_bare_servers_become_a_grid_that_serves(fleet: Fleet) -> None:
    print(f"three servers provisioned in {fleet.seconds:.1f} s, one of them without an engine")
    assert fleet.seconds < 120
    assert fleet.alive() == set(fleet.servers)
    assert fleet.serve() == set(fleet.servers)


def test_provisioning_again_changes_nothing_and_is_quick(fleet: Fleet) -> None:
    started = time.monotonic()
    rows = fleet.provision()
    took = time.monotonic() - started
    print(f"again: {took:.1f} s")
    assert {tuple(row["changed"]) for row in rows.values()} == {()}
    assert took < 20
    assert fleet.gridfile.read_text().count("ssh-ed25519 AAAA") == 4  # three host keys, and the Gridfile's own
    assert fleet.gridfile.stat().st_mode & 0o777 == 0o600


def test_the_unit_is_sound_and_well_fenced(fleet: Fleet) -> None:
    server = fleet.servers["bare"]
    complaints = server.run("systemd-analyze verify gridnode.service gridnode.path 2>&1")
    assert complaints == ""
    verdict = server.run("systemd-analyze security gridnode.service --no-pager").splitlines()[-1]
    print(verdict)
    assert float(verdict.split(":")[1].split()[0]) < 1.0


def test_secrets_are_in_the_card_and_nowhere_else(fleet: Fleet) -> None:
    """sudo writes every argv into the journal, so it shows what was said to the server."""
    server = fleet.servers["sudo"]
    card = server.run("cat /etc/gridnode/Card")
    assert server.run("stat -c '%a %U' /etc/gridnode/Card").split() == ["600", "root"]
    words = {word.strip("'\"") for text in (card, fleet.gridfile.read_text()) for word in text.split()}
    issuer = {line for line in card.split("issuer_key")[1].splitlines() if len(line) > 40}
    network = {line.split("'")[1] for line in card.splitlines() if line.startswith("network_key")}
    grid = {word for word in words if word.startswith("grid1-")}
    ssh = {line for line in fleet.gridfile.read_text().split("OPENSSH")[1].splitlines() if len(line) > 40}
    assert all((issuer, network, grid, ssh))
    said = server.run("journalctl --no-pager; docker inspect gridnode; systemctl show gridnode; ps axww")
    assert "COMMAND=/usr/bin/sh -c" in said
    assert [secret for secret in issuer | network | grid | ssh if secret in said] == []
    assert not any(secret in card for secret in grid | ssh)


def test_commands_on_one_server_and_on_all(fleet: Fleet) -> None:
    everywhere = fleet.gridctl("multissh", "--", "sh", "-c", 'echo "I am $(hostname)"')
    told = {line.split(" | ")[1] for line in everywhere.stdout.splitlines()}
    assert told == {f"I am {name}" for name in fleet.servers}
    some = fleet.gridctl("multissh", 'test "$(hostname)" = bare', code=3)
    assert "1 of 3 servers: exit code 0" in some.stderr
    assert some.stderr.count("exit code 1") == 2
    server = fleet.servers["port"]
    assert fleet.gridctl("ssh", server.address, "--", "hostname; exit 7", code=7).stdout == "port\n"


def test_what_was_broken_is_mended_and_nothing_else(fleet: Fleet) -> None:
    server = fleet.servers["port"]
    server.run(
        "sed -i s/RestartSec=1/RestartSec=7/ /etc/systemd/system/gridnode.service"
        "; echo GRIDNODE_MDNS=true >>/etc/gridnode/gridnode.env"
    )
    would = fleet.provision("--only", server.address, "--dry-run")[server.address]
    assert would["changed"] == ["gridnode.service", "start"]
    assert "RestartSec=7" in server.run("cat /etc/systemd/system/gridnode.service")
    did = fleet.provision("--only", f"root@{server.address}:2222")[server.address]
    assert did["changed"] == ["gridnode.service", "start"]
    assert "GRIDNODE_MDNS=true" in server.run("cat /etc/gridnode/gridnode.env")
    until(lambda: fleet.alive() == set(fleet.servers), 30, "all alive again")


def test_a_server_that_is_off_does_not_stop_the_others(fleet: Fleet) -> None:
    server = fleet.servers["port"]
    fleet.servers["bare"].run("rm /etc/systemd/system/gridnode.path")
    docker("pause", server.container)
    try:
        ended = fleet.gridctl("provision", "--image", IMAGE, code=3)
    finally:
        docker("unpause", server.container)
    assert f"unfinished: root@{server.address}:2222" in ended.stderr
    assert "no answer within 10 s" in ended.stderr
    assert "2 of 3 servers provisioned, 1 changed" in ended.stderr
    fleet.servers["bare"].run("test -f /etc/systemd/system/gridnode.path")


def test_another_host_key_is_refused(fleet: Fleet) -> None:
    server = fleet.servers["sudo"]
    server.run("rm /etc/ssh/ssh_host_*; ssh-keygen -A; systemctl restart ssh")
    before = server.run("journalctl -u ssh --no-pager | grep -c Accepted", check=False)
    ended = fleet.gridctl("provision", "--image", IMAGE, "--only", server.address, code=4)
    assert "its host key is not the one in the Gridfile" in ended.stderr
    assert f"remove the line of '{server.address}'" in ended.stderr
    assert server.run("journalctl -u ssh --no-pager | grep -c Accepted", check=False) == before
    lines = fleet.gridfile.read_text().splitlines(keepends=True)
    fleet.gridfile.write_text("".join(line for line in lines if not line.startswith(f"'{server.address}' =")))
    assert fleet.provision("--only", server.address)[server.address]["changed"] == []


def test_a_server_comes_back_by_itself_after_a_reboot(fleet: Fleet) -> None:
    server = fleet.servers["bare"]
    docker("restart", "-t", "30", server.container)
    assert next(iter(engine.inspect(server.container)[0]["NetworkSettings"]["Networks"].values()))["IPAddress"] == (
        server.address
    )
    until(lambda: fleet.alive() == set(fleet.servers), 90, "all alive again")
    until(lambda: fleet.serve() == set(fleet.servers), 60, "all serve again")


def upgraded_image() -> str:
    """Another image than IMAGE, as far as an upgrade is concerned."""
    name = f"{IMAGE}-next"
    recipe = f"FROM {IMAGE}\nLABEL gridcontrol.inputs=next\n"
    ended = engine.run("docker", "build", "-q", "-t", name, "-", stdin=recipe)
    assert ended.returncode == 0, ended.stderr
    return name


def running(fleet: Fleet) -> set[str]:
    label = "docker inspect -f '{{index .Config.Labels \"gridcontrol.inputs\"}}' gridnode"
    return {server.run(label).strip() for server in fleet.servers.values()}


def test_an_upgrade_goes_from_server_to_server_and_fails_no_call(fleet: Fleet) -> None:
    name, over, before = upgraded_image(), threading.Event(), running(fleet)
    sandboxes = {
        one: server.run("docker ps -q --no-trunc --filter label=gridcontrol.node | sort")
        for one, server in fleet.servers.items()
    }
    try:
        with ThreadPoolExecutor() as threads:
            calls = threads.submit(asyncio.run, call_on(fleet.gridfile, over))
            try:
                started = time.monotonic()
                rows = json.loads(fleet.gridctl("upgrade", "--to", name, "--json").stdout)["hosts"]
                took = time.monotonic() - started
            finally:
                over.set()
            good, bad = calls.result()
        print(f"upgraded three servers in {took:.1f} s, {good} calls meanwhile")
        assert [row["changed"] for row in rows] == [["previous", "image", "settings", "start"]] * 3
        assert (bad, good > 10) == ([], True)
        assert running(fleet) == {"next"}
        for one, server in fleet.servers.items():
            assert server.run("docker ps -q --no-trunc --filter label=gridcontrol.node | sort") == sandboxes[one]
        fleet.gridctl("upgrade", "--rollback")
        assert running(fleet) == before
        assert fleet.serve() == set(fleet.servers)
    finally:
        docker("image", "rm", name, check=False)


def test_an_upgrade_stops_at_the_first_failure(fleet: Fleet) -> None:
    first = fleet.servers["bare"]
    docker("pause", first.container)
    try:
        ended = fleet.gridctl("upgrade", "--to", IMAGE, code=4)
    finally:
        docker("unpause", first.container)
    assert "0 of 3 servers upgraded" in ended.stderr
    assert f"left as they were: ops@{fleet.servers['sudo'].address}" in ended.stderr
    until(lambda: fleet.alive() == set(fleet.servers), 60, "all alive again")


def test_unprovisioning_leaves_a_server_as_it_was(fleet: Fleet) -> None:
    server = fleet.servers["sudo"]
    fleet.gridctl("unprovision", "--only", server.address, "-y")
    left = "docker ps -aq; docker images -q; ls -d /etc/gridnode /var/lib/gridnode /run/gridnode 2>/dev/null;"
    left += "grep -l gridcontrol /home/ops/.ssh/authorized_keys; ls /etc/systemd/system | grep gridnode"
    assert server.run(left, check=False) == ""
    again = fleet.gridctl("unprovision", "--only", server.address, "-y")
    assert "1 of 1 servers unprovisioned, 0 changed" in again.stderr
    would = fleet.provision("--only", server.address, "--dry-run")[server.address]["changed"]
    assert would == [step for step in STEPS if step not in ("system", "engine")]
