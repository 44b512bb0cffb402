"""`gridctl dev`: every saved change of a project is on the grid a moment later."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any, Final

import click

from gridctl.client import Grid
from gridctl.deployment import as_fields, report, verdict
from gridctl.dev_grid import DEFAULT_IMAGE, PLACE, dev_grid
from gridctl.failure import OK, explain
from gridctl.log_lines import Printer
from gridctl.new import GRIDFILE, VARIABLE
from gridctl.options import Settings, confirm, examples, gridfile_option, json_option, pass_settings, yes_option
from gridctl.project import Project
from gridctl.reload import Reload, Reloaded
from gridctl.render import Colour, Progress, print_json
from gridctl.tail import Tail
from gridctl.vendor import vendor_of
from gridctl.watch import changes
from gridnode.errors import GridError, LedgerError, LinkError
from gridnode.gridfile import Gridfile
from gridnode.messages import LogQuery

__all__ = ["dev_command"]

LOG_POLL: Final = 0.3
_AGAIN: Final = 0.5
_NAMES: Final = 8


@click.command("dev", epilog=examples("gridctl dev", "gridctl dev ./hello --keep --verbose"))
@click.argument("directory", default=".", type=click.Path(path_type=Path))
@click.option("--keep", is_flag=True, help="Leave the grid that this command started running.")
@click.option("--image", default=DEFAULT_IMAGE, show_default=True, metavar="NAME", help="Of the node it starts.")
@yes_option
@json_option
@gridfile_option
@pass_settings
def dev_command(settings: Settings, directory: Path, keep: bool, image: str) -> None:
    """Put the project in DIRECTORY on the grid, and again whenever a file of it changes; show what its tasks print.

    Without a Gridfile it starts a grid of one node on this machine, by docker, and removes it at the end. Only the
    tasks that a change concerns get new instances. Ctrl-C ends it.
    """
    signal.signal(signal.SIGTERM, lambda number, frame: os.kill(os.getpid(), signal.SIGINT))
    gridfile = _gridfile(settings, directory)
    if gridfile:
        current = asyncio.run(_current(gridfile))
        if current not in (None, directory.resolve().name):
            confirm(f"The grid runs the project {current!r}; {directory.resolve().name!r} will replace it.", settings)
    asyncio.run(_run(settings, directory.resolve(), gridfile, partial(dev_grid, directory.resolve(), image, keep)))


def _gridfile(settings: Settings, directory: Path) -> Gridfile | None:
    """The Gridfile that other commands would use; None where they would find none."""
    here = Path.cwd()
    named = settings.gridfile_flag or os.environ.get(VARIABLE)
    found = any((one / GRIDFILE).is_file() for one in (here, *here.parents))
    return settings.gridfile() if named or found else None


async def _current(gridfile: Gridfile) -> str | None:
    """The project that the grid runs."""
    async with Grid.connect(gridfile) as grid:
        release = await grid.release()
    return release.project if release else None


async def _run(settings: Settings, directory: Path, gridfile: Gridfile | None, local: Callable[[], Any]) -> None:
    """Until interrupted."""
    show = _Show(settings)
    async with AsyncExitStack() as stack:
        if gridfile is None:
            show.say("no Gridfile here: starting a grid of one node on this machine")
            started = await stack.enter_async_context(local())
            gridfile = started.gridfile
            show.say(f"to call its tasks elsewhere: export {VARIABLE}={directory / PLACE / GRIDFILE}")
        await _Dev(directory, gridfile, show).run()


class _Dev:
    """One run of the command."""

    def __init__(self, directory: Path, gridfile: Gridfile, show: "_Show") -> None:
        self._directory = directory
        self._gridfile = gridfile
        self._show = show
        self._reload = Reload(directory, vendor_of(gridfile, directory, show.say).grafts)
        self._changed: set[str] | None = None
        self._due = asyncio.Event()
        self._due.set()

    async def run(self) -> None:
        """Until cancelled, over as many links as it takes; an error that no waiting mends ends it."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._watch(), name="watch")
                group.create_task(self._serve(), name="serve")
        except ExceptionGroup as exc:
            raise exc.exceptions[0] from exc

    async def _watch(self) -> None:
        async for paths in changes(self._directory):
            if self._changed is not None:
                self._changed |= paths
            self._due.set()

    async def _serve(self) -> None:
        linked = False
        while True:
            try:
                async with Grid.connect(self._gridfile) as grid:
                    if linked:
                        self._show.say("linked again", "green")
                    linked = True
                    await self._reload_and_print(grid)
            except LinkError as exc:
                if not linked:
                    raise
                self._show.say(f"lost the node: {exc.message}; looking for one", "yellow")
            self._reload.relinked()
            self._changed = None
            self._due.set()
            await asyncio.sleep(_AGAIN)

    async def _reload_and_print(self, grid: Grid) -> None:
        """Until the link is lost, which ends both."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._reloads(grid), name="reload")
                group.create_task(self._logs(grid), name="logs")
        except ExceptionGroup as exc:
            raise exc.exceptions[0] from exc

    async def _reloads(self, grid: Grid) -> None:
        while True:
            await self._due.wait()
            self._due.clear()
            changed, self._changed = self._changed, set()
            try:
                project = await self._reload.scan(changed)
                done = await self._reload.bring(grid, project)
            except LinkError:
                raise
            except GridError as exc:
                self._show.failed(exc)
                if isinstance(exc, LedgerError):  # somebody else deployed: what is there now is not what we know
                    self._reload.relinked()
            else:
                self._show.reloaded(done, project, changed)

    async def _logs(self, grid: Grid) -> None:
        """What the tasks print from now on."""
        tail = Tail(LogQuery(since=time.time_ns()))
        while True:
            await asyncio.sleep(LOG_POLL)
            self._show.printer.print(await tail.poll(grid))


class _Show:
    """What people and programs see: the tasks' lines on stdout, one line for each reload on stderr."""

    def __init__(self, settings: Settings) -> None:
        self.printer = Printer(None, settings.as_json)
        self._settings = settings
        self._progress = Progress()

    def say(self, text: str, colour: Colour | None = None) -> None:
        self._progress.line(f"{time.strftime('%H:%M:%S')} {text}", colour)

    def failed(self, error: GridError) -> None:
        explain(error, verbose=self._settings.verbose, as_json=self._settings.as_json)

    def reloaded(self, done: Reloaded | None, project: Project, changed: set[str] | None) -> None:
        """changed: the paths, None at the start."""
        if done is None:
            if changed is None:
                self.say(f"the grid serves {project.name} as it is here; waiting for changes", "green")
            return
        if self._settings.as_json:
            print_json({**as_fields(done.deployment), "tasks": done.tasks, "gone": done.gone, **_times(done)})
        if verdict(done.deployment) != OK:
            report(done.deployment, self._progress)
            return
        spans = ", ".join(f"{step} {seconds:.2f}" for step, seconds in done.spans.items())
        nodes = ", ".join(arrival.name for arrival in done.deployment.arrivals if arrival.state == "active")
        detail = f" ({spans})" if self._settings.verbose else ""
        self.say(f"{_what(done)} in {done.seconds:.2f} s{detail}: on {nodes}", "green")
        sys.stderr.flush()


def _what(done: Reloaded) -> str:
    names = ", ".join(done.tasks[:_NAMES]) + (
        f" and {len(done.tasks) - _NAMES} more" if len(done.tasks) > _NAMES else ""
    )
    gone = f"removed {', '.join(done.gone[:_NAMES])}" if done.gone else ""
    loaded = f"reloaded {names}" if names else "" if gone else "deployed"
    return ", ".join(part for part in (loaded, gone) if part)


def _times(done: Reloaded) -> dict[str, Any]:
    """Seconds."""
    return {"seconds": round(done.seconds, 3), "spans": {step: round(span, 3) for step, span in done.spans.items()}}
