"""`gridctl audit`: who changed the grid, when, and from where."""

import asyncio
import time
from collections.abc import Mapping
from typing import Any

import click

from gridctl.options import Settings, examples, gridfile_option, json_option, pass_settings
from gridctl.render import print_json, span, table
from gridnode.audit import AuditEntry
from gridnode.gridfile import Gridfile
from gridnode.ledger import RELEASE
from gridnode.renewal import RENEWAL
from gridnode.revocation import REVOCATION

__all__ = ["audit_command"]

Hosts = Mapping[str, str]
"""For whom a card was minted, by host_prefix."""

_HEAD = ("WHEN", "AGO", "WHO", "FROM", "CHANGED")


@click.command("audit", epilog=examples("gridctl audit", "gridctl audit --lines 500 --json"))
@click.option("-n", "--lines", type=click.IntRange(min=1), default=50, show_default=True, help="The newest so many.")
@json_option
@gridfile_option
@pass_settings
def audit_command(settings: Settings, lines: int) -> None:
    """List what operators changed, newest first: what was deployed, ordered, kept secret, shut out, renewed.

    WHO is what the operator's machine says of itself, FROM the address at which the node saw it. The grid remembers
    the last 500.
    """
    entries, hosts = asyncio.run(_entries(settings.gridfile()))
    entries = entries[:lines]
    if settings.as_json:
        print_json({"entries": [_fields(number, entry, hosts) for number, entry in entries]})
        return
    now = time.time()
    for line in table(_HEAD, [_row(entry, now, hosts) for _, entry in entries]):
        click.echo(line)


async def _entries(gridfile: Gridfile) -> tuple[list[tuple[int, AuditEntry]], Hosts]:
    from gridctl.client import Grid
    from gridnode.identity import authority_of, host_prefix

    async with Grid.connect(gridfile) as grid:
        entries = await grid.audit()
        revoked = {prefix: revocation.what for prefix, (revocation, _) in (await grid.revocations()).items()}
    authority = authority_of(gridfile)
    return entries, {host_prefix(authority, one.host): one.host for one in gridfile.servers} | revoked


def subject(entry: AuditEntry, hosts: Hosts) -> str:
    """What was changed, by the name that people have for it where it is known."""
    if entry.kind in (REVOCATION, RENEWAL):
        return hosts.get(entry.name.partition("-")[0], entry.name)
    return str(entry.number) if entry.kind == RELEASE else entry.name


def _row(entry: AuditEntry, now: float, hosts: Hosts) -> tuple[str, ...]:
    """now: unix seconds."""
    when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(entry.at))
    return when, span(now - entry.at), entry.by, entry.source or "-", f"{entry.kind} {subject(entry, hosts)}"


def _fields(number: int, entry: AuditEntry, hosts: Hosts) -> dict[str, Any]:
    """number: of the entry; at: unix seconds; sequence: of the document; subject: as people call it."""
    return {
        "number": number,
        "at": entry.at,
        "by": entry.by,
        "from": entry.source or None,
        "kind": entry.kind,
        "name": entry.name,
        "subject": subject(entry, hosts),
        "sequence": entry.number,
    }
