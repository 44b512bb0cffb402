"""`gridctl deploy`: put a project on every node, and wait until each one serves it."""

import asyncio
import time
from pathlib import Path

import click

from gridctl.client import Connecting, Grid
from gridctl.deployment import Deployment, as_fields, follow, report, verdict
from gridctl.failure import OK
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
from gridctl.plan import make_plan, plan_fields, plan_lines
from gridctl.project import Project, scan
from gridctl.render import Progress, print_json, size
from gridctl.renew import renew_due
from gridctl.secret import require_secrets
from gridctl.stat_cache import StatCache
from gridctl.upload import upload
from gridctl.vendor import vendor_of
from gridnode.errors import CallTimeout, UsageError
from gridnode.gridfile import Gridfile
from gridnode.model import MemberState, Release, ReleaseState

__all__ = ["deploy_command", "deploy_project"]

CHANGES = 2
"""Exit code of `--plan --detailed-exitcode` when something would change."""
LARGE = 1 << 30
"""Bytes of files above which it asks first."""


@click.command("deploy", epilog=examples("gridctl deploy", "gridctl deploy ./hello --plan --json"))
@click.argument("directory", default=".", type=click.Path(path_type=Path))
@timeout_option(300.0)
@click.option("--plan", "only_plan", is_flag=True, help="Say what would change, and change nothing.")
@click.option("--detailed-exitcode", "detailed", is_flag=True, help="With --plan: exit 2 when something would change.")
@click.option("--checksum", is_flag=True, help="Read every file, also those that look as they did the last time.")
@yes_option
@json_option
@gridfile_option
@pass_settings
def deploy_command(
    settings: Settings, directory: Path, timeout: float, only_plan: bool, detailed: bool, checksum: bool
) -> int:
    """Put the project in DIRECTORY on every node, and wait until each one serves it.

    Every file in its tasks/ is a task; .gridignore lists what stays here. What requirements.txt, pyproject.toml or
    package.json asks for goes along, chosen for the nodes by uv or npm. The release before it serves on until
    the new one has proved healthy, node by node.
    """
    if detailed and not only_plan:
        raise UsageError("--detailed-exitcode goes with --plan")
    progress = Progress()
    gridfile = settings.gridfile()
    project = _scan(directory, gridfile, progress, checksum)
    if only_plan:
        return _show_plan(settings, gridfile, project, detailed)
    if project.size > LARGE:
        confirm(f"{project.directory} holds {size(project.size)}.", settings)
    current = asyncio.run(_current(gridfile, progress))
    if current and current.project != project.name:
        confirm(f"The grid runs the project {current.project!r}; {project.name!r} will replace it.", settings)
    deployment = asyncio.run(deploy_project(Grid.connect(gridfile), project, timeout, progress))
    report(deployment, progress)
    if settings.as_json:
        print_json(as_fields(deployment))
    return verdict(deployment)


def _show_plan(settings: Settings, gridfile: Gridfile, project: Project, detailed: bool) -> int:
    plan = asyncio.run(make_plan(Grid.connect(gridfile), project))
    if settings.as_json:
        print_json(plan_fields(plan))
    else:
        for line in plan_lines(plan):
            click.echo(line)
    return CHANGES if detailed and plan.changes else OK


def _scan(directory: Path, gridfile: Gridfile, progress: Progress, checksum: bool) -> Project:
    cache = StatCache(directory)
    seen = {} if checksum else cache.load()
    project = scan(
        directory,
        on_progress=lambda done, total: progress.bar("reading", done, total),
        packages=vendor_of(gridfile, directory, progress.line).grafts,
        seen=seen,
    )
    cache.save(seen)
    tasks = ", ".join(task.name for task in project.tasks[:10]) + (" ..." if len(project.tasks) > 10 else "")
    progress.line(f"scanned {project.files} files, {size(project.size)}; tasks: {tasks}")
    return project


async def _current(gridfile: Gridfile, progress: Progress) -> Release | None:
    """On a connection of its own: a question on a terminal would hold up the event loop."""
    async with Grid.connect(gridfile) as grid:
        await renew_due(grid, gridfile, progress)
        return await grid.release()


async def deploy_project(connecting: Connecting, project: Project, timeout: float, progress: Progress) -> Deployment:
    """Make the project the grid's release unless it is, and follow it to every node, for `timeout` seconds."""
    started = time.monotonic()
    async with connecting as grid:
        deployment = await _plan(grid, project, await grid.release())
        if deployment.changed:
            await require_secrets(grid, project.tasks)
            await _publish(grid, project, deployment, timeout, progress)
        await follow(grid, deployment, timeout - (time.monotonic() - started), progress)
    return deployment


async def _plan(grid: Grid, project: Project, current: Release | None) -> Deployment:
    """The current release again when it is the same and failed nowhere, else a new one."""
    if current and (current.root, current.tasks, current.project) == (
        project.manifest.root,
        project.tasks,
        project.name,
    ):
        states = [member.record.release for member in await grid.nodes() if member.state is MemberState.ALIVE]
        if not any(status and status.state is ReleaseState.FAILED for status in states):
            return Deployment(project, current)
    release = Release(
        project=project.name,
        root=project.manifest.root,
        sequence=current.sequence + 1 if current else 1,
        created=int(time.time()),
        size=project.size,
        files=project.files,
        tasks=project.tasks,
    )
    return Deployment(project, release, changed=True)


async def _publish(grid: Grid, project: Project, deployment: Deployment, timeout: float, progress: Progress) -> None:
    try:
        async with asyncio.timeout(timeout):
            deployment.sent = await upload(
                grid,
                project.chunks,
                project.read_chunk,
                lambda sent: progress.bar("sending", sent.content, sent.total),
            )
            await grid.put_release(deployment.release)
    except TimeoutError as exc:
        raise CallTimeout(f"the project was not sent within {timeout:g} s") from exc
    sent = deployment.sent
    packed = f" ({size(sent.content)} before compression)" if sent.payload < sent.content else ""
    progress.line(f"sent {size(sent.payload)}{packed}, {size(deployment.deduplicated)} deduplicated")
