"""What a deploy did: how it is told to people and programs, and its exit code."""

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gridctl.arriving import Telling
from gridctl.failure import OK, PARTIAL, exit_code
from gridctl.follow import Arrival, Follow, Watched
from gridctl.render import Progress, percent
from gridctl.upload import Sent
from gridnode.errors import CallTimeout, TaskFailure
from gridnode.model import Release, ReleaseState

if TYPE_CHECKING:
    from gridctl.project import Project

__all__ = ["Deployment", "as_fields", "follow", "report", "verdict"]

_FAILED = 1


@dataclass(slots=True)
class Deployment:
    """What one deploy did. release: the one the nodes were brought to; changed: whether it is a new one.

    project: None when the release comes from the grid itself.
    """

    project: "Project | None"
    release: Release
    changed: bool = False
    sent: Sent = field(default_factory=Sent)
    arrivals: list[Arrival] = field(default_factory=list)
    late: bool = False

    @property
    def deduplicated(self) -> int:
        """Bytes of files and tree that did not need to travel."""
        tree = sum(map(len, self.project.manifest.nodes.values())) if self.project else 0
        return max(0, self.release.size + tree - self.sent.content)


async def follow(grid: Watched, deployment: Deployment, timeout: float, progress: Progress) -> None:
    """Watch the release arrive on every node, for `timeout` seconds; where each is stays in the deployment."""
    telling = Telling(progress, deployment.changed)
    watch = Follow(grid, deployment.release.sequence, telling.tell, root=deployment.release.root)
    try:
        async with asyncio.timeout(max(timeout, 0.1)):
            await watch.run()
    except TimeoutError:
        deployment.late = True
    progress.clear()
    deployment.arrivals = list(watch.arrivals.values())


def verdict(deployment: Deployment) -> int:
    """0 when every node within reach serves it, 3 when some do, 1 when none does, 124 when time ran out."""
    if deployment.late:
        return exit_code(CallTimeout(""))
    reachable = [arrival for arrival in deployment.arrivals if arrival.reachable]
    active = [arrival for arrival in reachable if arrival.state == ReleaseState.ACTIVE.value]
    if len(active) == len(reachable):
        return OK
    return PARTIAL if active else _FAILED


def report(deployment: Deployment, progress: Progress) -> None:
    """What people should know at the end: failures with their tracebacks, who is missing, and the summary."""
    for arrival in deployment.arrivals:
        _report_node(arrival, progress)
    for failure, names in _by_failure(deployment.arrivals).items():
        progress.line(f"{failure.file} failed on {', '.join(names)}: {failure.message}", "red")
        if failure.trace:
            progress.line(failure.trace.rstrip())
    release = deployment.release
    what = f"{release.project} {release.root[:8]}, release {release.sequence}"
    active = [arrival.name for arrival in deployment.arrivals if arrival.state == ReleaseState.ACTIVE.value]
    serving = f"{what}, is active on {', '.join(active) or 'no node'}"
    if verdict(deployment) != OK:
        progress.line(f"gridctl: {serving}{' only' if active else ''}", "red")
        progress.line("hint: a node whose new release failed still serves the one it had; mend it and deploy again")
    else:
        progress.line(serving if deployment.changed else f"nothing changed: {serving}", "green")


def _report_node(arrival: Arrival, progress: Progress) -> None:
    if not arrival.reachable:
        progress.line(f"warning: {arrival.name} is {arrival.state}; it will catch up when it is back", "yellow")
    elif not arrival.final:
        far = percent(arrival.have, arrival.total)
        progress.line(f"{arrival.name} is not ready: {arrival.state} {far}".rstrip(), "yellow")
    elif arrival.state == ReleaseState.FAILED.value and not arrival.failures:
        progress.line(f"{arrival.name} failed: {arrival.error}", "red")


def _by_failure(arrivals: list[Arrival]) -> dict[TaskFailure, list[str]]:
    """Each failure once, with the nodes where it was the same."""
    found: dict[TaskFailure, list[str]] = {}
    for arrival in arrivals:
        for failure in arrival.failures:
            found.setdefault(failure, []).append(arrival.name)
    return found


def as_fields(deployment: Deployment) -> dict[str, Any]:
    """The deployment as `--json` prints it; sizes in bytes."""
    release = deployment.release
    return {
        "project": release.project,
        "root": release.root,
        "sequence": release.sequence,
        "changed": deployment.changed,
        "files": release.files,
        "size": release.size,
        "sent": deployment.sent.payload,
        "uncompressed": deployment.sent.content,
        "deduplicated": deployment.deduplicated,
        "nodes": [
            {
                "name": arrival.name,
                "id": arrival.node,
                "state": arrival.state,
                "error": arrival.error or None,
                "failures": [failure._asdict() for failure in arrival.failures],
            }
            for arrival in deployment.arrivals
        ],
    }
