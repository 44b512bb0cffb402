"""How long a question takes to each peer and back."""

import asyncio
import time
from collections.abc import Callable
from typing import Final

from gridnode import messages
from gridnode.diagnosis import RoundTrip, decode_count
from gridnode.errors import GridError
from gridnode.link.protocol import Link
from gridnode.model import Member, MemberState, NodeId
from gridnode.wire import Frame, Op

__all__ = ["RoundTrips", "pong"]

PATIENCE: Final = 1.0
"""Seconds for one of them."""
_AT_ONCE: Final = 4
LONGEST: Final = 4.0
"""Seconds for all to one peer."""


async def pong(frame: Frame) -> bytes:
    """PING: the answer that is nothing."""
    return b""


class RoundTrips:
    """me: this node; members: itself included; peer: the open link to another, or None."""

    def __init__(self, me: NodeId, members: Callable[[], list[Member]], peer: Callable[[NodeId], Link | None]) -> None:
        self._me = me
        self._members = members
        self._peer = peer
        self._turns = asyncio.Semaphore(_AT_ONCE)

    async def answer(self, frame: Frame) -> bytes:
        """ROUND_TRIPS: to every peer that has not left, side by side, as many as the body says."""
        count = decode_count(frame.body)
        peers = [row for row in self._members() if row.record.id != self._me and row.state is not MemberState.LEFT]
        async with self._turns:
            return messages.encode(await asyncio.gather(*(self._to(row, count) for row in peers)))

    async def _to(self, member: Member, count: int) -> RoundTrip:
        record, clock = member.record, time.perf_counter  # the loop's own clock counts milliseconds
        link = self._peer(record.id)
        if link is None or not link.is_open:
            return RoundTrip(record.id, record.name, error=f"not linked: {member.state.value}")
        times: list[int] = []
        error, end = "", clock() + LONGEST
        while len(times) < count and clock() < end and not error:
            began = clock()
            try:
                await link.request(Op.PING, timeout=PATIENCE)
            except TimeoutError:
                error = f"no answer within {PATIENCE:g} s"
            except GridError as exc:
                error = exc.message
            else:
                times.append(int((clock() - began) * 1e6))
        return RoundTrip(record.id, record.name, tuple(times), error)
