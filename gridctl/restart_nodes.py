"""`gridctl restart --node`: gridnode itself anew on its server by SSH, one after the other, while the grid serves."""

import asyncio
from collections.abc import Sequence

from gridctl.fleet import Fleet, HostResult
from gridctl.fleet_lines import Lines
from gridctl.hosts import dialler
from gridctl.options import Settings
from gridctl.provision import finish, no_feed
from gridctl.render import Progress
from gridctl.steps import restart_plan
from gridctl.units import unit_texts
from gridctl.whereabouts import servers_of
from gridnode.errors import HostError, LinkError, UsageError
from gridnode.gridfile import Gridfile, Server
from gridnode.model import Member

__all__ = ["restart_nodes"]


def restart_nodes(settings: Settings, nodes: Sequence[str]) -> int:
    """The exit code; the first failure ends it."""
    gridfile = settings.gridfile()
    if not gridfile.servers:
        raise UsageError(f"{gridfile.path} has no servers", hint="list them: servers = ['user@host']")
    servers, results = asyncio.run(_restart(gridfile, nodes, settings.verbose))
    untouched = servers[len(results) :]
    code = finish(results, settings, "restarted", untouched)
    if untouched:
        Progress().line(f"left as they were: {', '.join(map(str, untouched))}", "yellow")
    return code


async def _restart(
    gridfile: Gridfile, nodes: Sequence[str], verbose: bool
) -> tuple[Sequence[Server], list[HostResult]]:
    """The nodes' servers, and a result for each until one failed, that one included."""
    from gridctl.joining import Joining

    servers = await servers_of(gridfile, await _members(gridfile), nodes)
    fleet = Fleet(dialler(gridfile), no_feed, Lines(servers, verbose), 1)
    plan = restart_plan(tuple(name for name, _ in unit_texts()))
    results = await fleet.roll(servers, plan, Joining(gridfile).serves)
    for result in results:
        result.changed += [] if result.error else ["restart"]
    return servers, results


async def _members(gridfile: Gridfile) -> list[Member]:
    """None when no node answers: one that hangs is what this is for."""
    from gridctl.client import Grid

    try:
        async with Grid.connect(gridfile, links=1) as grid:
            return await grid.nodes()
    except (LinkError, HostError):
        return []
