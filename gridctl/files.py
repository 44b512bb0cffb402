"""`gridctl files`: directories that every node keeps, for tasks to read at /files/NAME."""

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from gridctl.author import author
from gridctl.client import Grid
from gridctl.image_arrival import ImageArrival, Node, ask_all, follow_image
from gridctl.image_push import error_text, node_rows, state_text, verdict
from gridctl.options import (
    Settings,
    confirm,
    examples,
    gridfile_option,
    json_option,
    pass_settings,
    timeout_option,
    yes_option,
)
from gridctl.project import Project, scan_files
from gridctl.render import Progress, print_json, size, span, table
from gridctl.upload import Sent, upload
from gridnode.errors import CallTimeout, UsageError
from gridnode.gridfile import Gridfile
from gridnode.model import FileSet, ImageState, ImageStatus, Member, NodeId
from gridnode.task_bounds import is_files

__all__ = ["files_command"]

_HEAD = ("FILES", "ROOT", "SIZE", "COUNT", "PUSHED", "BY", "NODE", "STATE")


@dataclass(slots=True)
class _Pushed:
    """changed: whether the grid had other files by this name, or none. deduplicated: bytes that it had already."""

    files: FileSet
    changed: bool
    sent: Sent
    deduplicated: int
    arrival: ImageArrival


class _Asked:
    """A Grid asked for files where an image's arrival is followed."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid

    async def nodes(self) -> list[Member]:
        return await self._grid.nodes()

    async def image_status(self, node: NodeId) -> list[ImageStatus]:
        return await self._grid.files_status(node)


@click.group("files", epilog=examples("gridctl files push models/ models", "gridctl files ls"))
def files_command() -> None:
    """Keep read-only directories on every node: models, tables, whatever tasks read and releases should not carry.

    A task reads one at /files/NAME with `files = ["NAME"]` in grid.toml.
    """


@files_command.command(
    "push", epilog=examples("gridctl files push models/ models", "gridctl files push geo/ geo --json")
)
@click.argument("directory", type=click.Path(path_type=Path))
@click.argument("name")
@timeout_option(1800.0)
@json_option
@gridfile_option
@pass_settings
def push_command(settings: Settings, directory: Path, name: str, timeout: float) -> int:
    """Send DIRECTORY to every node as NAME, only what changed, and wait until each one has it.

    Instances of tasks that read an earlier version are replaced, one after the other. .gridignore counts.
    """
    progress, gridfile = Progress(), settings.gridfile()
    _check(name)
    found = scan_files(directory, lambda done, total: progress.bar("reading", done, total))
    progress.line(f"read {found.files} files, {size(found.size)}")
    done = asyncio.run(_push(gridfile, name, found, timeout, progress))
    _report(name, done, progress)
    if settings.as_json:
        print_json(_push_fields(name, done))
    return verdict(done.arrival)


@files_command.command("ls", epilog=examples("gridctl files ls", "gridctl files ls --json | jq '.files[].name'"))
@json_option
@gridfile_option
@pass_settings
def ls_command(settings: Settings) -> None:
    """List the directories that the grid keeps, and how far each node is with them."""
    kept, nodes = asyncio.run(_listing(settings.gridfile()))
    if settings.as_json:
        print_json({"files": [_fields(name, files, nodes) for name, files in sorted(kept.items())]})
        return
    now = time.time()
    for line in table(_HEAD, [row for name, files in sorted(kept.items()) for row in _rows(name, files, nodes, now)]):
        click.echo(line)


@files_command.command("rm", epilog=examples("gridctl files rm models", "gridctl files rm models --yes"))
@click.argument("name")
@yes_option
@json_option
@gridfile_option
@pass_settings
def rm_command(settings: Settings, name: str) -> None:
    """Take the directory NAME from the grid: nodes remove it once no instance reads it."""
    gridfile = settings.gridfile()
    users = asyncio.run(_users(gridfile, name))
    if users:
        confirm(f"{', '.join(users)} read {name}, and could not start again without it.", settings)
    asyncio.run(_remove(gridfile, name))
    if settings.as_json:
        print_json({"name": name})
    else:
        click.echo(f"removed {name}", err=True)


def _check(name: str) -> None:
    if not is_files(name):
        hint = "at most 64 of a-z, 0-9 and . _ -, a letter or digit first"
        raise UsageError(f"{name!r:.80} cannot name files", hint=hint)


# -- push -----------------------------------------------------------------------------------------------------------


async def _push(gridfile: Gridfile, name: str, found: Project, timeout: float, progress: Progress) -> _Pushed:
    """Send what the grid lacks, name it in the ledger, and watch it arrive; `timeout` seconds in all."""
    started = time.monotonic()
    files = FileSet(found.manifest.root, found.size, found.files, int(time.time()), author())
    async with Grid.connect(gridfile) as grid:
        held, sequence = (await grid.files()).get(name, (None, 0))
        changed = held is None or held.root != files.root
        try:
            async with asyncio.timeout(timeout):
                sent = await upload(
                    grid, found.chunks, found.read_chunk, lambda one: progress.bar("sending", one.content, one.total)
                )
                if changed:
                    await grid.put_files(name, files, sequence + 1)
        except TimeoutError as exc:
            raise CallTimeout(f"the files were not sent within {timeout:g} s") from exc
        deduplicated = sum(found.chunks.values()) - sent.content
        progress.line(f"sent {size(sent.payload)}, {size(deduplicated)} deduplicated")
        done = _Pushed(files, changed, sent, deduplicated, ImageArrival(name, files.root))
        await follow_image(_Asked(grid), done.arrival, timeout - (time.monotonic() - started), progress)
    return done


def _report(name: str, done: _Pushed, progress: Progress) -> None:
    for away, why in done.arrival.away.items():
        progress.line(f"warning: {away} is out of reach ({why}); it will catch up when it is back", "yellow")
    there = []
    for node, status in done.arrival.nodes.values():
        if status and status.state is ImageState.PRESENT:
            there.append(node)
        else:
            progress.line(f"{node} does not have them: {state_text(status)}", "red")
    summary = f"{name} {done.files.root[:8]} is on {', '.join(there) or 'no node'}"
    progress.line(summary, "red" if verdict(done.arrival) else "green")


def _push_fields(name: str, done: _Pushed) -> dict[str, Any]:
    """Sizes in bytes."""
    files = done.files
    nodes = [
        {"id": node, "name": named, "state": status.state.value if status else None, "error": error_text(status)}
        for node, (named, status) in done.arrival.nodes.items()
    ]
    about = {"name": name, "root": files.root, "size": files.size, "count": files.count, "changed": done.changed}
    return {**about, "sent": done.sent.payload, "deduplicated": done.deduplicated, "nodes": nodes}


# -- ls and rm ------------------------------------------------------------------------------------------------------


async def _listing(gridfile: Gridfile) -> tuple[dict[str, FileSet], list[Node]]:
    async with Grid.connect(gridfile) as grid:
        kept = {name: files for name, (files, _) in (await grid.files()).items() if files}
        return kept, await ask_all(_Asked(grid))


def _rows(name: str, files: FileSet, nodes: list[Node], now: float) -> Iterator[tuple[str, ...]]:
    """One line for every node."""
    pushed = f"{span(now - files.created)} ago"
    about = (name, files.root[:8], size(files.size), str(files.count), pushed, files.by)
    return node_rows(name, about, nodes)


def _fields(name: str, files: FileSet, nodes: list[Node]) -> dict[str, Any]:
    """size, have, total: bytes; created: unix seconds."""
    rows = []
    for node in nodes:
        status = node.status(name)
        state = {"state": status.state.value, "have": status.have, "total": status.total} if status else {"state": None}
        rows.append({"id": node.id, "name": node.name, **state, "error": node.error or error_text(status)})
    about = {"root": files.root, "size": files.size, "count": files.count, "created": files.created, "by": files.by}
    return {"name": name, **about, "nodes": rows}


async def _users(gridfile: Gridfile, name: str) -> list[str]:
    """The task files of the current release that read it; UsageError when the grid has none of that name."""
    async with Grid.connect(gridfile) as grid:
        files, _ = (await grid.files()).get(name, (None, 0))
        release = await grid.release()
    if files is None:
        raise UsageError(f"the grid has no files {name}", hint="`gridctl files ls` shows those it has")
    return sorted(task.name for task in (release.tasks if release else ()) if name in task.files)


async def _remove(gridfile: Gridfile, name: str) -> None:
    async with Grid.connect(gridfile) as grid:
        _, sequence = (await grid.files()).get(name, (None, 0))
        await grid.put_files(name, None, sequence + 1)
