"""Asks every node and this machine what is wrong."""

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any, Final

from gridctl.client import Grid
from gridctl.grid_checks import (
    Clock,
    check_clocks,
    check_members,
    check_names,
    check_release,
    check_seeds,
    check_tasks,
    check_versions,
    clock_of,
)
from gridctl.render import Colour, clean, paint
from gridnode.diagnosis import Check, Verdict
from gridnode.errors import GridError
from gridnode.gridfile import Gridfile
from gridnode.model import Address, Member, MemberState

__all__ = ["Findings", "as_fields", "diagnose", "lines"]

MAX_SEEDS: Final = 64
_COLOURS: Final[dict[Verdict, Colour]] = {Verdict.NOTE: "yellow", Verdict.WRONG: "red"}
_MARKS: Final = {Verdict.OK: "ok", Verdict.NOTE: "note", Verdict.WRONG: "wrong"}


@dataclass(slots=True)
class Findings:
    """Checks of the grid as a whole, or of one node. id: the node's, empty for the grid."""

    name: str
    id: str = ""
    checks: list[Check] = field(default_factory=list)

    @property
    def is_well(self) -> bool:
        """Whether nothing is wrong; a note is no wrong."""
        return all(check.verdict is not Verdict.WRONG for check in self.checks)


async def diagnose(gridfile: Gridfile) -> list[Findings]:
    """Of the grid, then of every node that has not left, by name."""
    async with Grid.connect(gridfile) as grid:
        members = [row for row in await grid.nodes() if row.state is not MemberState.LEFT]
        members.sort(key=lambda row: (row.record.name, row.record.id))
        alive = [row for row in members if row.state is MemberState.ALIVE]
        nodes, seeds, release, tasks = await asyncio.gather(
            asyncio.gather(*(_node(grid, member) for member in alive)),
            _seeds(gridfile),
            _release(grid, members),
            _tasks(grid),
        )
    whole = Findings("grid")
    whole.checks += check_members(members, time.time())
    whole.checks += check_seeds(seeds)
    whole.checks += check_clocks({found.name: clock for found, clock in nodes if clock})
    whole.checks += release
    whole.checks += [check_versions(members), check_names(members)]
    whole.checks += tasks
    return [whole, *(found for found, _ in nodes)]


async def _node(grid: Grid, member: Member) -> tuple[Findings, Clock | None]:
    """What the node finds, and its clock."""
    found = Findings(member.record.name, member.record.id)
    asked = time.time_ns()
    try:
        diagnosis = await grid.diagnose(member.record.id)
    except GridError as exc:
        hint = f"`gridctl logs --system --node {member.record.name}`; an older gridnode has no doctor: gridctl upgrade"
        found.checks.append(Check("doctor", Verdict.WRONG, exc.message, hint))
        return found, None
    found.checks += diagnosis.checks
    return found, clock_of(asked, time.time_ns(), diagnosis.now, diagnosis.took)


async def _release(grid: Grid, members: list[Member]) -> list[Check]:
    try:
        return check_release(members, await grid.release())
    except GridError as exc:
        return [_unanswered("release", exc)]


async def _tasks(grid: Grid) -> list[Check]:
    try:
        return check_tasks(await grid.processes())
    except GridError as exc:
        return [_unanswered("tasks", exc)]


def _unanswered(subject: str, error: GridError) -> Check:
    return Check(subject, Verdict.WRONG, error.message, error.hint or "ask another node: --gridfile with other seeds")


async def _seeds(gridfile: Gridfile) -> dict[Address, str]:
    seeds = gridfile.seeds[:MAX_SEEDS]
    return dict(zip(seeds, await asyncio.gather(*(_seed(gridfile, seed) for seed in seeds)), strict=True))


async def _seed(gridfile: Gridfile, seed: Address) -> str:
    """Why a node does not answer this Gridfile's operator there; nothing when one does."""
    try:
        async with Grid.connect(gridfile, [seed], links=1):
            return ""
    except GridError as exc:
        return exc.message.removeprefix(f"no node answered: {seed}: ").removeprefix(f"not let in: {seed}: ")


# -- showing --------------------------------------------------------------------------------------------------------


def lines(found: Findings, every: bool, stream: Any) -> list[str]:
    """For people: a line for the node, and below it what is not well; every: what is well, too."""
    count = len(found.checks)
    notes = [check for check in found.checks if check.verdict is not Verdict.OK]
    told = f"{count} checks, all well" if not notes else f"{count - len(notes)} of {count} checks well"
    shown = [f"{clean(found.name)}: {told}"]
    for check in found.checks if every else notes:
        mark = f"{_MARKS[check.verdict]:5}"
        colour = _COLOURS.get(check.verdict)
        painted = paint(mark, colour, stream) if colour else mark
        shown.append(f"  {painted} {clean(check.subject):9} {_flat(check.said)}")
        if check.hint:
            shown.append(f"        {'':9} {_flat(check.hint)}")
    return shown


def _flat(text: str) -> str:
    """On one line, and safe to print."""
    return clean(" ".join(text.split()))


def as_fields(found: Findings) -> dict[str, Any]:
    """For --json. verdict: ok, note or wrong."""
    checks = [
        {"subject": one.subject, "verdict": one.verdict.value, "said": one.said, "hint": one.hint or None}
        for one in found.checks
    ]
    return {"name": found.name, "id": found.id or None, "ok": found.is_well, "checks": checks}
