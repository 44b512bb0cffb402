"""Watches an order being carried out: each node's way to the instances that its operator wants."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from gridnode.messages import ProcessReport
from gridnode.model import MemberState, NodeId, Process

__all__ = ["Processing", "Settle", "Standing", "standing"]

POLL = 0.1


class Processing(Protocol):
    """A Grid's part in it."""

    async def processes(self, task: str = "") -> list[ProcessReport]: ...


@dataclass(frozen=True, slots=True)
class Standing:
    """How far one node is. state: done, waiting, errored; or the member's, when out of reach. ready of wanted run."""

    node: NodeId
    name: str
    state: str = "waiting"
    ready: int = 0
    wanted: int = 0
    draining: int = 0
    error: str = ""

    @property
    def final(self) -> bool:
        """Whether there is nothing left to wait for."""
        return self.state != "waiting"

    @property
    def reachable(self) -> bool:
        """Whether the order can have reached it."""
        return self.state in ("waiting", "done", "errored")


def standing(report: ProcessReport, sequences: Mapping[str, int], stale: Mapping[str, str]) -> Standing:
    """What a node's report means for orders of these sequences, by task file's name.

    stale: the instances that must go, and what was said of each before.
    """
    if report.state is not MemberState.ALIVE:
        return Standing(report.node, report.name, report.state.value, error=report.error)
    mine = [process for process in report.processes if process.task in sequences]
    slots = [process for process in mine if process.state != "draining"]
    ready = [process for process in slots if process.state == "ready" and process.instance not in stale]
    told = report.error or _unheard(report, sequences)
    if told:
        return Standing(report.node, report.name, "waiting", len(ready), len(slots), error=told)
    failed = next((process for process in slots if _has_failed(process, stale)), None)
    gone = len(mine) == len(slots)
    state = "errored" if failed else "done" if gone and len(ready) == len(slots) else "waiting"
    why = failed.why.strip() if failed else ""
    return Standing(report.node, report.name, state, len(ready), len(slots), len(mine) - len(slots), why)


def _unheard(report: ProcessReport, sequences: Mapping[str, int]) -> str:
    late = [task for task, sequence in sequences.items() if report.orders.get(task, 0) < sequence]
    return f"it has not heard of the order for {', '.join(late[:5])}" if late else ""


def _has_failed(process: Process, stale: Mapping[str, str]) -> bool:
    """Errored; or the old instance serves on because its successor did not come up."""
    given_up = process.instance in stale and process.why not in ("", stale.get(process.instance or "", ""))
    return process.state == "errored" or given_up


class Settle:
    """One order on its way. on_change: called with a Standing whenever it is another."""

    def __init__(
        self,
        grid: Processing,
        sequences: Mapping[str, int],
        on_change: Callable[[Standing], None],
        stale: Mapping[str, str] | None = None,
    ) -> None:
        self._grid = grid
        self._sequences = sequences
        self._on_change = on_change
        self._stale = stale or {}
        self.standings: dict[NodeId, Standing] = {}

    async def run(self) -> None:
        """Until every node within reach has done it, or cannot."""
        while True:
            if await self.poll():
                return
            await asyncio.sleep(POLL)

    async def poll(self) -> bool:
        """Look once; whether there is nothing left to wait for."""
        task = next(iter(self._sequences)) if len(self._sequences) == 1 else ""
        found = [standing(report, self._sequences, self._stale) for report in await self._grid.processes(task)]
        for one in found:
            if self.standings.get(one.node) != one:
                self._on_change(one)
        self.standings = {one.node: one for one in found}
        return all(one.final for one in found)
