"""Many calls of one task side by side: bodies in, outcomes out, so many at a time and no more in memory."""

import asyncio
import random
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Protocol

from gridnode.errors import GridError, NoCapacity, UsageError
from gridnode.model import Outcome

__all__ = ["MAX_CONCURRENCY", "Window"]

MAX_CONCURRENCY = 1024
"""Calls a node takes on one link."""
_PATIENCE = 30.0
_FIRST_WAIT = 0.02
_LONGEST_WAIT = 1.0
_LET_IN = 5.0
"""Seconds after which a call that was not refused is in a task, or in a queue that it will get through."""


class Cancellable(Protocol):
    def cancel(self) -> None: ...


Start = Callable[[bytes, Callable[[Outcome], None]], Cancellable]
"""Starts a call with a body; its Outcome comes later, never at once."""


class Window:
    """`concurrency` calls under way; as many again wait to start, or are over and wait to be taken.

    ordered: outcomes come in the order in which their bodies were put, else as the calls end.
    patient: what is refused for want of room is sent again, until no call of the window has got anywhere for 30 s.
    """

    def __init__(self, start: Start, concurrency: int, ordered: bool = True, patient: bool = True) -> None:
        if not 0 < concurrency <= MAX_CONCURRENCY:
            hint = f"1 to {MAX_CONCURRENCY} calls at a time"
            raise UsageError(f"a concurrency of {concurrency} makes no sense", hint=hint)
        self._start = start
        self._loop = asyncio.get_running_loop()
        self._concurrency = concurrency
        self._ordered = ordered
        self._patience = _PATIENCE if patient else 0.0
        self._moved = self._loop.time()
        self._put = 0
        self._taken = 0
        self._free = concurrency
        self._queue: deque[tuple[int, bytes]] = deque()
        self._calls: dict[int, tuple[float, Cancellable]] = {}
        self._timers: dict[int, asyncio.TimerHandle] = {}
        self._over: dict[int, Outcome] = {}
        self._closed = False
        self._bell: asyncio.Future[None] | None = None
        self._space: asyncio.Future[None] | None = None

    @property
    def room(self) -> int:
        """How many more may be put now."""
        return 2 * self._concurrency - (self._put - self._taken)

    @property
    def empty(self) -> bool:
        """All that was put has been taken, or nothing more will be."""
        return self._closed or self._put == self._taken

    def put(self, body: bytes | GridError) -> None:
        """One more call; an error in place of a body is its outcome."""
        number = self._put
        self._put += 1
        if isinstance(body, GridError):
            self._finish(number, Outcome(error=body, started=False, attempts=0))
        elif self._free:
            self._free -= 1
            self._go(number, body)
        else:
            self._queue.append((number, body))

    def take(self) -> list[Outcome]:
        """The outcomes that are there; in order, those whose turn it is."""
        if not self._ordered:
            found = list(self._over.values())
            self._over.clear()
        else:
            found, at, over = [], self._taken, self._over
            while at in over:
                found.append(over.pop(at))
                at += 1
        self._taken += len(found)
        _ring(self._space)
        return found

    async def wait(self) -> None:
        """Until `take` has something, or somebody rings."""
        if not self._is_ready():
            self._bell = self._loop.create_future()
            await self._bell

    async def wait_for_room(self) -> None:
        """Until more may be put."""
        while self.room <= 0 and not self._closed:
            self._space = self._loop.create_future()
            await self._space

    def ring(self) -> None:
        """End a wait for something to take."""
        _ring(self._bell)

    def close(self) -> None:
        """Give up what is under way; closing it twice does nothing."""
        self._closed = True
        self._queue.clear()
        for timer in self._timers.values():
            timer.cancel()
        calls, self._calls = self._calls, {}
        for _, call in calls.values():
            call.cancel()
        self.ring()
        _ring(self._space)

    # -- inside -----------------------------------------------------------------------------------------------------

    def _is_ready(self) -> bool:
        return self._taken in self._over if self._ordered else bool(self._over)

    def _go(self, number: int, body: bytes, wait: float = _FIRST_WAIT) -> None:
        self._timers.pop(number, None)
        try:
            self._calls[number] = self._loop.time(), self._start(body, partial(self._ended, number, body, wait))
        except GridError as exc:
            self._release()
            self._finish(number, Outcome(error=exc, started=False, attempts=0))

    def _ended(self, number: int, body: bytes, wait: float, outcome: Outcome) -> None:
        self._calls.pop(number, None)
        if self._closed:
            return
        now = self._loop.time()
        if not (outcome.error and isinstance(outcome.error, NoCapacity) and not outcome.started):
            self._moved = now
        elif now - self._moved < self._patience or self._is_under_way(now):
            delay = wait * random.uniform(0.5, 1.0)
            again = partial(self._go, number, body, min(2 * wait, _LONGEST_WAIT))
            self._timers[number] = self._loop.call_later(delay, again)
            return
        self._release()
        self._finish(number, outcome)

    def _is_under_way(self, now: float) -> bool:
        """Whether some call was let in, and has not ended yet."""
        return any(now - sent > _LET_IN for sent, _ in self._calls.values())

    def _release(self) -> None:
        """A call is over: the next one starts."""
        if self._queue:
            number, body = self._queue.popleft()
            self._go(number, body)
        else:
            self._free += 1

    def _finish(self, number: int, outcome: Outcome) -> None:
        self._over[number] = outcome
        if self._bell and self._is_ready():
            _ring(self._bell)


def _ring(bell: "asyncio.Future[None] | None") -> None:
    if bell and not bell.done():
        bell.set_result(None)
