"""Links through a real SSH server in this process to a grid whose port is closed to the client."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from gridctl import Grid
from gridctl.cli import run
from gridctl.new import load_gridfile, write_private
from gridctl.tunnel import Tunnels
from gridnode.errors import LinkClosed, NotAuthenticated, UsageError
from gridnode.gridfile import Gridfile, Server, render_gridfile, render_secret
from gridnode.model import Address
from tests.gridctl.conftest import RunningGrid, free_port

BOTH_LOOPS = True
CLOSED = "127.0.0.2"
"""Where no node listens, and the SSH server does."""


class Entry(asyncssh.SSHServer):
    """Lets in whoever has the key; opened: to where connections were asked for."""

    def __init__(self, opened: list[tuple[str, int]], forwards: bool) -> None:
        self._opened = opened
        self._forwards = forwards

    def connection_requested(self, dest_host: str, dest_port: int, orig_host: str, orig_port: int) -> bool:
        self._opened.append((dest_host, dest_port))
        if not self._forwards:
            raise asyncssh.ChannelOpenError(asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED, "open failed")
        return True


async def _process(process: Any) -> None:
    word = (process.command or "").split()[0]
    process.stdout.write(b"192.0.2.7 50000 192.0.2.1 22\n" if word == "echo" else b"0\n")
    process.exit(0)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No keys of whoever runs the tests."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    return tmp_path


@pytest.fixture
def opened() -> list[tuple[str, int]]:
    return []


@pytest.fixture
def gridfile(hello_grid: RunningGrid, home: Path) -> Gridfile:
    """Of the grid, as one whose ports are closed to us; its servers are named by `entry`."""
    whole = load_gridfile(hello_grid.gridfile)
    seeds = tuple(Address(CLOSED, port) for port in hello_grid.ports)
    return replace(whole, seeds=seeds, path=str(home / "Gridfile"))


@asynccontextmanager
async def entry(gridfile: Gridfile, opened: list[tuple[str, int]], forwards: bool = True) -> AsyncIterator[Gridfile]:
    """The Gridfile, on disk too, with the running SSH server in it."""
    public = asyncssh.import_private_key(gridfile.ssh_key).export_public_key().decode()
    listening = await asyncssh.create_server(
        lambda: Entry(opened, forwards),
        CLOSED,
        0,
        server_host_keys=[asyncssh.generate_private_key("ssh-ed25519")],
        authorized_client_keys=asyncssh.import_authorized_keys(public),
        process_factory=_process,
        encoding=None,
    )
    try:
        whole = replace(gridfile, servers=(Server(CLOSED, "root", listening.get_port()),))
        write_private(Path(whole.path), render_gridfile(whole), replacing=True)
        yield whole
    finally:
        listening.close()
        await listening.wait_closed()


@pytest.mark.parametrize("via", ["auto", "ssh"])
async def test_a_grid_whose_port_is_closed_is_reached_through_ssh(
    gridfile: Gridfile, opened: list[tuple[str, int]], via: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with entry(gridfile, opened) as there, Grid.connect(replace(there, via=via)) as grid:
        assert await grid.invoke("echo", {"n": 1}) == {"n": 1}
        assert [result async for result in grid.map("echo", range(50))] == list(range(50))
        assert await grid.invoke("echo", "x" * 1_000_000) == "x" * 1_000_000
        assert grid.via == "ssh"
        assert grid._links.main.end.seen == f"192.0.2.7 by SSH to {CLOSED}"
        assert {host for host, _ in opened} == {"127.0.0.1"}
        assert load_gridfile(Path(there.path)).host_keys, "the host key is pinned"
    assert [record.message.partition(":")[0] for record in caplog.records if record.name == "gridctl"] == [
        f"reaching {CLOSED}"
    ]


async def test_what_answers_at_its_port_is_taken_directly(hello_grid: RunningGrid, home: Path) -> None:
    whole = replace(load_gridfile(hello_grid.gridfile), via="auto", servers=(Server(CLOSED, "root", free_port()),))
    async with Grid.connect(whole) as grid:
        assert await grid.invoke("echo", 1) == 1
        assert grid.via == "direct"


async def test_a_link_that_breaks_is_dialled_through_ssh_again(
    gridfile: Gridfile, opened: list[tuple[str, int]]
) -> None:
    async with entry(gridfile, opened) as there, Grid.connect(replace(there, via="ssh"), links=1) as grid:
        grid._links.main.link.abort(LinkClosed("cut"))
        assert await grid.invoke("echo", 2) == 2


async def test_direct_and_a_program_that_says_nothing_never_use_ssh(
    gridfile: Gridfile, opened: list[tuple[str, int]]
) -> None:
    async with entry(gridfile, opened) as there:
        for via in ("direct", ""):
            with pytest.raises(LinkClosed, match="connection refused"):
                await Grid.connect(replace(there, via=via))
    assert opened == []


async def test_an_address_that_is_no_servers_is_reached_from_any_server(
    gridfile: Gridfile, opened: list[tuple[str, int]], hello_grid: RunningGrid
) -> None:
    inner = Address("127.0.0.1", hello_grid.ports[0])
    async with entry(gridfile, opened) as there, Grid.connect(replace(there, via="ssh"), [inner], links=1) as grid:
        assert await grid.invoke("echo", 3) == 3
    assert set(opened) == {("127.0.0.1", inner.port)}


async def test_what_stands_in_the_way_is_said(gridfile: Gridfile, opened: list[tuple[str, int]]) -> None:
    nobody = free_port()
    async with entry(gridfile, opened) as there:
        with pytest.raises(LinkClosed, match="no way from there") as caught:
            await Grid.connect(replace(there, via="auto"), [Address(CLOSED, nobody)])
        assert "systemctl status gridnode" in (caught.value.hint or "")
    async with entry(gridfile, opened, forwards=False) as there:
        with pytest.raises(LinkClosed, match="AllowTcpForwarding"):
            await Grid.connect(replace(there, via="ssh"))
    with pytest.raises(LinkClosed, match=r"connection refused.*through SSH"):
        await Grid.connect(replace(there, via="auto"))
    foreign = replace(there, via="ssh", grid_password=render_secret(b"x" * 32))
    async with entry(foreign, opened) as elsewhere:
        with pytest.raises(NotAuthenticated):
            await Grid.connect(elsewhere)


def test_it_takes_servers(gridfile: Gridfile) -> None:
    with pytest.raises(UsageError, match="no servers"):
        Tunnels(replace(gridfile, servers=()))


def test_the_flag_goes_before_the_variable_before_the_gridfile(
    hello_grid: RunningGrid, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = home / "Gridfile"
    whole = load_gridfile(hello_grid.gridfile)
    text = render_gridfile(replace(whole, via="ssh", servers=(Server(CLOSED, "root", free_port()),)))
    write_private(path, text)
    assert load_gridfile(path).via == "ssh"
    assert run(["ls", "--gridfile", str(path)]) == 4
    monkeypatch.setenv("GRIDCTL_VIA", "direct")
    assert run(["ls", "--gridfile", str(path)]) == 0
    assert run(["--via", "ssh", "ls", "--gridfile", str(path)]) == 4
    assert run(["ls", "--via", "direct", "--gridfile", str(path)]) == 0
    monkeypatch.setenv("GRIDCTL_VIA", "pigeon")
    assert run(["ls", "--gridfile", str(path)]) == 2
    assert "pigeon" in capsys.readouterr().err
