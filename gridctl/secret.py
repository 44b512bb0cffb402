"""`gridctl secret`: what tasks must know and nobody else may, sealed to the grid's nodes."""

import asyncio
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import click

from gridctl.client import Grid
from gridctl.options import Settings, confirm, examples, gridfile_option, json_option, pass_settings, yes_option
from gridctl.render import is_terminal, print_json, span, table
from gridnode.errors import ProjectInvalid, UsageError
from gridnode.ledger import MAX_SECRET, SECRET, open_sealed
from gridnode.model import TaskSpec
from gridnode.task_bounds import is_secret

__all__ = ["require_secrets", "secret_command"]

MAX_TOTAL = 3 * 1024 * 1024
"""Bytes of all secrets together: what one answer of a node holds, with room."""


class Row(NamedTuple):
    """One secret, but not its value. created: unix seconds; tasks: task files of the current release that use it."""

    name: str
    created: int
    tasks: list[str]


@click.group("secret", epilog=examples("gridctl secret set DB_PASSWORD < password.txt", "gridctl secret ls"))
def secret_command() -> None:
    """Keep passwords and keys for tasks: files in /run/secrets of those tasks that name them, nowhere else."""


@secret_command.command(
    "set", epilog=examples("pass show db | gridctl secret set DB_PASSWORD", "gridctl secret set TLS_KEY --file key.pem")
)
@click.argument("name")
@click.option("--file", "path", type=click.Path(path_type=Path), metavar="PATH", help="Read it from a file.")
@json_option
@gridfile_option
@pass_settings
def set_command(settings: Settings, name: str, path: Path | None) -> None:
    """Set or replace the secret NAME; the value comes from stdin, byte for byte, or is asked for on a terminal.

    Tasks that use it see the new value within moments, without a restart.
    """
    _check_name(name)
    value = _value(name, path)
    asyncio.run(_set(settings, name, value))
    _said(settings, name, f"set {name}, {len(value)} bytes")


@secret_command.command("ls", epilog=examples("gridctl secret ls", "gridctl secret ls --json"))
@json_option
@gridfile_option
@pass_settings
def ls_command(settings: Settings) -> None:
    """List the secrets: names, when they were set, and which tasks use them; never a value."""
    rows = asyncio.run(_rows(settings))
    if settings.as_json:
        print_json({"secrets": [row._asdict() for row in rows]})
        return
    now = time.time()
    lines = [(row.name, f"{span(now - row.created)} ago", ", ".join(row.tasks) or "-") for row in rows]
    for line in table(("NAME", "SET", "TASKS"), lines):
        click.echo(line)


@secret_command.command("rm", epilog=examples("gridctl secret rm DB_PASSWORD", "gridctl secret rm TLS_KEY --yes"))
@click.argument("name")
@yes_option
@json_option
@gridfile_option
@pass_settings
def rm_command(settings: Settings, name: str) -> None:
    """Remove the secret NAME from the grid, and from the tasks that use it."""
    row = next((row for row in asyncio.run(_rows(settings)) if row.name == name), None)
    if row is None:
        raise UsageError(f"the grid has no secret {name!r:.80}", hint="`gridctl secret ls` shows those it has")
    if row.tasks:
        confirm(f"{', '.join(row.tasks)} use {name}.", settings)
    asyncio.run(_remove(settings, name))
    _said(settings, name, f"removed {name}")


def _said(settings: Settings, name: str, text: str) -> None:
    if settings.as_json:
        print_json({"name": name})
    else:
        click.echo(text, err=True)


def _check_name(name: str) -> None:
    if not is_secret(name):
        raise UsageError(
            f"{name!r:.80} cannot be a secret's name",
            hint="64 letters, digits, `_`, `.` and `-` at most, as DB_PASSWORD",
        )


def _value(name: str, path: Path | None) -> bytes:
    """From the file, the terminal without echo, or stdin; UsageError when it is none or too long."""
    if path:
        try:
            with path.open("rb") as file:
                value = file.read(MAX_SECRET + 1)
        except OSError as exc:
            raise UsageError(f"cannot read {path}: {exc.strerror or exc}") from exc
    elif is_terminal(sys.stdin):
        value = str(click.prompt(name, hide_input=True, confirmation_prompt=True, err=True)).encode()
    else:
        value = sys.stdin.buffer.read(MAX_SECRET + 1)
    if not value:
        raise UsageError(f"there is no value for {name}", hint=f"gridctl secret set {name} < FILE")
    if len(value) > MAX_SECRET:
        raise UsageError(f"the value of {name} is longer than {MAX_SECRET} bytes")
    return value


async def _set(settings: Settings, name: str, value: bytes) -> None:
    async with Grid.connect(settings.gridfile()) as grid:
        documents = {document.name: document for document in await grid.documents(SECRET)}
        held = documents.pop(name, None)
        if sum(len(document.body) for document in documents.values()) + len(value) > MAX_TOTAL:
            raise UsageError(f"the grid's secrets would be more than {MAX_TOTAL} bytes together")
        sequence = held.sequence + 1 if held else 1
        await grid.put_secret(name, value, sequence)


async def _remove(settings: Settings, name: str) -> None:
    async with Grid.connect(settings.gridfile()) as grid:
        held = next((document for document in await grid.documents(SECRET) if document.name == name), None)
        await grid.put_secret(name, None, held.sequence + 1 if held else 1)


async def _rows(settings: Settings) -> list[Row]:
    async with Grid.connect(settings.gridfile()) as grid:
        times = await _times(grid)
        release = await grid.release()
    tasks = release.tasks if release else ()
    return [Row(name, times[name], users(name, tasks)) for name in sorted(times)]


def users(name: str, tasks: Iterable[TaskSpec]) -> list[str]:
    """The task files that name this secret."""
    return sorted({task.name for task in tasks if name in task.secrets})


async def _times(grid: Grid) -> dict[str, int]:
    """When each secret that there is was set, unix seconds."""
    found: dict[str, int] = {}
    for document in await grid.documents(SECRET):
        sealed = open_sealed(document)
        if sealed:
            found[document.name] = sealed.created
    return found


async def require_secrets(grid: Grid, tasks: Iterable[TaskSpec]) -> None:
    """ProjectInvalid, naming each, when tasks name secrets that the grid does not have."""
    tasks = list(tasks)
    if any(task.secrets for task in tasks):
        lack(tasks, await _times(grid))


def lack(tasks: Iterable[TaskSpec], held: Mapping[str, Any]) -> None:
    """ProjectInvalid when the tasks name secrets that are not held."""
    tasks = list(tasks)
    lacking = sorted({name for task in tasks for name in task.secrets if name not in held})
    if lacking:
        wanted = "; ".join(f"{name} (for {', '.join(users(name, tasks))})" for name in lacking)
        hint = "; ".join(f"gridctl secret set {name} < FILE" for name in lacking[:3])
        raise ProjectInvalid(f"the grid lacks secrets that tasks name: {wanted}", hint=hint)
