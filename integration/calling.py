"""Calls that go on while something is done to the grid."""

import threading
from pathlib import Path

from gridctl.client import Grid
from gridnode.errors import GridError


async def call_on(gridfile: Path, over: threading.Event) -> tuple[int, list[GridError]]:
    """Calls, one after the other, until it is over: how many came back, and what became of the others."""
    good, bad = 0, []
    async with Grid.connect(gridfile) as grid:
        while not over.is_set():
            try:
                await grid.invoke("echo", good, timeout=20)
                good += 1
            except GridError as exc:
                bad.append(exc)
    return good, bad
