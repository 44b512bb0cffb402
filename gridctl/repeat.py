"""`gridctl invoke --repeat`: one call many times, several at once, and a summary: a load test in one command."""

import sys
import time
from collections.abc import Callable

import click
import uvloop

from gridctl.client import Grid
from gridctl.failure import OK, PARTIAL, exit_code
from gridctl.options import Settings
from gridctl.render import clean, is_terminal, paint, print_json
from gridctl.tally import Tally
from gridnode.gridfile import Gridfile

__all__ = ["repeat"]

_REDRAW = 0.2


def repeat(
    settings: Settings, task: str, body: bytes, *, count: int, concurrency: int, timeout: float | None, node: str
) -> int:
    """Call, summarize; the exit code: 0, 3 when some calls failed, that of the usual error when all did."""
    show = _show if is_terminal(sys.stderr) else _nothing
    tally = Tally()
    try:
        uvloop.run(_repeat(settings.gridfile(), task, body, count, concurrency, timeout, node, tally, show))
    finally:
        if tally.count:
            _print(settings, tally)
    if tally.usual_error is None:
        return OK
    return PARTIAL if tally.failed < tally.count else exit_code(tally.usual_error)


async def _repeat(
    gridfile: Gridfile,
    task: str,
    body: bytes,
    count: int,
    concurrency: int,
    timeout: float | None,
    node: str,
    tally: Tally,
    show: Callable[[int, int, float], None],
) -> None:
    async with Grid.connect(gridfile) as grid:
        window = grid.window(task, min(concurrency, count), False, timeout, node=node, patient=False)
        started = due = time.perf_counter()
        put = 0
        while tally.count < count:
            for _ in range(min(window.room, count - put)):
                window.put(body)
                put += 1
            await window.wait()
            for outcome in window.take():
                tally.add(outcome)
            now = time.perf_counter()
            tally.seconds = now - started
            if now >= due:
                due = now + _REDRAW
                show(tally.count, count, tally.rate)
        show(0, 0, 0.0)


def _nothing(done: int, total: int, rate: float) -> None:
    """Nobody watches."""


def _show(done: int, total: int, rate: float) -> None:
    """How far it is, on one line that is taken away at the end."""
    text = f"{done} of {total}, {rate:,.0f}/s" if total else ""
    sys.stderr.write(f"\r\x1b[K{text}")
    sys.stderr.flush()


def _print(settings: Settings, tally: Tally) -> None:
    if settings.as_json:
        print_json(tally.as_fields())
        return
    for line in tally.lines():
        click.echo(clean(line))
    if tally.failed:
        error = tally.usual_error
        hint = error.hint if error else None
        if hint:
            click.echo(paint(f"hint: {clean(hint)}", "yellow", sys.stderr), err=True)
