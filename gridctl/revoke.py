"""`gridctl revoke`: servers and users that the grid lets in no more."""

import asyncio
import time
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from gridctl.author import author
from gridctl.options import Settings, confirm, examples, gridfile_option, json_option, pass_settings, yes_option
from gridctl.render import Progress, print_json
from gridnode.errors import CallError, GridError, LinkError, UsageError
from gridnode.gridfile import Gridfile
from gridnode.ledger import Document
from gridnode.model import Address, MemberState, NodeId
from gridnode.revocation import Revocation

if TYPE_CHECKING:
    from gridctl.client import Grid

__all__ = ["revoke", "revoke_command"]

MAX_NODES = 64
"""Nodes that are told by us; they tell the others."""


@click.command("revoke", epilog=examples("gridctl revoke 10.0.0.3", "gridctl revoke --user alice --yes"))
@click.argument("host", required=False)
@click.option("--user", metavar="NAME", help="Somebody who has a Gridfile by `gridctl share`, in place of a server.")
@yes_option
@json_option
@gridfile_option
@pass_settings
def revoke_command(settings: Settings, host: str | None, user: str | None) -> None:
    """Shut out whatever the cards of HOST let in: nodes drop its links within seconds, and open none again.

    HOST is what its card was made for: a server of the Gridfile, `gridctl card HOST`, `gridctl cloud-init --name HOST`.
    A card made for it later is good again. What the server knows already it keeps: see docs/security.md.
    """
    if (host is None) == (user is None):
        raise UsageError("revoke whom?", hint="gridctl revoke HOST, or gridctl revoke --user NAME")
    from gridnode.identity import user_host

    what = host or user_host(user or "")
    gridfile = settings.gridfile()
    is_known = bool(user) or asyncio.run(is_a_cards(gridfile, what))
    confirm(f"This shuts {user or host} out of the grid {gridfile.grid_name}.", settings)
    told = asyncio.run(revoke(gridfile, what))
    if settings.as_json:
        print_json({"revoked": what, "told": told})
        return
    click.echo(f"{user or host} is shut out; told {', '.join(told)}, and they tell the others", err=True)
    if not is_known:
        text = (
            f"no server of {gridfile.path} and no node within reach is called {host}: right if a card was made for it"
        )
        Progress().line(f"warning: {text}", "yellow")
    if any(server.host == host for server in gridfile.servers):
        click.echo(
            f"take {host} out of servers and seeds in {gridfile.path}: gridctl itself would talk to it", err=True
        )


async def is_a_cards(gridfile: Gridfile, host: str) -> bool:
    """Whether a card for `host` is known; UsageError when it is a node's name, and the node's card is for another."""
    from gridctl.client import Grid

    if any(server.host == host for server in gridfile.servers):
        return True
    async with Grid.connect(gridfile, links=1) as grid:
        rows = [row for row in await grid.nodes() if row.record.name == host and row.state is MemberState.ALIVE]
        made_for = [await _made_for(grid, gridfile, row.record.id, host) for row in rows if grid.is_operator]
    others = [one for one in made_for if one not in ("", host)]
    if others:
        raise UsageError(
            f"{host} is a node's name, but its card was made for {others[0]}",
            hint="gridctl revoke NAME, as in `gridctl card NAME`, `gridctl cloud-init --name NAME`, or servers",
        )
    return bool(rows)


async def _made_for(grid: "Grid", gridfile: Gridfile, node: NodeId, host: str) -> str:
    """For whom, as far as the Gridfile tells; nothing when the node does not say: it may be the one to fear."""
    try:
        pem = await grid.issuer(node)
        known = (one for one in (host, *(server.host for server in gridfile.servers)) if grid.is_of(pem, one))
        return next(known, "another")
    except (LinkError, CallError):
        return ""


async def revoke(gridfile: Gridfile, what: str) -> list[str]:
    """Names of the nodes that took it, at least one. Every one in reach is told: the first may be the one to fear."""
    from gridctl.client import Grid

    async with Grid.connect(gridfile, links=1) as grid:
        change = await grid.put_revocation(Revocation(int(time.time()), what, author()))
        gridfile = replace(gridfile, via=grid.via)  # what is out of reach that way is not worth another
        told = [grid.record.name] if grid.record else []
        rows = [row for row in await grid.nodes() if row.state is MemberState.ALIVE]
    addresses = {address for row in rows if row.record.name not in told for address in row.record.addresses[:2]}
    places = list(dict.fromkeys([*gridfile.seeds, *sorted(addresses)]))[:MAX_NODES]
    answers = await asyncio.gather(*(_tell(gridfile, place, change) for place in places))
    return _unique([*told, *answers])


async def _tell(gridfile: Gridfile, place: Address, change: list[Document]) -> str:
    """The node's name; nothing when it cannot be told."""
    from gridctl.client import Grid

    try:
        async with Grid.connect(gridfile, [place], links=1) as grid:
            await grid.tell(change)
            return grid.record.name if grid.record else ""
    except GridError:
        return ""


def _unique(names: Iterable[str]) -> list[str]:
    return [name for name in dict.fromkeys(names) if name]
