"""One image on its way to every node: what was sent, who has it, and how that is told."""

import asyncio
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from gridctl.author import author
from gridctl.client import Grid
from gridctl.failure import OK, PARTIAL, exit_code
from gridctl.image_arrival import ImageArrival, Node, follow_image
from gridctl.render import Progress, percent, size
from gridctl.saved_image import SavedImage
from gridctl.upload import Sent, upload
from gridnode.errors import CallTimeout
from gridnode.gridfile import Gridfile
from gridnode.model import Image, ImageState, ImageStatus, NodeId

__all__ = ["Push", "as_fields", "error_text", "node_rows", "push", "report", "state_text", "verdict"]


@dataclass(slots=True)
class Push:
    """What one push did. changed: whether the grid had another image by this name, or none."""

    name: str
    image: Image
    changed: bool
    arrival: ImageArrival
    sent: Sent = field(default_factory=Sent)
    deduplicated: int = 0


async def push(gridfile: Gridfile, name: str, saved: SavedImage, timeout: float, progress: Progress) -> Push:
    """Send what the grid lacks of the image, name it in the ledger, and watch it arrive; `timeout` seconds in all."""
    started = time.monotonic()
    async with Grid.connect(gridfile) as grid:
        held, sequence = (await grid.images()).get(name, (None, 0))
        image = Image(saved.id, saved.manifest, saved.tree.root, saved.size, int(time.time()), author())
        changed = held is None or (held.id, held.root) != (image.id, image.root)
        done = Push(name, image, changed, ImageArrival(name, image.id))
        try:
            async with asyncio.timeout(timeout):
                done.sent = await upload(
                    grid,
                    saved.chunks,
                    saved.read_chunk,
                    lambda sent: progress.bar("sending", sent.content, sent.total),
                )
                done.deduplicated = sum(saved.chunks.values()) - done.sent.content
                if changed:
                    await grid.put_image(name, image, sequence + 1)
        except TimeoutError as exc:
            raise CallTimeout(f"the image was not sent within {timeout:g} s") from exc
        progress.line(f"sent {size(done.sent.payload)}, {size(done.deduplicated)} deduplicated")
        await follow_image(grid, done.arrival, timeout - (time.monotonic() - started), progress)
    return done


def verdict(arrival: ImageArrival) -> int:
    """0 when every node within reach has it, 3 when some do, 1 when none does, 124 when time ran out."""
    if arrival.late:
        return exit_code(CallTimeout(""))
    present = arrival.count(ImageState.PRESENT)
    if present == len(arrival.nodes):
        return OK
    return PARTIAL if present else 1


def report(done: Push, progress: Progress) -> None:
    """What people should know at the end."""
    for name, why in done.arrival.away.items():
        progress.line(f"warning: {name} is out of reach ({why}); it will catch up when it is back", "yellow")
    for name, status in done.arrival.nodes.values():
        if status is None or status.state is not ImageState.PRESENT:
            progress.line(f"{name} does not have it: {state_text(status)}", "red")
    there = [name for name, status in done.arrival.nodes.values() if status and status.state is ImageState.PRESENT]
    summary = f"{done.name} {done.image.id[:12]} is on {', '.join(there) or 'no node'}"
    progress.line(summary, "green" if verdict(done.arrival) == OK else "red")


def as_fields(done: Push) -> dict[str, Any]:
    """As `--json` prints it; sizes in bytes."""
    return {
        "name": done.name,
        "id": done.image.id,
        "size": done.image.size,
        "changed": done.changed,
        "sent": done.sent.payload,
        "deduplicated": done.deduplicated,
        "nodes": [_node_fields(node, name, status) for node, (name, status) in done.arrival.nodes.items()],
    }


def _node_fields(node: NodeId, name: str, status: ImageStatus | None) -> dict[str, Any]:
    state = status.state if status else ImageState.WAITING
    return {"id": node, "name": name, "state": state.value, "error": error_text(status)}


def node_rows(name: str, about: tuple[str, ...], nodes: Iterable[Node]) -> Iterator[tuple[str, ...]]:
    """One line for every node, with how far it is; `about` stands in the first alone."""
    for node in nodes:
        yield (*about, node.name, node.error or state_text(node.status(name)))
        about = ("",) * len(about)


def state_text(status: ImageStatus | None) -> str:
    """`present`, `fetching 40%`, `failed: ...`."""
    if status is None:
        return "-"
    far = percent(status.have, status.total) if status.state is ImageState.FETCHING else ""
    return f"{status.state.value} {far}".strip() + (f": {status.error}" if status.error else "")


def error_text(status: ImageStatus | None) -> str | None:
    """What went wrong there, if anything did."""
    return status.error or None if status else None
