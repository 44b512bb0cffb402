"""`gridctl upgrade`: another gridnode on every server, one after the other, while the grid serves."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import click

from gridctl.fleet import Fleet, HostResult
from gridctl.fleet_lines import Lines
from gridctl.hosts import dialler
from gridctl.node_image import LocalImage, PackedImage, find_image
from gridctl.options import Settings, examples, gridfile_option, json_option, pass_settings
from gridctl.provision import IMAGE, chosen, dry_run_option, finish, intent_of, no_feed, only_option
from gridctl.render import Progress
from gridctl.steps import PREVIOUS, Feed, Plan, rollback_plan, upgrade_plan
from gridnode.errors import UsageError
from gridnode.gridfile import Gridfile, Server

__all__ = ["upgrade_command"]


@click.command(
    "upgrade", epilog=examples("gridctl upgrade --to gridcontrol/gridnode:0.2.0", "gridctl upgrade --rollback")
)
@click.option("--to", "image", metavar="IMAGE", help="Of the local engine, or of the Gridfile's registry.")
@click.option("--rollback", is_flag=True, help="Back to the image that each server ran before.")
@only_option
@dry_run_option
@json_option
@gridfile_option
@pass_settings
def upgrade_command(settings: Settings, image: str | None, rollback: bool, only: tuple[str, ...], dry_run: bool) -> int:
    """Replace gridnode on every server of the Gridfile, one at a time.

    A node lets its calls finish, its sandboxes live on and are adopted, and the next server's turn is only when it
    serves again. The first failure ends it: what comes after is left as it is. Exit code 3 when some are not done.
    """
    if image and rollback:
        raise UsageError("--to and --rollback exclude each other", hint="`gridctl upgrade --rollback` goes back")
    gridfile = settings.gridfile()
    servers = chosen(gridfile, only)
    report = Lines(servers, settings.verbose)
    results = asyncio.run(_upgrade(gridfile, servers, image, rollback, dry_run, report))
    untouched = servers[len(results) :]
    code = finish(results, settings, "rolled back" if rollback else "upgraded", untouched)
    if untouched:
        Progress().line(f"left as they were: {', '.join(map(str, untouched))}", "yellow")
    return code


async def _upgrade(
    gridfile: Gridfile, servers: Sequence[Server], image: str | None, rollback: bool, dry_run: bool, report: Lines
) -> list[HostResult]:
    """A result for each server until one failed, that one included."""
    from gridctl.joining import Joining

    local = None if rollback or gridfile.image else await find_image(image or IMAGE)
    plan = _plan(gridfile, image, local, rollback)
    packed, joining = PackedImage(local.id if local else ""), Joining(gridfile)

    def feed(server: Server, wanted: Feed) -> AsyncIterator[bytes]:
        return packed.stream() if wanted is Feed.IMAGE else no_feed(server, wanted)

    fleet = Fleet(dialler(gridfile), feed, report, 1, dry_run)
    try:
        return await fleet.roll(servers, plan, joining.serves)
    finally:
        await packed.close()


def _plan(gridfile: Gridfile, image: str | None, local: LocalImage | None, rollback: bool) -> Plan:
    if rollback:
        return rollback_plan(intent_of(gridfile, PREVIOUS))
    return upgrade_plan(intent_of(gridfile, image or gridfile.image or IMAGE, local))
