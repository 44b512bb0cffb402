"""Who may do what on a real grid: a user's Gridfile, and a server and a user that are revoked."""

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from gridctl.client import Grid as Client
from gridctl.new import load_gridfile
from gridnode.errors import LinkError
from gridnode.model import Address
from integration import engine, project
from integration.grid import GRIDCTL, Grid, until

WITHIN = 5.0
"""Seconds in which a revocation has to hold everywhere."""


@pytest.fixture(scope="module")
def grid(nothing_left: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Grid]:
    """Three nodes of their own: one is revoked in the end."""
    grid = Grid(3, name="trust")
    try:
        until(grid.is_full_mesh, 60, "a full mesh")
        grid.deploy(project.write(tmp_path_factory.mktemp("project") / "base"))
        yield grid
    finally:
        grid.close()


@pytest.fixture(scope="module")
def shared(grid: Grid, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's Gridfile."""
    path = tmp_path_factory.mktemp("user") / "Gridfile"
    made = grid.gridctl("share", "alice", "--ttl", "1h", "-o", str(path))
    assert made.returncode == 0, made.stderr
    return path


def by_user(path: Path, *argv: str) -> CompletedProcess[str]:
    return engine.run(str(GRIDCTL), "--gridfile", str(path), *argv)


def new_share(grid: Grid, path: Path) -> bool:
    path.unlink(missing_ok=True)
    return grid.gridctl("share", "alice", "-o", str(path)).returncode == 0


async def ask_on(client: Client, until: float) -> None:
    """Ask again and again, at most until then."""
    while time.monotonic() < until:
        await client.nodes()
        await asyncio.sleep(0.02)


def test_a_users_gridfile_holds_no_secret_of_the_grid(grid: Grid, shared: Path) -> None:
    text, whole = shared.read_text(), load_gridfile(grid.gridfile)
    assert shared.stat().st_mode & 0o777 == 0o600
    assert whole.grid_password not in text
    assert "OPENSSH" not in text


def test_a_user_calls_and_looks(shared: Path) -> None:
    for argv in (("invoke", "echo", "-d", "1"), ("ls",), ("ps",), ("logs",)):
        ended = by_user(shared, *argv)
        assert ended.returncode == 0, f"{argv}: {ended.stderr}"
    rows = json.loads(by_user(shared, "ls", "--json").stdout)["nodes"]
    assert len(rows) == 3


@pytest.mark.parametrize(
    "argv",
    [("releases",), ("restart", "--all"), ("secret", "ls"), ("share", "bob"), ("revoke", "x", "-y"), ("card", "x")],
    ids=" ".join,
)
def test_a_user_changes_nothing(shared: Path, argv: tuple[str, ...]) -> None:
    ended = by_user(shared, *argv)
    assert ended.returncode == 1
    assert "this takes an operator's Gridfile" in ended.stderr


def test_a_revoked_user_is_cut_off_in_the_middle_of_a_link(grid: Grid, shared: Path) -> None:
    async def use() -> float:
        async with Client.connect(shared, links=1) as client:
            await client.nodes()
            revoked = await asyncio.to_thread(grid.gridctl, "revoke", "--user", "alice", "-y")
            assert revoked.returncode == 0, revoked.stderr
            started = time.monotonic()
            with pytest.raises(LinkError):
                await ask_on(client, started + WITHIN)
            return time.monotonic() - started

    took = asyncio.run(use())
    print(f"cut off after {took:.2f} s")
    assert took < WITHIN
    assert by_user(shared, "ls").returncode == 4
    again = shared.with_name("again")
    until(lambda: new_share(grid, again) and by_user(again, "ls").returncode == 0, WITHIN, "a later share is good")


def test_a_revoked_server_talks_to_nobody_and_nobody_to_it(grid: Grid) -> None:
    lost, *others = [grid.nodes[name] for name in ("node-2", "node-1", "node-3")]
    ended = grid.gridctl("revoke", lost.name, "-y")
    assert ended.returncode == 0, ended.stderr
    started = time.monotonic()
    names = {node.name for node in others}
    until(lambda: all(grid.alive(node) == names for node in others), WITHIN, "the others have dropped it")
    until(lambda: grid.alive(lost) == {lost.name}, WITHIN, "it is alone")
    print(f"shut out after {time.monotonic() - started:.2f} s")
    assert "this node was revoked" in lost.logs()
    for node in others:
        grid.restart(node)  # nothing of it is forgotten
    until(lambda: all(grid.alive(node) == names for node in others), 60, "they are linked again")
    grid.restart(lost)
    until(lambda: grid.alive(lost) == {lost.name}, 30, "it is back, and alone")
    assert all(lost.name not in grid.alive(node) for node in others)


def test_a_new_card_for_a_revoked_server_is_good(grid: Grid) -> None:
    lost = grid.nodes["node-2"]
    (lost.directory / "Card").write_text(grid.card(lost.name, [Address(grid.nodes["node-1"].address, 7400)]))
    grid.restart(lost)
    until(grid.is_full_mesh, 60, "a full mesh again")


def test_every_change_is_in_the_ledger_with_who_and_from_where(grid: Grid) -> None:
    ended = grid.gridctl("audit", "--json")
    assert ended.returncode == 0, ended.stderr
    entries = json.loads(ended.stdout)["entries"]
    assert [entry["number"] for entry in entries] == list(range(len(entries), 0, -1))
    assert [entry["kind"] for entry in entries] == ["revocation", "revocation", "release"], "one for each change"
    assert all("@" in entry["by"] and entry["from"] and entry["at"] > time.time() - 3600 for entry in entries)
    assert "release 1" in grid.gridctl("audit").stdout


def test_a_backup_brings_a_ledger_back(grid: Grid, tmp_path: Path) -> None:
    """To nodes that have lost theirs: the same files, settings and secrets as before."""
    assert grid.gridctl("secret", "set", "KEY", stdin="value").returncode == 0
    assert grid.gridctl("scale", "echo=2").returncode == 0
    file = tmp_path / "backup"
    saved = grid.gridctl("backup", str(file))
    assert saved.returncode == 0, saved.stderr
    assert file.stat().st_mode & 0o777 == 0o600
    assert b"value" not in file.read_bytes()
    for node in grid.nodes.values():
        grid.stop(node)
        (node.directory / "data" / "ledger").unlink()
    for node in grid.nodes.values():
        grid.start(node)
    until(lambda: grid.gridctl("secret", "ls", "--json").returncode == 0, 60, "the nodes are back")
    assert json.loads(grid.gridctl("secret", "ls", "--json").stdout)["secrets"] == []
    restored = grid.gridctl("restore", str(file), "-y", "--json")
    assert restored.returncode == 0, restored.stderr
    kinds = [one["kind"] for one in json.loads(restored.stdout)["restored"]]
    assert set(kinds) == {"revocation", "secret", "order", "release"}
    assert [one["name"] for one in json.loads(grid.gridctl("secret", "ls", "--json").stdout)["secrets"]] == ["KEY"]
    assert json.loads(grid.gridctl("restore", str(file), "-y", "--json").stdout)["restored"] == []
    until(lambda: grid.gridctl("invoke", "echo", "-d", "1").returncode == 0, 60, "it serves")
