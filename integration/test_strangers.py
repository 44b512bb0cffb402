"""Who is not let in."""

import json
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from gridctl.new import load_gridfile, new_gridfile
from gridnode.gridfile import render_gridfile
from gridnode.model import Address
from integration import engine
from integration.conftest import PATIENCE
from integration.grid import LINK_PORT, Grid, until
from integration.node import Node


@pytest.fixture
def foreign(grid: Grid) -> Iterator[Grid]:
    """Another grid, of no nodes yet, on the same network."""
    foreign = Grid(0, "foreign", neighbour=grid)
    yield foreign
    foreign.close()


def test_a_node_without_a_card_does_not_start(grid: Grid) -> None:
    stranger = grid.add("cardless", card="")
    until(lambda: not stranger.running, PATIENCE, "the node gives up")
    assert stranger.exit_code == 1
    assert "/etc/gridnode/Card" in stranger.logs()
    assert "gridctl card" in stranger.logs()
    assert "Traceback" not in stranger.logs()


def test_a_node_with_a_damaged_card_does_not_start(grid: Grid) -> None:
    stranger = grid.add("damaged", card=grid.card("damaged")[:200])
    until(lambda: not stranger.running, PATIENCE, "the node gives up")
    assert stranger.exit_code == 1
    assert "Card" in stranger.logs()
    assert "Traceback" not in stranger.logs()


def test_a_node_of_another_grid_is_never_a_member_on_either_side(grid: Grid, foreign: Grid) -> None:
    debug = {"GRIDNODE_LOG_LEVEL": "debug"}
    ours = [Address(node.address, LINK_PORT) for node in grid.nodes.values()]
    theirs = foreign.add("foreign-1", foreign.card("foreign-1", ours), debug)
    dialler = grid.add("dialler", grid.card("dialler", [Address(theirs.address, LINK_PORT)]), debug)
    until(lambda: _dials_failed(theirs, ours), PATIENCE, "each of us refuses them")
    until(lambda: _dials_failed(dialler, [Address(theirs.address, LINK_PORT)]), PATIENCE, "they refuse us")
    until(grid.is_full_mesh, PATIENCE, "a full mesh of our own four")
    assert foreign.alive(theirs) == {"foreign-1"}
    assert [row["name"] for row in foreign.members()] == ["foreign-1"]
    assert "foreign-1" not in {row["name"] for row in grid.members()}


def test_without_a_certificate_nobody_gets_past_the_handshake(node: Node) -> None:
    ended = _s_client(node, "-tls1_3")
    assert ended.stdout == ""
    assert _was_cut_off(ended)


def test_with_a_certificate_of_ones_own_making_nobody_gets_past_the_handshake(node: Node, tmp_path: Path) -> None:
    key, certificate = str(tmp_path / "key.pem"), str(tmp_path / "certificate.pem")
    subject = ["-subj", "/O=operator/CN=operator", "-days", "1", "-nodes"]
    make = ["openssl", "req", "-x509", "-newkey", "ed25519", "-keyout", key, "-out", certificate, *subject]
    subprocess.run(make, check=True, capture_output=True, timeout=30)
    ended = _s_client(node, "-tls1_3", "-cert", certificate, "-key", key)
    assert ended.stdout == ""
    assert _was_cut_off(ended)


def test_older_tls_is_refused(node: Node) -> None:
    ended = _s_client(node, "-tls1_2")
    assert ended.returncode != 0
    assert ended.stdout == ""


def test_the_gridfile_of_another_grid_is_not_let_in(grid: Grid, tmp_path: Path) -> None:
    new_gridfile(tmp_path, "foreign")
    ours = load_gridfile(grid.gridfile).seeds
    for argv in (["ls"], ["invoke", "echo"]):
        ended = grid.gridctl(*argv, "--gridfile", _with_seeds(tmp_path / "Gridfile", ours))
        assert ended.returncode == 4
        assert "not let in" in ended.stderr
        assert "Traceback" not in ended.stderr
    whole = json.loads(grid.gridctl("ls", "--json", "--gridfile", str(tmp_path / "Gridfile")).stdout)
    assert whole["error"]["code"] == "not_authenticated"


def test_no_node_up_names_every_address_that_was_tried(grid: Grid, tmp_path: Path) -> None:
    new_gridfile(tmp_path, "nowhere")
    nowhere = (Address("127.0.0.1", 9), Address("127.0.0.1", 10))
    ended = grid.gridctl("invoke", "echo", "--gridfile", _with_seeds(tmp_path / "Gridfile", nowhere))
    assert ended.returncode == 4
    assert all(str(address) in ended.stderr for address in nowhere)


def _with_seeds(path: Path, seeds: tuple[Address, ...]) -> str:
    path.write_text(render_gridfile(replace(load_gridfile(path), seeds=seeds)))
    return str(path)


def _dials_failed(node: Node, addresses: list[Address]) -> bool:
    failures = [line for line in node.logs().splitlines() if '"dial failed"' in line]
    return all(any(f'"{address}"' in line for line in failures) for address in addresses)


def _s_client(node: Node, *argv: str) -> subprocess.CompletedProcess[str]:
    """openssl s_client until the node ends the connection; stdout: what came through it, nothing else."""
    return engine.run("openssl", "s_client", "-connect", f"127.0.0.1:{node.port}", "-quiet", *argv, timeout=PATIENCE)


def _was_cut_off(ended: subprocess.CompletedProcess[str]) -> bool:
    """A TLS 1.3 client learns only after its own part of the handshake that it was refused: by an alert or an end."""
    return ended.returncode != 0 and ("alert" in ended.stderr or "unexpected eof" in ended.stderr)
