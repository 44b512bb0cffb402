"""How a line of a log looks: for people, coloured by node, and as JSON."""

import json
import re
import sys
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import click

from gridctl.render import SCHEMA, Colour, clean, paint
from gridctl.tail import Row
from gridnode.messages import OWN_LOG
from gridnode.model import LogLine, NodeId

__all__ = ["Printer", "as_fields", "own_text", "time_text"]

_COLOURS: Final[tuple[Colour, ...]] = ("cyan", "green", "yellow", "magenta", "blue")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAST = 253_402_300_799
"""The last second of the year 9999, in unix seconds."""
_TOLD = ("event", "level", "timestamp")
"""Fields of gridnode's own lines that have a place of their own."""


class Printer:
    """pattern: what a line must match to be printed, anything when None."""

    def __init__(self, pattern: re.Pattern[str] | None, as_json: bool) -> None:
        self._pattern = pattern
        self._as_json = as_json
        self._colours: dict[NodeId, Colour] = {}

    def matches(self, row: Row) -> bool:
        return self._pattern is None or self._pattern.search(row.line.text) is not None

    def print(self, rows: Iterable[Row]) -> None:
        """A line of stdout for each, in one write; BrokenPipeError when nobody reads it any more."""
        lines = [json.dumps(as_fields(row)) if self._as_json else self._line(row) for row in rows]
        if lines:
            click.echo("\n".join(lines))

    def _line(self, row: Row) -> str:
        line = row.line
        whence = f"{row.node.name} " + ("gridnode" if line.task == OWN_LOG else f"{line.task}/{line.instance}")
        colour = self._colours.setdefault(row.node.id, _COLOURS[len(self._colours) % len(_COLOURS)])
        text = clean(own_text(line) if line.task == OWN_LOG else line.text.rstrip("\r")).replace("\n", "\\x0a")
        if line.stream in ("stderr", "error", "critical"):
            text = paint(text, "red", sys.stdout)
        return f"{time_text(line.time)[:19]}Z {paint(clean(whence), colour, sys.stdout)} | {text}"


def time_text(nanoseconds: int) -> str:
    """`2026-11-24T03:00:00.000000001Z`; what is no time of ours becomes the nearest one."""
    seconds, rest = divmod(min(max(nanoseconds, 0), _LAST * 1_000_000_000), 1_000_000_000)
    return f"{(_EPOCH + timedelta(seconds=seconds)).isoformat()[:19]}.{rest:09d}Z"


def own_text(line: LogLine) -> str:
    """`event key=value ...` of a line of gridnode's own JSON, or the line as it is."""
    try:
        fields = json.loads(line.text)
        event = fields.get("event", "")
    except (ValueError, AttributeError, RecursionError):
        return line.text
    pairs = (f"{name}={_value(value)}" for name, value in fields.items() if name not in _TOLD)
    return " ".join([str(event), *pairs])


def _value(value: Any) -> str:
    return value if isinstance(value, str) and " " not in value else json.dumps(value, ensure_ascii=False)


def as_fields(row: Row) -> dict[str, Any]:
    """A line as `--json` prints it; task and instance are null for gridnode's own, whose text is its JSON."""
    line = row.line
    own = line.task == OWN_LOG
    return {
        "schema": SCHEMA,
        "time": time_text(line.time),
        "node": {"id": row.node.id, "name": row.node.name},
        "task": None if own else line.task,
        "instance": None if own else line.instance,
        "stream": line.stream,
        "text": line.text,
    }
