"""`gridctl audit`: who changed the grid, when, and from where."""

import asyncio
import time
from typing import Any

import click

from gridctl.options import Settings, examples, gridfile_option, json_option, pass_settings
from gridctl.render import print_json, span, table
from gridnode.audit import AuditEntry

__all__ = ["audit_command"]

_HEAD = ("WHEN", "AGO", "WHO", "FROM", "CHANGED")


@click.command("audit", epilog=examples("gridctl audit", "gridctl audit --lines 500 --json"))
@click.option("-n", "--lines", type=click.IntRange(min=1), default=50, show_default=True, help="The newest so many.")
@json_option
@gridfile_option
@pass_settings
def audit_command(settings: Settings, lines: int) -> None:
    """List what operators changed, newest first: releases, orders, secrets, images, files, nodes, revocations.

    WHO is what the operator's machine says of itself, FROM the address at which the node saw it. The grid remembers
    the last 500.
    """
    entries = asyncio.run(_entries(settings))[:lines]
    if settings.as_json:
        print_json({"entries": [_fields(number, entry) for number, entry in entries]})
        return
    now = time.time()
    for line in table(_HEAD, [_row(entry, now) for _, entry in entries]):
        click.echo(line)


async def _entries(settings: Settings) -> list[tuple[int, AuditEntry]]:
    from gridctl.client import Grid

    async with Grid.connect(settings.gridfile()) as grid:
        return await grid.audit()


def _row(entry: AuditEntry, now: float) -> tuple[str, ...]:
    """now: unix seconds."""
    when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(entry.at))
    what = f"{entry.kind} {entry.number}" if entry.kind == "release" else f"{entry.kind} {entry.name}"
    return when, span(now - entry.at), entry.by, entry.source or "-", what


def _fields(number: int, entry: AuditEntry) -> dict[str, Any]:
    """number: of the entry; at: unix seconds; sequence: of the document."""
    return {
        "number": number,
        "at": entry.at,
        "by": entry.by,
        "from": entry.source or None,
        "kind": entry.kind,
        "name": entry.name,
        "sequence": entry.number,
    }
