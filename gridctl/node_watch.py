"""Shows the nodes over and over: in place on a terminal, else whenever something has changed."""

import json
import shutil
from collections.abc import Callable, Sequence
from typing import IO, Any, Final

from gridctl.render import SCHEMA, Progress, is_terminal
from gridnode.model import Member

__all__ = ["NodeWatch"]

Lines = Callable[[Sequence[Member], float, bool], list[str]]
"""The table of the nodes at a time, unix seconds, with bars or not."""
_HOME: Final = "\x1b[H\x1b[J"
"""To the upper left, and all below away."""


class NodeWatch:
    """stream: where it goes; as_json: one object a line."""

    def __init__(self, stream: IO[str], lines: Lines, as_json: bool) -> None:
        self._stream = stream
        self._lines = lines
        self._as_json = as_json
        self._last: Any = None
        self._lost = ""

    def show(self, members: Sequence[Member], fields: dict[str, Any], now: float) -> None:
        """The nodes as they are. fields: the same for programs; now: unix seconds."""
        self._lost = ""
        if not self._as_json and is_terminal(self._stream):
            width, height = shutil.get_terminal_size()
            shown = [line[: width - 1] for line in self._lines(members, now, True)][: height - 1]
            self._write(_HOME + "\n".join(shown) + "\n")
        elif fields != self._last:
            self._last = fields
            lines = [json.dumps({"schema": SCHEMA, **fields})] if self._as_json else self._lines(members, now, False)
            self._write("\n".join(lines) + "\n")

    def lost(self, why: str) -> None:
        """No node answers; said once until one does."""
        if why != self._lost:
            self._lost = why
            Progress().line(f"no answer, trying again: {why}", "yellow")

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()
