"""Brings a project's changes to the grid over one link, sending and replacing no more than what changed."""

import asyncio
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Final

from gridctl.client import Grid
from gridctl.deployment import Deployment
from gridctl.follow import Follow
from gridctl.grafts import Graft
from gridctl.project import Packages, Project, Seen, scan
from gridctl.secret import require_secrets
from gridctl.tasks import is_source
from gridctl.upload import upload
from gridnode.model import ChunkHash, MemberState, Release, ReleaseState, TaskSpec

__all__ = ["Reload", "Reloaded"]

POLL: Final = 0.02
PATIENCE: Final = 90.0
"""Seconds for the nodes."""


@dataclass(slots=True)
class Reloaded:
    """What one reload did. tasks: those whose instances are new; gone: those no more; spans: seconds of each step."""

    deployment: Deployment
    tasks: list[str]
    gone: list[str] = field(default_factory=list)
    spans: dict[str, float] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """All steps together."""
        return sum(self.spans.values())


class Reload:
    """Remembers what was read, and what the node at the other end has. packages: finds those the project asks for."""

    def __init__(self, directory: Path, packages: Packages) -> None:
        self._directory = directory
        self._packages = _Remembered(packages)
        self._seen: Seen = {}
        self._there: set[ChunkHash] = set()
        self._last: Release | None = None
        self._marks: list[tuple[str, float]] = []

    def relinked(self) -> None:
        """Another node may be at the other end, and somebody else may have deployed."""
        self._there, self._last = set(), None

    async def scan(self, changed: Collection[str] | None = None) -> Project:
        """The project as it is now; ProjectInvalid says what is wrong. changed: since the last time, None for all."""
        self._marks = [("", time.perf_counter())]
        if changed is None or not all(is_source(PurePosixPath(path)) for path in changed):
            self._packages.forget()
        project = await asyncio.to_thread(scan, self._directory, packages=self._packages, seen=self._seen)
        self._mark("scan")
        return project

    async def bring(self, grid: Grid, project: Project) -> Reloaded | None:
        """Make it the grid's release and wait for the nodes; None when they have it already."""
        before = self._last or await grid.release()
        if before and await self._is_there(grid, before, project):
            return None
        release = _release(project, before)
        deployment = Deployment(project, release, changed=True)
        await require_secrets(grid, project.tasks)
        fresh = {chunk: length for chunk, length in project.chunks.items() if chunk not in self._there}
        deployment.sent = await upload(grid, fresh, project.read_chunk, lambda sent: None)
        self._mark("send")
        await grid.put_release(release)
        self._last, self._there = release, set(project.chunks)
        self._mark("publish")
        await _follow(grid, deployment)
        self._mark("start")
        return Reloaded(deployment, *_difference(before, release), self._spans())

    async def _is_there(self, grid: Grid, before: Release, project: Project) -> bool:
        """Whether the grid has been told of it, by us, or by somebody and it failed nowhere."""
        if (before.root, before.tasks, before.project) != (project.manifest.root, project.tasks, project.name):
            return False
        if self._last:
            return True
        states = [member.record.release for member in await grid.nodes() if member.state is MemberState.ALIVE]
        self._last = before
        return not any(status and status.state is ReleaseState.FAILED for status in states)

    def _mark(self, step: str) -> None:
        self._marks.append((step, time.perf_counter()))

    def _spans(self) -> dict[str, float]:
        pairs = zip(self._marks, self._marks[1:], strict=False)
        return {step: end - begin for (_, begin), (step, end) in pairs}


class _Remembered:
    """Packages found once are found again only after `forget`, or for other runtimes."""

    def __init__(self, packages: Packages) -> None:
        self._packages = packages
        self._asked: object = None
        self._found: Collection[Graft] = ()

    def forget(self) -> None:
        self._asked = None

    def __call__(self, tasks: tuple[TaskSpec, ...], top: Collection[str]) -> Collection[Graft]:
        asked = frozenset(task.runtime for task in tasks), frozenset(top)
        if asked != self._asked:
            self._found = self._packages(tasks, top)
            self._asked = asked
        return self._found


async def _follow(grid: Grid, deployment: Deployment) -> None:
    """Until every node within reach serves it or cannot; how far each is stays in the deployment."""
    release = deployment.release
    watch = Follow(grid, release.sequence, lambda arrival: None, root=release.root, poll=POLL)
    try:
        async with asyncio.timeout(PATIENCE):
            await watch.run()
    except TimeoutError:
        deployment.late = True
    deployment.arrivals = list(watch.arrivals.values())


def _release(project: Project, before: Release | None) -> Release:
    return Release(
        project=project.name,
        root=project.manifest.root,
        sequence=before.sequence + 1 if before else 1,
        created=int(time.time()),
        size=project.size,
        files=project.files,
        tasks=project.tasks,
    )


def _difference(before: Release | None, after: Release) -> tuple[list[str], list[str]]:
    """Names of task files that are new or differ in anything, and of those that are no more."""
    old = {task.name: task for task in before.tasks} if before else {}
    new = {task.name: task for task in after.tasks}
    return [name for name, task in new.items() if old.get(name) != task], sorted(old.keys() - new.keys())
