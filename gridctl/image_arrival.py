"""Watches an image arrive: each node's way from fetching to present or failed."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from gridctl.follow import POLL, RETRY_PATIENCE
from gridctl.render import Progress
from gridnode.errors import GridError
from gridnode.model import ImageState, ImageStatus, Member, MemberState, NodeId

__all__ = ["ImageArrival", "Node", "ask_all", "follow_image"]


class Watched(Protocol):
    """A Grid's part in it."""

    async def nodes(self) -> list[Member]: ...
    async def image_status(self, node: NodeId) -> list[ImageStatus]: ...


@dataclass(frozen=True, slots=True)
class Node:
    """One node's images. error: why it did not say."""

    id: NodeId
    name: str
    images: tuple[ImageStatus, ...] = ()
    error: str = ""

    def status(self, name: str) -> ImageStatus | None:
        """How far it is with the one of this name."""
        return next((status for status in self.images if status.name == name), None)


@dataclass(slots=True)
class ImageArrival:
    """An image on its way. nodes: by id, what each last said of it, None where it has not heard of it yet.

    away: names and states of the nodes out of reach; late: time ran out.
    """

    name: str
    id: str
    nodes: dict[NodeId, tuple[str, ImageStatus | None]] = field(default_factory=dict)
    away: dict[str, str] = field(default_factory=dict)
    late: bool = False

    def count(self, state: ImageState) -> int:
        """How many nodes are in this state."""
        return sum(status is not None and status.state is state for _, status in self.nodes.values())


async def ask_all(grid: Watched) -> list[Node]:
    """Every node that has not left, by name."""
    members = [member for member in await grid.nodes() if member.state is not MemberState.LEFT]
    members.sort(key=lambda member: (member.record.name, member.record.id))
    return list(await asyncio.gather(*(_ask(grid, member) for member in members)))


async def _ask(grid: Watched, member: Member) -> Node:
    record = member.record
    if member.state is not MemberState.ALIVE:
        return Node(record.id, record.name, error=member.state.value)
    try:
        return Node(record.id, record.name, tuple(await grid.image_status(record.id)))
    except GridError as exc:
        return Node(record.id, record.name, error=exc.message)


async def follow_image(grid: Watched, arrival: ImageArrival, timeout: float, progress: Progress) -> None:
    """Until every node within reach has it, or failed for good; `timeout` seconds at most."""
    failed_at: dict[NodeId, float] = {}
    try:
        async with asyncio.timeout(max(timeout, 0.1)):
            while True:
                if _take(arrival, await ask_all(grid), progress, failed_at, time.monotonic):
                    break
                await asyncio.sleep(POLL)
    except TimeoutError:
        arrival.late = True
    progress.clear()


def _take(
    arrival: ImageArrival,
    nodes: list[Node],
    progress: Progress,
    failed_at: dict[NodeId, float],
    now: Callable[[], float],
) -> bool:
    """Note what the nodes said; whether there is nothing left to wait for."""
    before, arrival.nodes = arrival.nodes, {}
    arrival.away = {node.name: node.error for node in nodes if node.error}
    settled = True
    for node in nodes:
        if node.error:
            continue
        status = next((one for one in node.images if (one.name, one.id) == (arrival.name, arrival.id)), None)
        arrival.nodes[node.id] = (node.name, status)
        _show(node, status, before.get(node.id), progress)
        if status is None or status.state is not ImageState.FAILED:
            failed_at.pop(node.id, None)
            settled &= status is not None and status.state is ImageState.PRESENT
        else:
            settled &= now() - failed_at.setdefault(node.id, now()) >= RETRY_PATIENCE
    return settled


def _show(
    node: Node, status: ImageStatus | None, before: tuple[str, ImageStatus | None] | None, progress: Progress
) -> None:
    if status is None:
        return
    if status.state is ImageState.FETCHING and status.total:
        progress.bar(f"{node.name} fetching", status.have, status.total)
    seen = before[1].state if before and before[1] else ImageState.WAITING
    if status.state is not seen:
        progress.line(f"{node.name}: {status.state.value}" + (f": {status.error}" if status.error else ""))
