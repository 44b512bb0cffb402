"""`gridctl.init()`: a program's own project on the grid, and a connection to call it."""

import asyncio
import dataclasses
import io
import sys
from pathlib import Path
from typing import IO

import msgspec

from gridctl.client import Grid
from gridctl.connecting import Gridfiles, read_gridfile
from gridctl.deploy import deploy_project
from gridctl.deployment import Deployment, verdict
from gridctl.failure import OK
from gridctl.project import Project, configured_tasks, scan
from gridctl.render import Progress
from gridctl.sync_client import SyncGrid
from gridctl.tasks import TASKS_DIR
from gridctl.vendor import vendor_of
from gridnode.errors import CallTimeout, LedgerError, ProjectInvalid, ReleaseFailed, UsageError
from gridnode.gridfile import Gridfile

__all__ = ["calling_project", "init"]

MAX_INSTANCES = 1024


def init(
    directory: Path | str | None = None,
    *,
    instances_per_task: int | None = None,
    gridfile: Gridfiles = None,
    replace: bool = False,
    timeout: float = 300.0,
    progress: IO[str] | None = None,
) -> SyncGrid:
    """Deploy the calling program's project if it changed, wait until all nodes serve it, and connect.

    directory: the project; else the directory of the running script or the nearest above it that has tasks/.
    instances_per_task: warm on each node, for tasks of which grid.toml does not say. replace: also where the grid
    runs another project. progress: where to write what happens, as sys.stderr. timeout: of the deploy, seconds.
    Raises ProjectInvalid, ReleaseFailed when a node does not come to serve it, CallTimeout, and as Grid.connect.

    >>> import gridctl
    >>> grid = gridctl.init("hello", instances_per_task=2)
    >>> grid.invoke("words.longest", "to be or not")
    'not'
    >>> grid.close()
    """
    _check(instances_per_task)
    found = read_gridfile(gridfile)
    place = Path(directory) if directory is not None else calling_project()
    talk = Progress(progress or io.StringIO())
    project = _scanned(place, found, instances_per_task, talk)
    try:
        deployment = asyncio.run(_deploy(found, project, replace, timeout, talk))
    except LedgerError:  # another process of the same program was quicker
        deployment = asyncio.run(_deploy(found, project, replace, timeout, talk))
    _demand(deployment, timeout)
    return SyncGrid(found)


def calling_project() -> Path:
    """That of the program that runs: where its script is, or above; of a console, where it was started."""
    script = getattr(sys.modules["__main__"], "__file__", None)
    start = Path(script).resolve().parent if script else Path.cwd()
    for directory in (start, *start.parents):
        if (directory / TASKS_DIR).is_dir():
            return directory
    raise ProjectInvalid(f"no {TASKS_DIR}/ in {start} or above it", hint="say where the project is: init(directory)")


def _check(instances: int | None) -> None:
    if instances is not None and not 0 <= instances <= MAX_INSTANCES:
        hint = f"0, for one a core, to {MAX_INSTANCES}"
        raise UsageError(f"{instances} instances of a task make no sense", hint=hint)
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise UsageError("init blocks, and an event loop runs here", hint="`grid = await asyncio.to_thread(gridctl.init)`")


def _scanned(directory: Path, gridfile: Gridfile, instances: int | None, talk: Progress) -> Project:
    project = scan(directory, packages=vendor_of(gridfile, directory, talk.line).grafts)
    if instances is None:
        return project
    said = {one.spec.name for one in configured_tasks(directory) if one.settings["instances"].section != "default"}
    tasks = tuple(
        task if task.name in said else msgspec.structs.replace(task, instances=instances) for task in project.tasks
    )
    return dataclasses.replace(project, tasks=tasks)


async def _deploy(gridfile: Gridfile, project: Project, replace: bool, timeout: float, talk: Progress) -> Deployment:
    async with Grid.connect(gridfile) as grid:
        current = await grid.release()
    if current and current.project != project.name and not replace:
        hint = f"init(replace=True), or `gridctl deploy {project.directory}`, puts {project.name!r} in its place"
        raise ProjectInvalid(f"the grid runs the project {current.project!r}", hint=hint)
    return await deploy_project(Grid.connect(gridfile), project, timeout, talk)


def _demand(deployment: Deployment, timeout: float) -> None:
    """Raises unless every node within reach serves it."""
    if deployment.late:
        raise CallTimeout(f"not every node came to serve {deployment.release.project} within {timeout:g} s")
    if verdict(deployment) == OK:
        return
    failed = [one for one in deployment.arrivals if one.reachable and (one.failures or one.error)]
    failures = tuple(failure for one in failed for failure in one.failures)
    names = ", ".join(one.name for one in failed)
    why = failures[0].message if failures else next((one.error for one in failed if one.error), "unknown")
    trace = failures[0].trace if failures else None
    raise ReleaseFailed(f"{deployment.release.project} failed on {names}: {why}", failures, trace=trace)
