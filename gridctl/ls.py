"""`gridctl ls`: the nodes of the grid, as one of them sees them."""

import asyncio
import sys
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import click
import msgspec

from gridctl.node_watch import NodeWatch
from gridctl.options import Settings, examples, gridfile_option, json_option, pass_settings
from gridctl.render import Progress, drawn, is_terminal, print_json, span, table, way
from gridnode.errors import LinkError
from gridnode.model import Member, MemberState, ReleaseState, ReleaseStatus

if TYPE_CHECKING:
    from gridctl.client import Grid

__all__ = ["ls_command"]

WARN_WITHIN = 30 * 86_400
"""Seconds."""
_HEAD = ("NAME", "ID", "ADDRESS", "STATE", "RELEASE", "LOAD", "VERSION", "UPTIME", "SEEN")
_BAR = 10


@click.command("ls", epilog=examples("gridctl ls --watch", "gridctl ls --json | jq -r '.nodes[].name'"))
@click.option("-w", "--watch", is_flag=True, help="Go on until Ctrl-C: the table, or an object a line, as it changes.")
@click.option(
    "--interval",
    type=click.FloatRange(0.1, 3600),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="Between two looks.",
)
@json_option
@gridfile_option
@pass_settings
def ls_command(settings: Settings, watch: bool, interval: float) -> None:
    """List the nodes of the grid, and how far each is with the current release.

    LOAD is calls inside and how many run at once; SEEN is when a node that is not alive was last heard of.
    """
    asyncio.run(_run(settings, interval if watch else 0))


async def _run(settings: Settings, interval: float) -> None:
    """interval: seconds between two looks; 0 for one."""
    from gridctl.client import Grid

    async with Grid.connect(settings.gridfile()) as grid:
        if not interval:
            _show(settings, sorted_by_name(await grid.nodes()))
            return
        await _watch(settings, grid, interval)


async def _watch(settings: Settings, grid: "Grid", interval: float) -> None:
    """Until cancelled; a link that breaks is said, and dialled again."""
    watch = NodeWatch(sys.stdout, lines, settings.as_json)
    while True:
        try:
            members = sorted_by_name(await grid.nodes())
        except LinkError as exc:
            watch.lost(exc.message)
        else:
            watch.show(members, {"nodes": [as_fields(member) for member in members]}, time.time())
        await asyncio.sleep(interval)


def _show(settings: Settings, members: Sequence[Member]) -> None:
    if settings.as_json:
        print_json({"nodes": [as_fields(member) for member in members]})
        return
    now = time.time()
    for text in expiring(members, now):
        Progress().line(text, "yellow")
    for line in lines(members, now, is_terminal(sys.stdout)):
        click.echo(line)


def sorted_by_name(members: Iterable[Member]) -> list[Member]:
    return sorted(members, key=lambda member: (member.record.name, member.record.id))


def lines(members: Iterable[Member], now: float, has_bar: bool = False) -> list[str]:
    """The table; now: unix seconds."""
    return table(_HEAD, [row(member, now, has_bar) for member in members])


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


def row(member: Member, now: float, has_bar: bool = False) -> tuple[str, ...]:
    """One line of the table; now: unix seconds. has_bar: for a person who watches."""
    record = member.record
    is_there = member.state in (MemberState.ALIVE, MemberState.SUSPECT)
    return (
        record.name,
        record.id[:8],
        address_text(member),
        state_text(member),
        release_text(record.release, has_bar),
        f"{record.load.in_flight}/{record.load.capacity}" if is_there else "-",
        record.version,
        span(now - record.started) if is_there else "-",
        "now" if member.state is MemberState.ALIVE else f"{span(now - member.since)} ago",
    )


def address_text(member: Member) -> str:
    """The first, and how many more there are: `10.0.0.1:7400 +2`."""
    first, more = member.record.addresses[:1], len(member.record.addresses) - 1
    return f"{first[0]}{f' +{more}' if more else ''}" if first else "-"


def state_text(member: Member) -> str:
    """The member's state; `drained` for one that is to take no calls, `draining` while some are inside, or it goes."""
    record = member.record
    if member.state is not MemberState.ALIVE or not record.draining:
        return member.state.value
    return "drained" if record.drained and not record.load.in_flight else "draining"


def release_text(status: ReleaseStatus | None, has_bar: bool = False) -> str:
    """`active 3f9c2a11`, `fetching 40%, 1.2 MB/s, 12s left`, `failed 3f9c2a11`, or `-` without one."""
    if status is None:
        return "-"
    if status.state is ReleaseState.FETCHING:
        bar = f"{drawn(status.have, status.total, _BAR)} " if has_bar and status.total else ""
        return f"fetching {bar}{way(status.have, status.total, status.rate)}".rstrip()
    return f"{status.state.value} {status.root[:8]}"


def as_fields(member: Member) -> dict[str, Any]:
    """A node as `--json` prints it; started and since, of the last change of state: unix seconds."""
    record = member.record
    release = record.release
    return {
        "name": record.name,
        "id": record.id,
        "state": member.state.value,
        "draining": record.draining,
        "drained": record.drained,
        "since": round(member.since, 3),
        "last_seen": None if member.state is MemberState.ALIVE else round(member.since, 3),
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
