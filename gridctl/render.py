"""What people see: colour where it is wanted, tables, sizes, spans of time, and progress on stderr."""

import json
import math
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import IO, Any, Final, Literal

import click

__all__ = ["Progress", "clean", "is_terminal", "paint", "percent", "print_json", "size", "span", "table", "way"]

SCHEMA: Final = 1
"""Version of every `--json` output; grows when a key is renamed or removed."""
_REDRAW = 0.1
_PATIENCE = 0.2
"""Seconds before the first bar: what is done at once needs none."""
_BAR = 28
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""Control characters but tab and newline, and those that reorder text."""

Colour = Literal["red", "green", "yellow", "blue", "magenta", "cyan", "bright_black"]


def is_terminal(stream: IO[str]) -> bool:
    """Whether a person watches it."""
    return stream.isatty()


def paint(text: str, colour: Colour, stream: IO[str]) -> str:
    """Coloured on a terminal, unless NO_COLOR is set or the terminal is dumb."""
    wanted = is_terminal(stream) and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return click.style(text, fg=colour) if wanted else text


def clean(text: str) -> str:
    """Text from elsewhere, safe to print: what could steer a terminal is shown as an escape."""
    return _CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", text)


def print_json(fields: dict[str, Any]) -> None:
    """One object on stdout, in ASCII, with the schema's version; indented on a terminal."""
    indent = 2 if is_terminal(sys.stdout) else None
    click.echo(json.dumps({"schema": SCHEMA, **fields}, indent=indent).replace("\x7f", "\\u007f"))


def size(count: float) -> str:
    """`1.2 MB`."""
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def span(seconds: float) -> str:
    """`4d 3h`, `12m 5s`, `3s`: the two largest units."""
    left = max(0, int(seconds))
    parts: list[str] = []
    for unit, length in (("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)):
        count, left = divmod(left, length)
        if count or (parts and len(parts) < 2) or (unit == "s" and not parts):
            parts.append(f"{count}{unit}")
        if len(parts) == 2:
            break
    return " ".join(part for part in parts if part[:-1] != "0") or "0s"


def percent(have: int, total: int) -> str:
    """`40%`, nothing while the total is unknown."""
    return f"{100 * have // total}%" if total else ""


def way(have: int, total: int, rate: int) -> str:
    """`40%, 1.2 MB/s, 12s left`; bytes, and bytes a second. Nothing while the total is unknown."""
    if not rate or have >= total:
        return percent(have, total)
    return f"{percent(have, total)}, {size(rate)}/s, {span(math.ceil((total - have) / rate))} left"


def drawn(have: int, total: int, width: int = _BAR) -> str:
    """`[####      ]`."""
    filled = min(width * have // total, width) if total else 0
    return f"[{'#' * filled}{' ' * (width - filled)}]"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of aligned columns; nothing in a cell can break its line."""
    cells = [list(head), *([clean(cell).replace("\n", " ").replace("\t", " ") for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]


class Progress:
    """Lines on stderr, with bars below them while something is under way; no bars without a terminal."""

    def __init__(self, stream: IO[str] | None = None) -> None:
        self._stream = stream or sys.stderr
        self.is_live = is_terminal(self._stream) and os.environ.get("TERM") != "dumb"
        self._drawn = 0
        self._due = time.monotonic() + _PATIENCE

    def line(self, text: str, colour: Colour | None = None) -> None:
        """A line that stays."""
        self.clear()
        text = clean(text)
        self._stream.write((paint(text, colour, self._stream) if colour else text) + "\n")
        self._stream.flush()

    def bar(self, label: str, done: int, total: int) -> None:
        """How far it is; done and total in bytes."""
        self.bars(lambda: [f"{label} {drawn(done, total)} {size(done)} of {size(total)}"])

    def bars(self, lines: Callable[[], Sequence[str]]) -> None:
        """Lines in place of those before, redrawn ten times a second at most, as many as the terminal can show."""
        now = time.monotonic()
        if not self.is_live or now < self._due:
            return
        self._due = now + _REDRAW
        columns, rows = shutil.get_terminal_size()
        shown = [clean(line)[: columns - 1] for line in lines()][: max(1, rows - 2)]
        self._write(self._erased() + "\n".join(shown))
        self._drawn = len(shown)

    def clear(self) -> None:
        """Take the bars away."""
        if self._drawn:
            self._write(self._erased())
            self._drawn = 0

    def _erased(self) -> str:
        """What takes the bars away and leaves the cursor where they began."""
        return f"\r\x1b[{self._drawn - 1}A\x1b[J" if self._drawn > 1 else "\r\x1b[K"

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()
