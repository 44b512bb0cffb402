"""Has every node look through the chunks on its disk, and follows them."""

import asyncio
from dataclasses import dataclass
from typing import Any, Protocol

from gridctl.follow import POLL
from gridctl.render import Progress, size
from gridnode.errors import GridError
from gridnode.messages import ScrubReport
from gridnode.model import Member, MemberState, NodeId

__all__ = ["NodeStore", "as_fields", "check_stores", "lines", "look_at_stores"]

_MISSED = 5
"""Questions in a row that a node may leave without an answer."""


class Asked(Protocol):
    """A Grid's part in it."""

    async def nodes(self) -> list[Member]: ...
    async def scrub(self, node: NodeId, *, start: bool = False) -> ScrubReport: ...


@dataclass(slots=True)
class NodeStore:
    """What one node says of its chunks. error: why it did not."""

    id: NodeId
    name: str
    report: ScrubReport | None = None
    error: str = ""

    @property
    def is_sound(self) -> bool:
        """Whether it says that nothing is missing: what was bad and is back is mended."""
        return self.report is not None and not self.error and not self.report.left


async def look_at_stores(grid: Asked) -> list[NodeStore]:
    """What every node that has not left knows of its chunks, by name; none looks for it."""
    stores = await _all(grid)
    await asyncio.gather(*(_ask(grid, store, start=False) for store in stores))
    return stores


async def check_stores(grid: Asked, timeout: float, progress: Progress) -> list[NodeStore]:
    """As `look_at_stores`, once each has looked through them all and mended what was bad; `timeout` seconds at most."""
    stores = await _all(grid)
    try:
        async with asyncio.timeout(timeout):
            await asyncio.gather(*(_ask(grid, store, start=True) for store in stores))
            waiting = [store for store in stores if _goes_on(store)]
            missed: dict[NodeId, int] = {}
            while waiting:
                progress.bar("checking", *_share(stores))
                await asyncio.sleep(POLL)
                await asyncio.gather(*(_ask(grid, store, start=False) for store in waiting))
                for store in waiting:
                    missed[store.id] = missed.get(store.id, 0) + 1 if store.error else 0
                waiting = [store for store in waiting if _goes_on(store) or 0 < missed[store.id] < _MISSED]
    except TimeoutError:
        for store in stores:
            if _goes_on(store):
                store.error = f"not done within {timeout:g} s; it goes on"
    progress.clear()
    return stores


def lines(store: NodeStore) -> list[str]:
    """For people."""
    report = store.report
    if report is None:
        return [f"{store.name}: {store.error}"]
    checked = (
        f"{report.checked} chunks, {size(report.size)} checked" if report.total else "not checked since it started"
    )
    bad = f"; {report.found} bad, {report.left} of them still missing" if report.found else ""
    found = [f"{store.name}: {checked}{bad}{f'; {store.error}' if store.error else ''}"]
    for chunk in report.bad:
        found.append(f"  {chunk.hash.hex()[:16]} {'fetched again' if chunk.back else 'missing'}: {chunk.why}")
    if report.found > len(report.bad):
        found.append(f"  and {report.found - len(report.bad)} more")
    return found


def as_fields(store: NodeStore) -> dict[str, Any]:
    """For --json."""
    report = store.report or ScrubReport()
    return {
        "id": store.id,
        "name": store.name,
        "ok": store.is_sound,
        "error": store.error,
        "running": report.running,
        "checked": report.checked,
        "total": report.total,
        "size": report.size,
        "found": report.found,
        "missing": report.left,
        "bad": [{"chunk": one.hash.hex(), "why": one.why, "back": one.back} for one in report.bad],
    }


async def _all(grid: Asked) -> list[NodeStore]:
    members = [member for member in await grid.nodes() if member.state is not MemberState.LEFT]
    return [
        NodeStore(member.record.id, member.record.name, error="" if _answers(member) else member.state.value)
        for member in sorted(members, key=lambda member: (member.record.name, member.record.id))
    ]


def _answers(member: Member) -> bool:
    return member.state is MemberState.ALIVE


async def _ask(grid: Asked, store: NodeStore, *, start: bool) -> None:
    if store.error and store.report is None:
        return
    try:
        store.report, store.error = await grid.scrub(store.id, start=start), ""
    except GridError as exc:
        store.error = exc.message


def _goes_on(store: NodeStore) -> bool:
    report = store.report
    return report is not None and not store.error and (report.running or bool(report.left))


def _share(stores: list[NodeStore]) -> tuple[int, int]:
    """Bytes checked, and about how many there are."""
    reports = [store.report for store in stores if store.report]
    done, checked = sum(one.size for one in reports), sum(one.checked for one in reports)
    return done, done * sum(one.total for one in reports) // checked if checked else 0
