"""`gridctl renew` and `gridctl status`: how long cards are good, and longer ones for the servers of the Gridfile."""

import asyncio
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click
import msgspec

from gridctl.access import seconds_of
from gridctl.failure import OK, PARTIAL, exit_code
from gridctl.ls import expiring
from gridctl.options import Settings, examples, gridfile_option, json_option, pass_settings
from gridctl.render import Progress, print_json, span, table
from gridnode.errors import GridError
from gridnode.gridfile import Gridfile
from gridnode.model import Member

if TYPE_CHECKING:
    from gridctl.client import Grid
    from gridctl.control import Renewed

__all__ = ["Expiry", "expiries", "renew_command", "renew_due", "status_command"]

CARD_TTL = 365 * 86_400.0
RENEW_WITHIN = 95 * 86_400.0
"""Seconds before its end from when on a card is renewed by whoever comes by: as `gridctl provision` has it."""
_HEAD = ("NAME", "ID", "STATE", "CARD UNTIL", "LEFT")


class Expiry(msgspec.Struct, frozen=True):
    """When the certificate of a node ends. until: unix seconds, 0 when it does not say."""

    name: str
    id: str
    state: str
    until: int


@click.command("renew", epilog=examples("gridctl renew", "gridctl renew web-1 --within 400d"))
@click.argument("hosts", metavar="[HOST]...", nargs=-1)
@click.option("--within", default="95d", show_default=True, metavar="TIME", help="Cards that end so soon.")
@click.option("--ttl", default="365d", show_default=True, metavar="TIME", help="How long they are good from now.")
@json_option
@gridfile_option
@pass_settings
def renew_command(settings: Settings, hosts: tuple[str, ...], within: str, ttl: str) -> int:
    """Make cards last longer, with no SSH: no key is sent, no call fails. `gridctl deploy` does it by itself.

    HOST is what a card was made for, as for `gridctl revoke`; without one, the servers of the Gridfile. Cards of
    `gridctl cloud-init` end when it said, unless you name them here. Exit code 3 when some could not be renewed.
    """
    gridfile = settings.gridfile()
    names = hosts or [server.host for server in gridfile.servers]
    made = asyncio.run(_renew(gridfile, names, seconds_of(within), seconds_of(ttl)))
    if settings.as_json:
        print_json({"renewed": made.nodes, "failed": {name: exc.message for name, exc in made.failed.items()}})
    _say(made, Progress())
    if not made.nodes and not made.failed:
        click.echo("no card is due", err=True)
    return PARTIAL if made.nodes and made.failed else next(map(exit_code, made.failed.values()), OK)


async def _renew(gridfile: Gridfile, hosts: Iterable[str], within: float, ttl: float) -> "Renewed":
    from gridctl.client import Grid

    async with Grid.connect(gridfile) as grid:
        return await grid.renew_cards(hosts, time.time() + within, ttl)


async def renew_due(grid: "Grid", gridfile: Gridfile, progress: Progress) -> None:
    """In passing: cards of the Gridfile's servers that end within RENEW_WITHIN; what goes wrong is only said."""
    hosts = [server.host for server in gridfile.servers]
    try:
        if grid.is_operator:
            _say(await grid.renew_cards(hosts, time.time() + RENEW_WITHIN, CARD_TTL), progress)
    except GridError as exc:
        progress.line(f"warning: cards that end soon could not be renewed: {exc.message}", "yellow")


def _say(made: "Renewed", progress: Progress) -> None:
    if made.nodes:
        progress.line(f"renewed the cards of {', '.join(made.nodes)}")
    for name, exc in made.failed.items():
        progress.line(f"warning: the card of {name} could not be renewed: {exc.message}", "yellow")


@click.command("status", epilog=examples("gridctl status", "gridctl status --json | jq '.cards[].until'"))
@json_option
@gridfile_option
@pass_settings
def status_command(settings: Settings) -> None:
    """Show until when the nodes' cards and this Gridfile are good, the first to end first."""
    gridfile = settings.gridfile()
    members, now, own = asyncio.run(_members(gridfile)), time.time(), _own_end(gridfile)
    rows = expiries(members)
    if settings.as_json:
        print_json({"cards": [_fields(row, now) for row in rows], "gridfile_until": own or None})
        return
    for line in table(_HEAD, [_row(row, now) for row in rows]):
        click.echo(line)
    for text in expiring(members, now):
        Progress().line(text, "yellow")
    if own:
        when = time.strftime("%Y-%m-%d %H:%M", time.gmtime(own))
        click.echo(f"this Gridfile is good until {when} UTC; `gridctl share` makes another", err=True)


def expiries(members: Iterable[Member]) -> list[Expiry]:
    """One for each node, the first to end first; those that do not say come last."""
    rows = [Expiry(one.record.name, one.record.id, one.state.value, one.record.until) for one in members]
    return sorted(rows, key=lambda row: (row.until == 0, row.until, row.name, row.id))


async def _members(gridfile: Gridfile) -> list[Member]:
    from gridctl.client import Grid

    async with Grid.connect(gridfile) as grid:
        return await grid.nodes()


def _own_end(gridfile: Gridfile) -> int:
    """When a user's Gridfile ends, unix seconds; an operator's does not: 0."""
    from gridnode.identity import share_credentials

    return int(share_credentials(gridfile.share, time.time()).until) if gridfile.share else 0


def _row(row: Expiry, now: float) -> tuple[str, ...]:
    when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(row.until)) if row.until else "-"
    left = span(row.until - now) if row.until > now else "ended" if row.until else "-"
    return row.name, row.id[:8], row.state, when, left


def _fields(row: Expiry, now: float) -> dict[str, Any]:
    """until: unix seconds; left: seconds, negative when it has ended."""
    left = int(row.until - now) if row.until else None
    return {"name": row.name, "id": row.id, "state": row.state, "until": row.until or None, "left": left}
