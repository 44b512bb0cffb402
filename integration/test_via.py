"""A server whose firewall lets in SSH and nothing else: provisioned, deployed to, called and watched through SSH."""

import json
import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from gridctl.sample import copy_sample
from integration import engine
from integration.engine import docker
from integration.grid import GRIDCTL
from integration.whole_server import WholeServer

IMAGE = f"gridcontrol/gridnode:via-{engine.RUN}"


@dataclass
class Walled:
    """One server behind a firewall, and an operator outside of it."""

    directory: Path
    server: WholeServer

    def gridctl(self, *argv: str, via: str = "ssh", code: int = 0, stdin: str = "") -> subprocess.CompletedProcess[str]:
        env = {name: value for name, value in os.environ.items() if not name.startswith(("GRIDCTL_", "SSH_"))}
        env |= {"HOME": str(self.directory), "GRIDCTL_GRIDFILE": str(self.directory / "Gridfile"), "GRIDCTL_VIA": via}
        ended = engine.run(str(GRIDCTL), *argv, stdin=stdin, env=env, timeout=240)
        assert ended.returncode == code, ended.stdout + ended.stderr
        return ended


@pytest.fixture(scope="module")
def walled(nothing_left: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Walled]:
    home = tmp_path_factory.mktemp("operator")
    (home / ".ssh").mkdir(mode=0o700)
    key = home / ".ssh" / "id_ed25519"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True, timeout=60)
    network = f"gridcontrol-test-{engine.RUN}-walled"
    docker("network", "create", "--label", f"{engine.TEST}={engine.RUN}", network)
    docker("tag", engine.image(), IMAGE)
    try:
        server = WholeServer.start("walled", network, key.with_suffix(".pub").read_text().strip())
        server.run("iptables -I INPUT -p tcp --dport 7400 ! -i lo -j DROP")
        made = ["new", "--name", "walled", "--server", f"root@{server.address}"]
        env = {**os.environ, "HOME": str(home)}
        subprocess.run([GRIDCTL, *made], cwd=home, env=env, check=True, timeout=60, capture_output=True)
        walled = Walled(home, server)
        walled.gridctl("provision", "--image", IMAGE)
        copy_sample("hello", home / "hello")
        walled.gridctl("deploy", str(home / "hello"), "-y")
        yield walled
    finally:
        engine.remove_containers(engine.containers(f"{engine.TEST}={engine.RUN}", f"{engine.NAME}=server"))
        docker("network", "rm", network)
        docker("image", "rm", IMAGE, check=False)


def test_its_port_is_closed_to_us(walled: Walled) -> None:
    ended = walled.gridctl("ls", via="direct", code=4)
    assert "no answer within" in ended.stderr


def test_by_itself_gridctl_goes_through_ssh_and_says_so_once(walled: Walled) -> None:
    ended = walled.gridctl("invoke", "whoami", via="auto")
    assert json.loads(ended.stdout)["node"] == "walled"
    assert ended.stderr.count("through SSH") == 1
    assert "through SSH" not in ended.stdout


def test_every_command_works_the_same(walled: Walled) -> None:
    assert [row["name"] for row in json.loads(walled.gridctl("ls", "--json").stdout)["nodes"]] == ["walled"]
    assert json.loads(walled.gridctl("ps", "--json").stdout)["nodes"]
    assert walled.gridctl("logs", "-n", "5").returncode == 0
    assert walled.gridctl("releases").stdout
    walled.gridctl("scale", "echo=2")
    many = walled.gridctl("invoke", "echo", "-d", '"x"', "--repeat", "500", "--concurrency", "16", "--json")
    assert many.stdout
    started = time.monotonic()
    walled.gridctl("invoke", "echo", "-d", "-", stdin=json.dumps("y" * 4_000_000))
    print(f"4 MB there and back through SSH, the command included: {time.monotonic() - started:.1f} s")


def test_the_ledger_says_from_where(walled: Walled) -> None:
    entries = json.loads(walled.gridctl("audit", "--json").stdout)["entries"]
    gateway = walled.server.run("ip route show default").split()[2]
    assert {entry["from"] for entry in entries} == {f"{gateway} by SSH to {walled.server.address}"}


def test_nothing_is_left_of_a_tunnel(walled: Walled) -> None:
    """Neither here nor there: the connection ends with the command."""
    assert walled.server.run("ss -Htn state established '( sport = :22 )'").strip() == ""
