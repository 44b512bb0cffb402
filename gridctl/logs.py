"""`gridctl logs`: what tasks print, of all nodes by time."""

import asyncio
import re
import select
import sys
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import click
import msgspec

from gridctl.failure import OK, PARTIAL
from gridctl.log_lines import Printer
from gridctl.options import Settings, examples, gridfile_option, json_option, pass_settings
from gridctl.orders import known_tasks
from gridctl.render import Colour, clean, paint
from gridctl.server_log import Silent, left, read_server_log, stranger, worth_asking
from gridctl.tail import Row, Tail
from gridnode.errors import HostError, HostUnreachable, LinkError, NodeNotFound, UsageError
from gridnode.messages import MAX_LOG_LINES, OWN_LOG, LogQuery
from gridnode.model import NodeId

if TYPE_CHECKING:
    from gridctl.client import Grid
    from gridnode.gridfile import Gridfile

__all__ = ["logs_command"]

POLL = 0.5
_LINES = 100
_SPAN = re.compile(r"(\d{1,9})([smhd])")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


@click.command(
    "logs", epilog=examples("gridctl logs resize --since 10m --grep 'error|Traceback'", "gridctl logs -f --node web-1")
)
@click.argument("task", default="")
@click.option("-f", "--follow", is_flag=True, help="Go on with new lines until Ctrl-C.")
@click.option(
    "-n", "--lines", type=click.IntRange(0, MAX_LOG_LINES), help="How many of the newest; 100, or all --since."
)
@click.option("--since", default="", metavar="TIME", help="Only later ones: 10m, 2h, 1d, or 2026-11-24T03:00 (UTC).")
@click.option("--node", default="", metavar="NAME", help="Of this node only: name, id or a unique prefix of the id.")
@click.option("--grep", default="", metavar="REGEX", help="Only lines that match.")
@click.option("--system", is_flag=True, help="gridnode's own log in place of the tasks'.")
@json_option
@gridfile_option
@pass_settings
def logs_command(
    settings: Settings, task: str, follow: bool, lines: int | None, since: str, node: str, grep: str, system: bool
) -> int:
    """Show what TASK, or every task, prints: on all nodes, merged by time.

    The lines of a task file are those of all its functions. --json prints one object a line. Where the node of --node
    does not answer, what gridnode logged there is shown instead, by SSH to its server.
    """
    if task and system:
        raise UsageError("--system is gridnode's own log: it has no tasks", hint="leave out one of them")
    wanted = lines if lines is not None else MAX_LOG_LINES if since else _LINES
    asked = MAX_LOG_LINES if grep else max(wanted, 1)
    query = LogQuery(OWN_LOG if system else task, since=_nanoseconds(since, time.time()), lines=asked)
    printer = Printer(_pattern(grep), settings.as_json)
    return asyncio.run(_Show(settings, query, node, wanted, printer).run(follow))


class _Show:
    """One run of the command. wanted: how many lines at first."""

    def __init__(self, settings: Settings, query: LogQuery, node: str, wanted: int, printer: Printer) -> None:
        self._settings = settings
        self._query = query
        self._node = node
        self._wanted = wanted
        self._printer = printer
        self._away: dict[NodeId, tuple[str, str]] = {}

    async def run(self, follow: bool) -> int:
        """The exit code: 3 when a node could not be asked. Following ends by an exception only."""
        from gridctl.client import Grid

        gridfile = self._settings.gridfile()
        if not follow:
            return await self._once(gridfile)
        async with Grid.connect(gridfile) as grid:
            tail = await self._begin(grid)
            await self._follow(grid, tail)
        while True:
            with suppress(LinkError):
                async with Grid.connect(gridfile) as grid:
                    self._say("linked again", "green")
                    await self._follow(grid, tail)
            await asyncio.sleep(POLL)

    async def _once(self, gridfile: "Gridfile") -> int:
        """From the nodes; of one that was named and does not answer, what its server has."""
        from gridctl.client import Grid

        try:
            async with Grid.connect(gridfile) as grid:
                silent = await self._ask(grid, gridfile)
        except (LinkError, HostUnreachable) as exc:
            if not self._node or not self._is_for_servers(gridfile):
                raise
            self._say(f"no lines of {self._node}: {exc.message}", "red")
            await self._from_server(gridfile, stranger(self._node, exc.message))
            return PARTIAL
        if silent and self._is_for_servers(gridfile):
            try:
                await self._from_server(gridfile, silent)
            except HostError as exc:
                self._say(f"{exc.message}; {exc.hint}" if exc.hint else exc.message, "yellow")
        return PARTIAL if silent or self._away else OK

    async def _ask(self, grid: "Grid", gridfile: "Gridfile") -> Silent | None:
        """Print the lines there are; the node that was named, if it does not answer."""
        try:
            tail = await self._begin(grid)
        except NodeNotFound as exc:
            silent = left(await grid.nodes(), self._node)
            if silent is None and any(self._node == one.host for one in gridfile.servers):
                silent = stranger(self._node, exc.message)
            if silent is None or not self._is_for_servers(gridfile):
                raise
            self._say(f"no lines of {self._node}: {silent.why}", "red")
            return silent
        missing = [(node, why) for node, (_, why) in tail.missing.items() if node not in tail.answered]
        if not self._node or not missing:
            return None
        [(node, why)] = missing
        records = (row.record for row in await grid.nodes() if row.record.id == node)
        return Silent(next(records, stranger(self._node, why).record), why)

    def _is_for_servers(self, gridfile: "Gridfile") -> bool:
        return self._query.task in ("", OWN_LOG) and worth_asking(gridfile)

    async def _from_server(self, gridfile: "Gridfile", silent: Silent) -> None:
        server, lines = await read_server_log(gridfile, silent, self._query)
        self._say(f"{silent.record.name} does not answer: what gridnode logged, by SSH to {server}", "yellow")
        rows = [row for row in (Row(silent.record, line) for line in lines) if self._printer.matches(row)]
        self._printer.print(rows[max(0, len(rows) - self._wanted) :])

    async def _begin(self, grid: "Grid") -> Tail:
        """The lines there are; TaskNotFound when there are none and no task is called so."""
        release = await grid.release() if grid.is_operator else None
        tasks = [one.name for one in release.tasks] if release else []
        task = self._query.task
        if task not in tasks and task.rpartition(".")[0] in tasks:  # a function: its file has the log
            task = task.rpartition(".")[0]
        tail = Tail(msgspec.structs.replace(self._query, task=task), self._node)
        rows = [row for row in await tail.poll(grid) if self._printer.matches(row)]
        if not rows and not tail.missing and grid.is_operator and task not in ("", OWN_LOG, *tasks):
            known_tasks([task], release)
        self._printer.print(rows[len(rows) - self._wanted :] if self._wanted < len(rows) else rows)
        self._report(tail)
        if self._wanted >= self._query.lines:
            self._report_cut(tail)
        return tail

    async def _follow(self, grid: "Grid", tail: Tail) -> None:
        """Until the link is lost."""
        while True:
            await asyncio.sleep(POLL)
            if _reader_has_gone():
                raise BrokenPipeError
            try:
                rows = await tail.poll(grid)
            except LinkError as exc:
                self._say(f"lost the node that was asked: {exc.message}; looking for another", "yellow")
                return
            self._printer.print(row for row in rows if self._printer.matches(row))
            self._report(tail)
            self._report_cut(tail)

    def _report(self, tail: Tail) -> None:
        """Say which nodes went, and which are there again."""
        for node, (name, why) in tail.missing.items():
            if node not in self._away:
                self._say(f"no lines of {name}: {why}", "red")
        back = (self._away.keys() & tail.answered) - tail.missing.keys()
        for node in back:
            self._say(f"{self._away.pop(node)[0]} is back", "green")
        self._away |= tail.missing

    def _report_cut(self, tail: Tail) -> None:
        for name in sorted(tail.cut):
            self._say(f"{name} had more lines than fit: older ones are left out", "yellow")

    def _say(self, text: str, colour: Colour) -> None:
        click.echo(paint(f"gridctl: {clean(text)}", colour, sys.stderr), err=True)


def _nanoseconds(since: str, now: float) -> int:
    """Unix nanoseconds of `10m` before now (unix seconds), or of an ISO 8601 time; 0 for nothing."""
    if not since:
        return 0
    span = _SPAN.fullmatch(since)
    if span:
        return max(0, int((now - int(span[1]) * _UNITS[span[2]]) * 1_000_000_000))
    try:
        moment = datetime.fromisoformat(since)
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return max(0, (moment - _EPOCH) // timedelta(microseconds=1) * 1000)
    except (ValueError, OverflowError) as exc:
        raise UsageError(f"--since {since!r:.80} is no time", hint="10m, 2h, 1d, or 2026-11-24T03:00 (UTC)") from exc


def _pattern(grep: str) -> re.Pattern[str] | None:
    try:
        return re.compile(grep) if grep else None
    except (re.error, RecursionError, OverflowError) as exc:
        raise UsageError(f"--grep {grep!r:.80} is no regular expression: {exc}") from exc


def _reader_has_gone() -> bool:
    """Whether stdout is a pipe that nobody reads: a quiet grid would not let us notice."""
    poll = select.poll()
    try:
        poll.register(sys.stdout.fileno(), 0)
        return bool(poll.poll(0))
    except (OSError, ValueError):  # stdout is no file
        return False
