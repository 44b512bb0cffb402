"""The results of one task for many items, as they come."""

import asyncio
from collections import deque
from collections.abc import AsyncIterable, Callable, Iterable, Iterator, Sized
from itertools import islice
from types import TracebackType
from typing import Any

from gridctl.json_values import decode_result, encode_argument
from gridctl.outcomes import raised
from gridctl.window import Window
from gridnode.errors import BodyInvalid, GridError
from gridnode.model import Outcome

__all__ = ["DEFAULT_CONCURRENCY", "OnProgress", "Results", "body_of", "length_of", "value_of"]

DEFAULT_CONCURRENCY = 64

OnProgress = Callable[[int, int | None], None]
"""Called with how many results have come, and how many there will be, or None when nobody knows."""


class _Source:
    """Where items come from. error: what reading them raised."""

    def __init__(self) -> None:
        self.exhausted = False
        self.error: BaseException | None = None


class Results:
    """`async for result in results`; leaving the loop early gives up the calls under way. Made by Grid.map.

    `async with` it, or `aclose` it, to be sure of that at once also where something else still holds it.
    """

    def __init__(
        self,
        window: Window,
        items: Iterable[Any] | AsyncIterable[Any],
        return_exceptions: bool = False,
        progress: OnProgress | None = None,
    ) -> None:
        self._window = window
        self._source = _Source()
        self._feed = items if isinstance(items, AsyncIterable) else None
        self._items = iter(()) if isinstance(items, AsyncIterable) else iter(items)
        self._total = length_of(items)
        self._return_exceptions = return_exceptions
        self._progress = progress
        self._here: deque[Outcome] = deque()
        self._given = 0
        self._feeder: asyncio.Task[None] | None = None

    def __aiter__(self) -> "Results":
        return self

    async def __anext__(self) -> Any:
        if not self._here:
            await self._take()
        self._given += 1
        value = value_of(self._here.popleft())
        if self._progress:
            self._progress(self._given, self._total)
        if isinstance(value, GridError) and not self._return_exceptions:
            await self.aclose()
            raise raised(value)
        return value

    async def __aenter__(self) -> "Results":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Give up the calls under way and read no more items; doing it twice does nothing."""
        self._source.exhausted = True
        self._here.clear()
        self._window.close()
        if self._feeder and not self._feeder.done():
            self._feeder.cancel()
            await asyncio.wait([self._feeder])

    def __del__(self) -> None:
        if hasattr(self, "_feeder"):  # a loop over it that was left
            self._window.close()
            if self._feeder and not self._feeder.done() and not self._feeder.get_loop().is_closed():
                self._feeder.cancel()

    async def _take(self) -> None:
        """Wait until outcomes are there; StopAsyncIteration when none will come, or what reading the items raised."""
        source, window = self._source, self._window
        while True:
            self._fill()
            self._here.extend(window.take())
            if self._here:
                self._fill()
                return
            if source.exhausted and window.empty:
                error, source.error = source.error, None
                raise error or StopAsyncIteration
            await window.wait()

    def _fill(self) -> None:
        """Items into the window, as many as it takes."""
        if self._source.exhausted:
            return
        if self._feed is None:
            fill(self._window, self._items, self._source)
        elif self._feeder is None:
            feeding = _pump(self._feed, self._window, self._source)
            self._feeder = asyncio.get_running_loop().create_task(feeding, name="items")


def fill(window: Window, items: Iterator[Any], source: _Source) -> None:
    """Items into the window while it has room, and how that went into the source."""
    room = window.room
    try:
        for item in islice(items, room):
            window.put(body_of(item))
            room -= 1
    except Exception as exc:
        source.error = exc
    source.exhausted = room > 0


async def _pump(items: AsyncIterable[Any], window: Window, source: _Source) -> None:
    """The same for items that are waited for. A function of its own: it must not keep the Results alive."""
    try:
        async for item in items:
            window.put(body_of(item))
            await window.wait_for_room()
    except Exception as exc:
        source.error = exc
    source.exhausted = True
    window.ring()


def body_of(item: Any) -> bytes | GridError:
    """The item as a call's body, or why it cannot be one."""
    try:
        return encode_argument(item)
    except BodyInvalid as exc:
        return exc


def value_of(outcome: Outcome) -> Any:
    """The result, or the error in its place."""
    if outcome.error:
        return raised(outcome.error)
    try:
        return decode_result(outcome.body)
    except BodyInvalid as exc:
        return exc


def length_of(items: object) -> int | None:
    """How many there are, if that can be told."""
    return len(items) if isinstance(items, Sized) else None
