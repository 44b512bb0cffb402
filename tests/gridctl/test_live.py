import asyncio
import io
import os
import pty
import sys
import termios
from collections.abc import Iterator

import pytest
from rich.console import Console

from gridctl.fleet import State
from gridctl.live import Live
from gridnode.gridfile import Server

SERVERS = [Server(f"host-{number}", "root") for number in range(1, 31)]


def drawn(live: Live, height: int = 10) -> list[str]:
    console = Console(file=io.StringIO(), width=100, color_system=None)
    console.print(live.table(height))
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def test_hosts_have_marks_and_the_last_one_that_did_something_is_shown() -> None:
    live = Live(SERVERS[:3])
    for server, state in zip(SERVERS, (State.DONE, State.FAILED, State.WANTED), strict=False):
        live.begun(server, "image")
        live.line(server, f"of {server.host}")
        live.ended(server, "image", state, 1.25)
    assert drawn(live) == [
        "✓ root@host-1 image  of host-3",
        "✗ root@host-2 image  image: would change 1.2 s",
        "~ root@host-3 image",
    ]


def test_arrow_keys_choose() -> None:
    live = Live(SERVERS[:3])
    for server in SERVERS[:3]:
        live.line(server, f"of {server.host}")
    for keys, host in (
        (b"\x1b[B", "host-1"),
        (b"\x1b[A", "host-3"),
        (b"k", "host-2"),
        (b"j", "host-3"),
        (b"x", "host-3"),
    ):
        live.press(keys)
        assert f"of {host}" in drawn(live)[0]
    live.line(SERVERS[0], "it does something")
    assert "of host-3" in drawn(live)[0]


def test_many_hosts_and_lines_scroll() -> None:
    live = Live(SERVERS)
    for number in range(1000):
        live.line(SERVERS[24], f"line {number}")
    lines = drawn(live)
    assert len(lines) == 10
    assert any("root@host-25" in line for line in lines)
    assert lines[-1].endswith("line 999")


def test_what_a_server_prints_cannot_steer_the_terminal() -> None:
    live = Live(SERVERS[:1])
    live.line(SERVERS[0], "\x1b[2J[red]x[/red]" + "y" * 10_000)
    assert "\\x1b[2J[red]x[/red]yyy" in drawn(live)[0]
    assert len(drawn(live)) == 1


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[int, int]]:
    """(our end, gridctl's end) of a terminal that is its stdin."""
    ours, theirs = pty.openpty()
    with open(theirs, "r+b", buffering=0) as raw, io.TextIOWrapper(raw) as stream:
        monkeypatch.setattr(sys, "stdin", stream)
        monkeypatch.setattr(sys, "stderr", io.StringIO())
        yield ours, theirs
    os.close(ours)


async def test_it_reads_keys_and_leaves_the_terminal_as_it_was(terminal: tuple[int, int]) -> None:
    ours, theirs = terminal
    before = termios.tcgetattr(theirs)
    live = Live(SERVERS[:3])
    with live.shown():
        os.write(ours, b"\x1b[B")
        async with asyncio.timeout(10):
            while live.chosen is None:  # noqa: ASYNC110
                await asyncio.sleep(0)
    assert live.chosen == 1
    assert termios.tcgetattr(theirs) == before
