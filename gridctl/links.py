"""The links of one client: to a few nodes of the grid, mended when they break."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress

from gridctl.connect import ClientEnd
from gridnode import messages
from gridnode.errors import GridError, LinkClosed
from gridnode.link.protocol import Link
from gridnode.model import Address, MemberState, NodeId
from gridnode.wire import Op

__all__ = ["Dial", "Lane", "Links"]

Dial = Callable[[Sequence[Address]], Awaitable[tuple[Link, ClientEnd]]]
"""Opens a link to whichever of the addresses answers first; raises a GridError."""

_FIRST_WAIT = 0.05
_LONGEST_WAIT = 5.0
_LEARN_TIMEOUT = 3.0
_LEAVE = 0.5
_IDLE_LOOK = 0.02
"""Seconds between looks at whether a link whose node is going has calls left."""


class Lane:
    """One open link and the calls on it. calls: how many are under way."""

    __slots__ = ("calls", "end", "link")

    def __init__(self, link: Link, end: ClientEnd) -> None:
        self.link = link
        self.end = end
        self.calls = 0


class Links:
    """Up to `count` links, each to another node. The first comes open; the others are dialled when `spread` is called.

    dial: None for links that are not dialled again. on_open: called whenever a link has come.
    on_closed: awaited in the end, when all links are closed.
    """

    def __init__(
        self,
        first: tuple[Link, ClientEnd],
        dial: Dial | None,
        addresses: Sequence[Address],
        count: int,
        on_closed: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self.lanes: list[Lane] = []
        self._parted: set[Lane] = set()
        self.on_open: Callable[[], None] = lambda: None
        self.error: GridError = LinkClosed("this connection was closed")
        self._dial = dial
        self._on_closed = on_closed
        self._seeds = list(addresses)
        self._learnt: list[Address] = []
        self._count = count if dial else 1
        self._turn = 0
        self._wanted = 1
        self._closed = False
        self._job: asyncio.Task[None] | None = None
        self._up = asyncio.Event()
        self._add(*first)

    @property
    def hopeless(self) -> bool:
        """No link is open and none will come."""
        return self._closed or (self._dial is None and not any(lane.link.is_open for lane in self.lanes))

    @property
    def main(self) -> Lane:
        """The oldest open link, for all but calls; raises LinkClosed while there is none."""
        for lane in self.lanes:
            if lane.link.is_open:
                return lane
        raise self.error

    async def ready(self, timeout: float) -> Lane:
        """As `main`, waiting for a link to come back, for so many seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while not self.hopeless and not any(lane.link.is_open for lane in self.lanes):
                    self._up.clear()
                    await self._up.wait()
        return self.main

    def best(self, avoid: Collection[Lane] = ()) -> Lane | None:
        """The open link with the fewest calls, in turn among equals; None without one."""
        lanes = self.lanes
        if len(lanes) == 1:
            lane = lanes[0]
            return lane if lane.link.is_open and lane not in avoid else None
        self._turn += 1
        chosen = None
        for at in range(len(lanes)):
            lane = lanes[(self._turn + at) % len(lanes)]
            if lane.link.is_open and lane not in avoid and (chosen is None or lane.calls < chosen.calls):
                chosen = lane
        return chosen

    def spread(self) -> None:
        """There is enough to do for more links than one."""
        if self._wanted < self._count and not self._closed:
            self._wanted = self._count
            self._mend()

    async def close(self) -> None:
        """Close them all; those that do not end in time are cut."""
        self._closed = True
        if self._job:
            self._job.cancel()
            await asyncio.wait([self._job])
        lanes = [*self.lanes, *self._parted]
        for lane in lanes:
            lane.link.close()
        closing = [asyncio.ensure_future(lane.link.wait_closed()) for lane in lanes]
        if closing:
            _, late = await asyncio.wait(closing, timeout=_LEAVE)
            for job in late:
                job.cancel()
            for lane in lanes:
                lane.link.abort(LinkClosed("closed"))
        if self._on_closed:
            await self._on_closed()
        self._up.set()

    # -- inside -----------------------------------------------------------------------------------------------------

    def _add(self, link: Link, end: ClientEnd) -> None:
        lane = Lane(link, end)
        end.on_closed = lambda error: self._lost(lane, error)
        end.on_leave = lambda: self._part(lane)
        self.lanes.append(lane)
        self._up.set()
        self.on_open()

    def _part(self, lane: Lane) -> None:
        """Its node is going: no more calls over it, and it ends when those under way have."""
        if lane in self.lanes and self._dial and not self._closed:
            self.lanes.remove(lane)
            self._parted.add(lane)
            self._mend()
            self._end_idle(lane)

    def _end_idle(self, lane: Lane) -> None:
        if lane.link.busy:
            asyncio.get_running_loop().call_later(_IDLE_LOOK, self._end_idle, lane)
        else:
            lane.link.close()

    def _lost(self, lane: Lane, error: GridError | None) -> None:
        self._parted.discard(lane)
        if lane in self.lanes:
            self.lanes.remove(lane)
        if not self._closed:
            self.error = LinkClosed(f"lost the node: {error.message}") if error else self.error
            self._mend()
        self._up.set()

    def _mend(self) -> None:
        if self._dial and not self._closed and (self._job is None or self._job.done()):
            self._job = asyncio.get_running_loop().create_task(self._run(self._dial), name="links")

    async def _run(self, dial: Dial) -> None:
        """Until as many links as wanted are open, or every node that can be reached has one."""
        wait = _FIRST_WAIT
        while not self.lanes:
            try:
                self._take(*await dial(self._addresses()))
            except GridError as exc:
                self.error = exc
                await asyncio.sleep(wait * random.uniform(0.5, 1.0))
                wait = min(wait * 2, _LONGEST_WAIT)
        if len(self.lanes) < self._wanted:
            await self._learn()
        for address in self._addresses():
            if len(self.lanes) >= self._wanted:
                return
            if address not in [lane.link.address for lane in self.lanes]:
                with suppress(GridError):
                    self._take(*await dial([address]))

    def _take(self, link: Link, end: ClientEnd) -> None:
        """Keep a link unless it leads to where another one does."""
        if not link.is_open:
            return
        if end.record and end.record.id in self._nodes():
            link.close()
        else:
            self._add(link, end)

    def _nodes(self) -> set[NodeId]:
        return {lane.end.record.id for lane in self.lanes if lane.end.record}

    async def _learn(self) -> None:
        """Where the other nodes listen, as the one we are linked to knows it."""
        try:
            body = await self.main.link.request(Op.NODES, timeout=_LEARN_TIMEOUT)
            members = messages.decode_members(body)
        except (GridError, TimeoutError):
            return
        alive = [member.record for member in members if member.state is MemberState.ALIVE]
        linked = self._nodes()
        self._learnt = [address for record in alive if record.id not in linked for address in record.addresses[:2]]

    def _addresses(self) -> list[Address]:
        """All that are known, the Gridfile's first, in an order of this client's own: clients spread too."""
        learnt = [address for address in self._learnt if address not in self._seeds][:64]
        return random.sample(self._seeds, len(self._seeds)) + random.sample(learnt, len(learnt))
