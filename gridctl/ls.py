"""`gridctl ls`: the nodes of the grid, as one of them sees them."""

import asyncio
import time
from typing import Any

import click

from gridctl.options import Settings, examples, gridfile_option, json_option, pass_settings
from gridctl.render import percent, print_json, span, table
from gridnode.model import Member, MemberState, ReleaseState, ReleaseStatus

__all__ = ["ls_command"]

_HEAD = ("NAME", "ID", "ADDRESS", "STATE", "RELEASE", "LOAD", "VERSION", "UPTIME", "CHANGED")


@click.command("ls", epilog=examples("gridctl ls", "gridctl ls --json | jq -r '.nodes[].name'"))
@json_option
@gridfile_option
@pass_settings
def ls_command(settings: Settings) -> None:
    """List the nodes of the grid, and how far each is with the current release."""
    members = sorted(asyncio.run(_members(settings)), key=lambda member: (member.record.name, member.record.id))
    if settings.as_json:
        print_json({"nodes": [as_fields(member) for member in members]})
        return
    now = time.time()
    for line in table(_HEAD, [row(member, now) for member in members]):
        click.echo(line)


async def _members(settings: Settings) -> list[Member]:
    from gridctl.client import Grid

    async with Grid.connect(settings.gridfile()) as grid:
        return await grid.nodes()


def row(member: Member, now: float) -> tuple[str, ...]:
    """One line of the table; now: unix seconds."""
    record = member.record
    up = member.state in (MemberState.ALIVE, MemberState.SUSPECT)
    return (
        record.name,
        record.id[:8],
        str(record.addresses[0]) if record.addresses else "-",
        member.state.value,
        release_text(record.release),
        f"{record.load.in_flight}/{record.load.capacity}",
        record.version,
        span(now - record.started) if up else "-",
        f"{span(now - member.since)} ago",
    )


def release_text(status: ReleaseStatus | None) -> str:
    """`active 3f9c2a11`, `fetching 40%`, `failed 3f9c2a11`, or `-` without one."""
    if status is None:
        return "-"
    if status.state is ReleaseState.FETCHING:
        return f"fetching {percent(status.have, status.total)}".rstrip()
    return f"{status.state.value} {status.root[:8]}"


def as_fields(member: Member) -> dict[str, Any]:
    """A node as `--json` prints it; started and since: unix seconds."""
    record = member.record
    release = record.release
    return {
        "name": record.name,
        "id": record.id,
        "state": member.state.value,
        "since": round(member.since, 3),
        "addresses": [str(address) for address in record.addresses],
        "version": record.version,
        "started": record.started,
        "load": {"in_flight": record.load.in_flight, "capacity": record.load.capacity},
        "release": release
        and {
            "sequence": release.sequence,
            "root": release.root,
            "state": release.state.value,
            "have": release.have,
            "total": release.total,
            "error": release.error or None,
        },
        "tasks": list(record.tasks),
    }
