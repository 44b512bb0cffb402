"""The end of a stream: items that have come and wait for the one who reads them, within what it allowed."""

import asyncio
from collections import deque
from typing import Generic, TypeVar

from gridnode.flow import FIRST_ITEMS, FIRST_SIZE, Meter, Stream

__all__ = ["Reader"]

T = TypeVar("T")


class Reader(Generic[T]):
    """Give `stream` to a call, and `end` it with what became of the call; `next` allows more as items are taken.

    items, size: what may be under way and wait here. outcome: the end, once it has come.
    """

    def __init__(self, items: int = FIRST_ITEMS, size: int = FIRST_SIZE) -> None:
        self.stream = Stream(self._take)
        self.outcome: T | None = None
        self._meter = Meter(items, size)
        self._waiting: deque[bytes] = deque()
        self._bell = asyncio.Event()
        self._closed = False

    def _take(self, item: bytes) -> None:
        if not self._closed and self.outcome is None:
            self._waiting.append(item)
            self._bell.set()

    def end(self, outcome: T) -> None:
        """No item comes any more."""
        if self.outcome is None:
            self.outcome = outcome
            self._bell.set()

    def close(self) -> None:
        """Nobody reads any more."""
        self._closed = True
        self._waiting.clear()

    @property
    def has_items(self) -> bool:
        """Whether `next` has one at once."""
        return bool(self._waiting)

    async def next(self) -> bytes | None:
        """The next item, JSON; None at the end."""
        while not self._waiting:
            if self.outcome is not None:
                return None
            self._bell.clear()
            await self._bell.wait()
        item = self._waiting.popleft()
        credit = self._meter.took(len(item)) if self.outcome is None else None
        if credit:
            self.stream.allow(credit)
        return item
