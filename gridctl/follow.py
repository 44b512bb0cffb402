"""Watches a release arrive: each node's way from fetching to active or failed."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from gridnode.errors import GridError, LedgerError, TaskFailure
from gridnode.model import Member, MemberState, NodeId, ReleaseReport, ReleaseState, ReleaseStatus

__all__ = ["Arrival", "Follow", "Watched"]

POLL = 0.1
RETRY_PATIENCE = 5.0
"""Seconds a node may stay failed for a reason that can heal, such as a peer that was away, before we give it up."""


class Watched(Protocol):
    """A Grid's part in it."""

    async def nodes(self) -> list[Member]: ...
    async def report(self, node: NodeId) -> ReleaseReport: ...


@dataclass(frozen=True, slots=True)
class Arrival:
    """How far one node is. state: active, failed, fetching, starting, waiting; or the member's, when out of reach.

    have, total: bytes; rate: of them in a second.
    """

    node: NodeId
    name: str
    state: str = "waiting"
    reachable: bool = True
    have: int = 0
    total: int = 0
    error: str = ""
    failures: tuple[TaskFailure, ...] = ()
    final: bool = False
    rate: int = 0


class Follow:
    """One release on its way; root: of which, where known. on_change: called with an Arrival whenever it is another.

    poll: seconds between two looks.
    """

    def __init__(
        self,
        grid: Watched,
        sequence: int,
        on_change: Callable[[Arrival], None],
        now: Callable[[], float] = time.monotonic,
        root: str = "",
        poll: float = POLL,
    ) -> None:
        self._grid = grid
        self._root = root
        self._pause = poll
        self._sequence = sequence
        self._on_change = on_change
        self._now = now
        self._failed_at: dict[NodeId, float] = {}
        self.arrivals: dict[NodeId, Arrival] = {}

    async def run(self) -> Sequence[Arrival]:
        """Until every node within reach is active, or failed for good; LedgerError when a newer release takes over."""
        while True:
            if await self.poll():
                return list(self.arrivals.values())
            await asyncio.sleep(self._pause)

    async def poll(self) -> bool:
        """Look once; whether there is nothing left to wait for."""
        members = [member for member in await self._grid.nodes() if member.state is not MemberState.LEFT]
        for gone in set(self.arrivals) - {member.record.id for member in members}:
            del self.arrivals[gone]
        for member in sorted(members, key=lambda member: member.record.name):
            arrival = await self._arrival(member)
            if self.arrivals.get(arrival.node) != arrival:
                self.arrivals[arrival.node] = arrival
                self._on_change(arrival)
        reachable = [arrival for arrival in self.arrivals.values() if arrival.reachable]
        return all(arrival.final for arrival in reachable)

    async def _arrival(self, member: Member) -> Arrival:
        record, status = member.record, member.record.release
        if member.state is not MemberState.ALIVE:
            return Arrival(record.id, record.name, member.state.value, reachable=False)
        if status is None or status.sequence < self._sequence:
            return Arrival(record.id, record.name)
        if status.sequence > self._sequence or status.root != (self._root or status.root):
            raise LedgerError(
                f"release {status.sequence} took over from this one, {self._sequence}",
                hint="somebody else deployed in the meantime; `gridctl ls` shows what runs",
            )
        if status.state is ReleaseState.FAILED:
            return await self._failed(member, status)
        self._failed_at.pop(record.id, None)
        final = status.state is ReleaseState.ACTIVE
        have, total, rate = status.have, status.total, status.rate
        return Arrival(record.id, record.name, status.state.value, True, have, total, final=final, rate=rate)

    async def _failed(self, member: Member, status: ReleaseStatus) -> Arrival:
        """A task that does not start stays failed; anything else the node tries again."""
        record = member.record
        before = self.arrivals.get(record.id)
        if before and before.final and before.state == ReleaseState.FAILED.value:
            return before
        since = self._failed_at.setdefault(record.id, self._now())
        failures = await self._failures(record.id)
        final = bool(failures) or self._now() - since >= RETRY_PATIENCE
        return Arrival(record.id, record.name, status.state.value, error=status.error, failures=failures, final=final)

    async def _failures(self, node: NodeId) -> tuple[TaskFailure, ...]:
        try:
            report = await self._grid.report(node)
        except GridError:
            return ()
        current = report.status is not None and report.status.sequence == self._sequence
        return report.failures if current else ()
