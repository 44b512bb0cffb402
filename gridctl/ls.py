"""`gridctl ls`: the nodes of the grid, as one of them sees them."""

import asyncio
import sys
import time
from collections.abc import Iterable
from typing import Any

import click
import msgspec

from gridctl.options import Settings, examples, gridfile_option, json_option, pass_settings
from gridctl.render import Progress, drawn, is_terminal, print_json, span, table, way
from gridnode.model import Member, MemberState, ReleaseState, ReleaseStatus

__all__ = ["ls_command"]

WARN_WITHIN = 30 * 86_400
"""Seconds."""
_HEAD = ("NAME", "ID", "ADDRESS", "STATE", "RELEASE", "LOAD", "VERSION", "UPTIME", "CHANGED")
_BAR = 10


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
    for text in expiring(members, now):
        Progress().line(text, "yellow")
    for line in table(_HEAD, [row(member, now, is_terminal(sys.stdout)) for member in members]):
        click.echo(line)


def expiring(members: Iterable[Member], now: float) -> list[str]:
    """What to say of nodes whose card ends within WARN_WITHIN; now: unix seconds."""
    found = []
    for member in members:
        left = member.record.until - now
        if member.record.until and left < WARN_WITHIN and member.state is MemberState.ALIVE:
            then = f"ends in {span(left)}; `gridctl renew` makes it last longer"
            if left <= 0:
                then = "has ended; `gridctl provision` brings another"
            found.append(f"warning: the card of {member.record.name} {then}")
    return found


async def _members(settings: Settings) -> list[Member]:
    from gridctl.client import Grid

    async with Grid.connect(settings.gridfile()) as grid:
        return await grid.nodes()


def row(member: Member, now: float, has_bar: bool = False) -> tuple[str, ...]:
    """One line of the table; now: unix seconds. has_bar: for a person who watches."""
    record = member.record
    up = member.state in (MemberState.ALIVE, MemberState.SUSPECT)
    return (
        record.name,
        record.id[:8],
        str(record.addresses[0]) if record.addresses else "-",
        state_text(member),
        release_text(record.release, has_bar),
        f"{record.load.in_flight}/{record.load.capacity}",
        record.version,
        span(now - record.started) if up else "-",
        f"{span(now - member.since)} ago",
    )


def state_text(member: Member) -> str:
    """The member's state; `draining` for one that is alive and takes no new calls."""
    alive = member.state is MemberState.ALIVE
    return "draining" if alive and member.record.draining else member.state.value


def release_text(status: ReleaseStatus | None, has_bar: bool = False) -> str:
    """`active 3f9c2a11`, `fetching 40%, 1.2 MB/s, 12s left`, `failed 3f9c2a11`, or `-` without one."""
    if status is None:
        return "-"
    if status.state is ReleaseState.FETCHING:
        bar = f"{drawn(status.have, status.total, _BAR)} " if has_bar and status.total else ""
        return f"fetching {bar}{way(status.have, status.total, status.rate)}".rstrip()
    return f"{status.state.value} {status.root[:8]}"


def as_fields(member: Member) -> dict[str, Any]:
    """A node as `--json` prints it; started and since: unix seconds."""
    record = member.record
    release = record.release
    return {
        "name": record.name,
        "id": record.id,
        "state": member.state.value,
        "draining": record.draining,
        "since": round(member.since, 3),
        "addresses": [str(address) for address in record.addresses],
        "version": record.version,
        "started": record.started,
        "card_until": record.until or None,
        "load": {"in_flight": record.load.in_flight, "capacity": record.load.capacity},
        "release": release
        and {
            "sequence": release.sequence,
            "root": release.root,
            "state": release.state.value,
            "have": release.have,
            "total": release.total,
            "rate": release.rate,
            "error": release.error or None,
        },
        "tasks": list(record.tasks),
        "runtime": msgspec.structs.asdict(record.runtime) if record.runtime else None,
    }
