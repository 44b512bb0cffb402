"""What docker, ps and the logs show of a grid: how its sandboxes are confined, and none of its secrets."""

import base64
import json
import subprocess
from typing import Any

import pytest

from gridctl.new import load_gridfile
from gridnode.gridfile import parse_card
from integration import engine
from integration.conftest import PATIENCE
from integration.engine import docker
from integration.grid import Grid, until
from integration.node import Node


@pytest.fixture
def secrets(grid: Grid) -> set[str]:
    """Every secret text of the Gridfile and of the nodes' cards, in the forms somebody might print."""
    gridfile = load_gridfile(grid.gridfile)
    found = {gridfile.grid_password, gridfile.grid_password.rpartition("-")[2], *_secret_lines(gridfile.ssh_key)}
    for node in grid.nodes.values():
        card = parse_card((node.directory / "Card").read_text(), node.name)
        key = card.network_key
        found |= {*_secret_lines(card.issuer_key), key.hex(), base64.b64encode(key).decode().rstrip("="), str(key)}
    assert all(len(secret) >= 40 for secret in found)
    return found


def test_no_secret_is_in_docker_inspect(grid: Grid, secrets: set[str]) -> None:
    rows = engine.inspect(*engine.containers(f"{engine.GRID}={grid.tag}"))
    assert len(rows) == 3 + 6
    _shows_none(json.dumps(rows), secrets)


def test_no_secret_is_in_the_arguments_or_environment_of_a_process(grid: Grid, secrets: set[str]) -> None:
    _shows_none(subprocess.run(["ps", "axeww"], check=True, capture_output=True, text=True, timeout=30).stdout, secrets)
    for node in grid.nodes.values():
        _shows_none(docker("top", node.container, "-eww", "-o", "pid,args"), secrets)


def test_no_secret_is_in_the_image(secrets: set[str]) -> None:
    image = engine.image()
    _shows_none(docker("image", "inspect", image) + docker("history", "--no-trunc", image), secrets)


def test_no_secret_is_in_a_log(grid: Grid, secrets: set[str]) -> None:
    talkative = grid.add("talkative", env={"GRIDNODE_LOG_LEVEL": "debug"})
    until(grid.is_full_mesh, PATIENCE, "a full mesh of four")
    card = parse_card((talkative.directory / "Card").read_text(), "card")
    for node in grid.nodes.values():
        _shows_none(node.logs(), secrets | set(_secret_lines(card.issuer_key)))
    for row in grid.sandboxes():
        _shows_none(docker("logs", row["Id"]), secrets)


def test_no_secret_of_the_operator_is_on_a_server(grid: Grid, node: Node) -> None:
    gridfile = load_gridfile(grid.gridfile)
    secrets = {gridfile.grid_password, *_secret_lines(gridfile.ssh_key)}
    for path in node.directory.rglob("*"):
        if path.is_file():
            _shows_none(path.read_bytes().decode(errors="replace"), secrets)


def test_what_a_node_keeps_is_for_itself_alone(node: Node) -> None:
    assert (node.directory / "Card").stat().st_mode & 0o077 == 0
    assert (node.directory / "data" / "node.key").stat().st_mode & 0o077 == 0


def test_every_sandbox_is_confined(grid: Grid) -> None:
    rows = grid.sandboxes()
    assert len(rows) == 6
    for row in rows:
        _is_confined(row)


def _is_confined(row: dict[str, Any]) -> None:
    host = row["HostConfig"]
    assert (host["NetworkMode"], host["ReadonlyRootfs"], host["CapDrop"]) == ("none", True, ["ALL"])
    assert (host["Privileged"], host["CapAdd"], host["IpcMode"]) == (False, None, "private")
    assert "no-new-privileges:true" in host["SecurityOpt"]
    assert not any("unconfined" in option for option in host["SecurityOpt"])
    assert host["Memory"] > 0
    assert host["MemorySwap"] == host["Memory"]
    assert host["PidsLimit"] > 0
    assert host["NanoCpus"] > 0
    assert row["Config"]["User"].split(":")[0] not in ("", "0", "root")
    assert {(mount["Destination"], mount["RW"]) for mount in row["Mounts"]} == {
        ("/task", False),
        ("/run/grid", False),
        ("/usr/lib/gridnode/runtimes", False),
    }
    assert "docker.sock" not in json.dumps(row)


def _secret_lines(pem: str) -> list[str]:
    """The lines of a key that tell it from any other: none of its framing, and not those all keys begin with."""
    lines = [line for line in pem.splitlines() if line and not line.startswith("-----")]
    return [line for line in lines if len(line) >= 40][-2:]


def _shows_none(text: str, secrets: set[str]) -> None:
    shown = [secret for secret in secrets if secret in text]
    assert shown == []
