"""Turns at the uplink: few uploads at once, so that each is quick; what was given least often goes first."""

import asyncio
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from gridnode.errors import NoCapacity
from gridnode.model import NodeId

__all__ = ["Turns"]

_MAX_COUNTED = 65_536


@dataclass(eq=False, slots=True)
class _Waiting:
    peer: NodeId
    what: Hashable
    begun: asyncio.Future[None]


class Turns:
    """at_once: uploads under way; per_peer: of one peer, and max_waiting those that wait.

    Of equals the peer that has the fewest goes first, then the one that waits longest. After every `patient` turns the
    one that has waited longest of all is served, so that none waits for ever.
    """

    def __init__(self, at_once: int = 3, per_peer: int = 4, max_waiting: int = 64, patient: int = 8) -> None:
        self._at_once = at_once
        self._per_peer = per_peer
        self._max_waiting = max_waiting
        self._patient = patient
        self._begun = 0
        self._running: Counter[NodeId] = Counter()
        self._waiting: list[_Waiting] = []
        self._given: OrderedDict[Hashable, int] = OrderedDict()

    @asynccontextmanager
    async def turn(self, peer: NodeId, what: Hashable) -> AsyncIterator[None]:
        """Wait for one; NoCapacity when the peer has too many waiting."""
        if sum(one.peer == peer for one in self._waiting) >= self._max_waiting:
            raise NoCapacity(f"more than {self._max_waiting} uploads to one peer are waiting")
        one = _Waiting(peer, what, asyncio.get_running_loop().create_future())
        self._waiting.append(one)
        self._begin()
        try:
            await one.begun
            yield
        finally:
            if one in self._waiting:
                self._waiting.remove(one)
            else:
                self._running -= Counter([peer])
            self._begin()

    def _begin(self) -> None:
        """Start as many as may run."""
        while self._running.total() < self._at_once:
            ready = [one for one in self._waiting if self._running[one.peer] < self._per_peer]
            if not ready:
                return
            self._begun += 1
            first = ready[0] if self._begun % self._patient == 0 else min(ready, key=self._rank)
            self._waiting.remove(first)
            self._running[first.peer] += 1
            self._note(first.what)
            if not first.begun.done():
                first.begun.set_result(None)

    def _rank(self, one: _Waiting) -> tuple[int, int]:
        return self._given.get(one.what, 0), self._running[one.peer]

    def _note(self, what: Hashable) -> None:
        self._given[what] = self._given.get(what, 0) + 1
        self._given.move_to_end(what)
        if len(self._given) > _MAX_COUNTED:
            self._given.popitem(last=False)
