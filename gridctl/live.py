"""A fleet at work on a terminal: the hosts with a mark each, and beside them what the chosen one prints."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import termios
import tty
from collections import deque
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from gridctl.fleet import State
from gridctl.render import clean
from gridnode.gridfile import Server

if TYPE_CHECKING:
    from rich.live import Live as Screen
    from rich.table import Table

__all__ = ["Live", "is_wanted"]

_KEPT = 500
"""Lines kept of each host."""
_UP, _DOWN = (b"\x1b[A", b"\x1bOA", b"k"), (b"\x1b[B", b"\x1bOB", b"j")
_MARKS = {
    State.DONE: "[green]✓[/]",
    State.UNCHANGED: "[green]✓[/]",
    State.WANTED: "[yellow]~[/]",
    State.FAILED: "[red]✗[/]",
}


def is_wanted() -> bool:
    """Whether a person watches who can also press keys."""
    return sys.stdin.isatty() and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


class Live:
    """A report. Arrow keys choose a host; until then it is the one that did something last."""

    def __init__(self, servers: Sequence[Server]) -> None:
        self.chosen: int | None = None
        self._servers = list(servers)
        self._lines: dict[Server, deque[str]] = {server: deque(maxlen=_KEPT) for server in servers}
        self._doing: dict[Server, str] = dict.fromkeys(servers, "")
        self._marks: dict[Server, str] = dict.fromkeys(servers, " ")
        self._last = 0
        self._screen: Screen | None = None

    def begun(self, server: Server, step: str) -> None:
        self._doing[server], self._marks[server] = step, "[cyan]•[/]"
        self._show(server)

    def line(self, server: Server, text: str) -> None:
        self._lines[server].append(clean(text))
        self._show(server)

    def ended(self, server: Server, step: str, state: str, seconds: float) -> None:
        self._marks[server] = _MARKS.get(state, " ")
        self._lines[server].append(f"{step}: {state} {seconds:.1f} s")
        self._show(server)

    def press(self, keys: bytes) -> None:
        """Move to the host above or below."""
        here = self._last if self.chosen is None else self.chosen
        step = -1 if keys in _UP else 1 if keys in _DOWN else 0
        if step:
            self.chosen = (here + step) % len(self._servers)
            self._draw()

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        """On the screen while the block runs; it has to be inside a running loop."""
        from rich.console import Console
        from rich.live import Live as Screen

        loop, descriptor = asyncio.get_running_loop(), sys.stdin.fileno()
        before = termios.tcgetattr(descriptor)
        tty.setcbreak(descriptor)
        loop.add_reader(descriptor, lambda: self.press(os.read(descriptor, 16)))
        try:
            with Screen(self.table(20), console=Console(stderr=True), refresh_per_second=8, transient=True) as screen:
                self._screen = screen
                yield
        finally:
            self._screen = None
            loop.remove_reader(descriptor)
            termios.tcsetattr(descriptor, termios.TCSADRAIN, before)

    def table(self, height: int) -> Table:
        """The hosts, and the last lines of the chosen one; height: lines."""
        from rich.table import Table
        from rich.text import Text

        here = self._last if self.chosen is None else self.chosen
        first = max(0, min(here - height // 2, len(self._servers) - height))
        rows = [self._row(number, number == here) for number in range(first, min(first + height, len(self._servers)))]
        told = list(self._lines[self._servers[here]])[-height:]
        grid = Table.grid(padding=(0, 2), expand=True)
        grid.add_column(no_wrap=True)
        grid.add_column(no_wrap=True, ratio=1, overflow="ellipsis")
        grid.add_row(Text.from_markup("\n".join(rows)), Text("\n".join(told)))
        return grid

    def _row(self, number: int, is_chosen: bool) -> str:
        """One host in rich's markup; names from a Gridfile hold no bracket but an IPv6 address's."""
        from rich.markup import escape

        server = self._servers[number]
        name = escape(str(server))
        return f"{self._marks[server]} {f'[reverse]{name}[/]' if is_chosen else name} [dim]{self._doing[server]}[/]"

    def _show(self, server: Server) -> None:
        self._last = self._servers.index(server)
        self._draw()

    def _draw(self) -> None:
        if self._screen:
            self._screen.update(self.table(max(4, self._screen.console.height - 2)))
