"""`gridctl provision` and `gridctl unprovision`: servers become nodes by SSH, and stop being nodes."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import nullcontext

import click

from gridctl.failure import OK, PARTIAL, exit_code
from gridctl.fleet import Fleet, HostResult
from gridctl.fleet_lines import Lines, failure_lines, result_fields
from gridctl.hosts import dialler
from gridctl.live import Live, is_wanted
from gridctl.new import card_text
from gridctl.node_image import LocalImage, PackedImage, find_image
from gridctl.options import Settings, confirm, examples, gridfile_option, json_option, pass_settings, yes_option
from gridctl.render import Progress, print_json
from gridctl.steps import Feed, Intent, provision_plan, removal_plan
from gridctl.units import environment_text, unit_texts
from gridnode import __version__
from gridnode.errors import GridError, UsageError
from gridnode.gridfile import Gridfile, Server
from gridnode.identity import authority_of

__all__ = [
    "chosen",
    "IMAGE",
    "dry_run_option",
    "finish",
    "intent_of",
    "jobs_option",
    "no_feed",
    "only_option",
    "provision_command",
    "unprovision_command",
]

IMAGE = f"gridcontrol/gridnode:{__version__}"
JOBS = 8

only_option = click.option(
    "--only", "only", multiple=True, metavar="HOST", help="This server of the Gridfile alone; repeat for more."
)
jobs_option = click.option(
    "--jobs", default=JOBS, show_default=True, type=click.IntRange(1, 256), metavar="N", help="Servers at a time."
)
dry_run_option = click.option("--dry-run", is_flag=True, help="Look, and say what would change; change nothing.")


@click.command(
    "provision",
    epilog=examples("gridctl provision", "gridctl provision --only 10.0.0.3 --dry-run"),
)
@only_option
@jobs_option
@dry_run_option
@click.option("--image", default=IMAGE, show_default=True, metavar="NAME", help="Image of the local engine to send.")
@json_option
@gridfile_option
@pass_settings
def provision_command(settings: Settings, only: tuple[str, ...], jobs: int, dry_run: bool, image: str) -> int:
    """Make the servers of the Gridfile nodes of its grid, by SSH.

    Each gets a Docker engine where it has none, the gridnode image, a card of its own and a systemd unit. What is
    there already is left alone, so it can be run again at any time. Exit code 3 when some servers were left unfinished.
    """
    gridfile = settings.gridfile()
    servers = chosen(gridfile, only)
    report = Live(servers) if is_wanted() and not settings.verbose else Lines(servers, settings.verbose)
    results = asyncio.run(_provision(gridfile, servers, jobs, dry_run, image, report))
    return finish(results, settings, "provisioned")


@click.command(
    "unprovision",
    epilog=examples("gridctl unprovision --only 10.0.0.3", "gridctl unprovision --dry-run"),
)
@only_option
@jobs_option
@dry_run_option
@yes_option
@json_option
@gridfile_option
@pass_settings
def unprovision_command(settings: Settings, only: tuple[str, ...], jobs: int, dry_run: bool) -> int:
    """Remove the node, its sandboxes, files and image, and the Gridfile's key from servers; the engine stays.

    Other nodes know it as dead for a day.
    """
    gridfile = settings.gridfile()
    servers = chosen(gridfile, only)
    if not dry_run:
        confirm(f"This removes the node and everything it keeps from {len(servers)} servers.", settings)
    intent = intent_of(gridfile, gridfile.image or IMAGE)
    fleet = Fleet(dialler(gridfile), no_feed, Lines(servers, settings.verbose), jobs, dry_run)
    return finish(asyncio.run(fleet.run(servers, removal_plan(intent))), settings, "unprovisioned")


async def _provision(
    gridfile: Gridfile, servers: Sequence[Server], jobs: int, dry_run: bool, image: str, report: Lines | Live
) -> list[HostResult]:
    from gridctl.joining import Joining

    local = None if gridfile.image else await find_image(image)
    intent = intent_of(gridfile, gridfile.image or image, local)
    packed, joining = PackedImage(local.id if local else ""), Joining(gridfile)

    def feed(server: Server, wanted: Feed) -> AsyncIterator[bytes]:
        return packed.stream() if wanted is Feed.IMAGE else _card(gridfile, server)

    try:
        with report.shown() if isinstance(report, Live) else nullcontext():
            fleet = Fleet(dialler(gridfile), feed, report, jobs, dry_run)
            results = await fleet.run(servers, provision_plan(intent), joining.answers)
            await joining.know_each_other(results)
    finally:
        await packed.close()
    return results


def intent_of(gridfile: Gridfile, image: str, local: LocalImage | None = None) -> Intent:
    return Intent(
        image=image,
        mark=local.mark if local else "",
        tag=authority_of(gridfile).tag,
        public_key=gridfile.ssh_public_key,
        units=unit_texts(),
        environment=environment_text(),
        architecture=local.architecture if local else "",
    )


async def _card(gridfile: Gridfile, server: Server) -> AsyncIterator[bytes]:
    yield card_text(gridfile, server.host).encode()


def no_feed(server: Server, wanted: Feed) -> AsyncIterator[bytes]:
    raise AssertionError(f"no step of this plan takes {wanted.value}")


def chosen(gridfile: Gridfile, only: Iterable[str]) -> tuple[Server, ...]:
    """The Gridfile's servers, or those named by host, host:port or whole; UsageError for a name it does not have."""
    if not gridfile.servers:
        raise UsageError(f"{gridfile.path} has no servers", hint="list them: servers = ['user@host']")
    wanted = []
    for name in only:
        found = [server for server in gridfile.servers if name in (server.host, server.place, str(server))]
        if not found:
            known = ", ".join(map(str, gridfile.servers[:20]))
            raise UsageError(f"no server {name!r:.80} in {gridfile.path}", hint=f"it has {known}")
        wanted += found
    return tuple(dict.fromkeys(wanted)) or gridfile.servers


def finish(results: Sequence[HostResult], settings: Settings, done: str, untouched: Sequence[Server] = ()) -> int:
    """Print what became of each host; 0 all done, 3 some, else the code of the first error. untouched: never begun."""
    failed = [result for result in results if result.error]
    if settings.as_json:
        print_json({"hosts": [result_fields(result) for result in results]})
    progress = Progress()
    for result in failed:
        for number, line in enumerate(failure_lines(result)):
            progress.line(line, "red" if number == 0 else None)
    changed = sum(bool(result.changed) for result in results)
    names = ", ".join(str(result.server) for result in failed)
    text = f"{len(results) - len(failed)} of {len(results) + len(untouched)} servers {done}, {changed} changed"
    progress.line(f"{text}; unfinished: {names}" if failed else text)
    if not failed:
        return OK
    errors: list[GridError] = [result.error for result in failed if result.error]
    return PARTIAL if len(failed) < len(results) else exit_code(errors[0])
