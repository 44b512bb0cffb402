"""`gridctl releases` and `gridctl rollback`: what the grid had before, and the way back to it."""

import asyncio
import time
from typing import Any

import click
from msgspec.structs import replace

from gridctl.client import Connecting, Grid
from gridctl.deployment import Deployment, as_fields, follow, report, verdict
from gridctl.options import (
    Settings,
    confirm,
    examples,
    gridfile_option,
    json_option,
    pass_settings,
    timeout_option,
    yes_option,
)
from gridctl.render import Progress, print_json, size, span, table
from gridnode.errors import ReleaseNotFound, UsageError
from gridnode.gridfile import Gridfile
from gridnode.model import Release

__all__ = ["choose", "releases_command", "rollback_command"]

_HEAD = ("RELEASE", "ROOT", "PROJECT", "DEPLOYED", "FILES", "SIZE", "TASKS", "")


@click.command("releases", epilog=examples("gridctl releases", "gridctl releases --json | jq '.releases[0].root'"))
@json_option
@gridfile_option
@pass_settings
def releases_command(settings: Settings) -> None:
    """List the releases that the grid remembers, newest first; `gridctl rollback` goes back to any of them."""
    releases = asyncio.run(_releases(Grid.connect(settings.gridfile())))
    if settings.as_json:
        print_json({"releases": [_fields(release, current=at == 0) for at, release in enumerate(releases)]})
        return
    now = time.time()
    for line in table(_HEAD, [_row(release, now, current=at == 0) for at, release in enumerate(releases)]):
        click.echo(line)


@click.command("rollback", epilog=examples("gridctl rollback", "gridctl rollback 12 --yes --json"))
@click.argument("sequence", required=False, type=click.IntRange(min=1))
@timeout_option(300.0)
@yes_option
@json_option
@gridfile_option
@pass_settings
def rollback_command(settings: Settings, sequence: int | None, timeout: float) -> int:
    """Bring every node back to release SEQUENCE, else to the one before the current, and wait until each serves it.

    It becomes a new release; nothing is sent, for the nodes have its files. What runs serves on meanwhile.
    """
    progress = Progress()
    gridfile = settings.gridfile()
    releases = asyncio.run(_releases(Grid.connect(gridfile)))
    target = choose(releases, sequence)
    if target.project != releases[0].project:
        confirm(f"The grid runs the project {releases[0].project!r}; {target.project!r} will replace it.", settings)
    deployment = asyncio.run(_roll_back(gridfile, releases[0], target, timeout, progress))
    report(deployment, progress)
    if settings.as_json:
        print_json(as_fields(deployment) | {"rolled_back_to": target.sequence})
    return verdict(deployment)


async def _releases(connecting: Connecting) -> list[Release]:
    async with connecting as grid:
        return await grid.releases()


def choose(releases: list[Release], sequence: int | None) -> Release:
    """The release to go back to, of those known, newest first; UsageError when there is none, ReleaseNotFound."""
    if not releases:
        raise UsageError("the grid has no release yet", hint="`gridctl deploy` puts a project there")
    if sequence is None:
        current = _content(releases[0])
        earlier = next((release for release in releases[1:] if _content(release) != current), None)
        if earlier is None:
            raise UsageError("the grid remembers no release before this one", hint="`gridctl releases` lists them")
        return earlier
    found = next((release for release in releases if release.sequence == sequence), None)
    if found is None:
        raise ReleaseNotFound(f"the grid does not remember a release {sequence}", hint="`gridctl releases` lists them")
    return found


def _content(release: Release) -> object:
    return release.project, release.root, release.tasks


async def _roll_back(
    gridfile: Gridfile, current: Release, target: Release, timeout: float, progress: Progress
) -> Deployment:
    started = time.monotonic()
    async with Grid.connect(gridfile) as grid:
        deployment = Deployment(None, current)
        if _content(target) != _content(current):
            release = replace(target, sequence=current.sequence + 1, created=int(time.time()))
            deployment = Deployment(None, release, changed=True)
            await grid.put_release(release)
            progress.line(f"rolling back to release {target.sequence}, {target.root[:8]}, as {release.sequence}")
        await follow(grid, deployment, timeout - (time.monotonic() - started), progress)
    return deployment


def _row(release: Release, now: float, *, current: bool) -> tuple[str, ...]:
    return (
        str(release.sequence),
        release.root[:8],
        release.project,
        f"{span(now - release.created)} ago",
        str(release.files),
        size(release.size),
        str(len(release.tasks)),
        "current" if current else "",
    )


def _fields(release: Release, *, current: bool) -> dict[str, Any]:
    """created: unix seconds; size: bytes."""
    return {
        "sequence": release.sequence,
        "root": release.root,
        "project": release.project,
        "created": release.created,
        "files": release.files,
        "size": release.size,
        "tasks": [task.name for task in release.tasks],
        "current": current,
    }
