"""Things that other threads hand to an event loop, which is woken once for many."""

import asyncio
from collections import deque
from collections.abc import Callable

__all__ = ["Handover"]


class Handover:
    """`put` from any thread; what was put runs on the loop, in order, and must not raise."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: deque[Callable[[], object]] = deque()
        self._woken = False

    def put(self, action: Callable[[], object]) -> None:
        """RuntimeError once the loop is closed."""
        self._waiting.append(action)
        if not self._woken:
            self._woken = True
            self._loop.call_soon_threadsafe(self._run)

    def _run(self) -> None:
        self._woken = False  # first: what comes from now on wakes the loop again
        while self._waiting:
            self._waiting.popleft()()
