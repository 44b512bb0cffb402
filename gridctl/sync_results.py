"""The results of one task for many items, without async: items are read and results given in the caller's thread."""

from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from itertools import islice
from types import TracebackType
from typing import Any, Protocol

from gridctl.results import OnProgress, body_of, length_of, value_of
from gridctl.window import Window
from gridnode.errors import GridError
from gridnode.model import Outcome

__all__ = ["SyncResults"]


class Run(Protocol):
    """Runs a coroutine on the window's loop and waits for its result."""

    def __call__(self, coroutine: Coroutine[Any, Any, Any], /) -> Any: ...


class SyncResults:
    """`for result in results`; leaving the loop early gives up the calls under way. Made by SyncGrid.map.

    later: has something done on the window's loop, and does not wait.
    """

    def __init__(
        self,
        window: Window,
        items: Iterable[Any],
        run: Run,
        later: Callable[[Callable[[], object]], None],
        return_exceptions: bool = False,
        progress: OnProgress | None = None,
    ) -> None:
        self._window = window
        self._items = iter(items)
        self._total = length_of(items)
        self._run = run
        self._later = later
        self._return_exceptions = return_exceptions
        self._progress = progress
        self._here: deque[Outcome] = deque()
        self._given = 0
        self._room = window.room
        self._exhausted = False
        self._error: Exception | None = None
        self._closed = False

    def __iter__(self) -> "SyncResults":
        return self

    def __next__(self) -> Any:
        while not self._here:
            if self._closed:
                raise StopIteration
            self._exchange()
        self._given += 1
        value = value_of(self._here.popleft())
        if self._progress:
            self._progress(self._given, self._total)
        if isinstance(value, GridError) and not self._return_exceptions:
            self.close()
            raise value
        return value

    def __enter__(self) -> "SyncResults":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give up the calls under way and read no more items; doing it twice does nothing."""
        self._here.clear()
        if not self._closed:
            self._closed = True
            self._later(self._window.close)

    def __del__(self) -> None:
        if hasattr(self, "_closed"):
            self.close()

    def _exchange(self) -> None:
        """Hand in as many items as there is room for, wait for outcomes, and take all that are there."""
        bodies = self._bodies()
        outcomes, self._room, empty = self._run(_exchange(self._window, bodies))
        self._here.extend(outcomes)
        if self._exhausted and empty and not self._here:
            self._closed = True
            if self._error:
                raise self._error

    def _bodies(self) -> list[bytes | GridError]:
        bodies: list[bytes | GridError] = []
        if self._exhausted:
            return bodies
        try:
            for item in islice(self._items, self._room):
                bodies.append(body_of(item))
        except Exception as exc:
            self._error = exc
        self._exhausted = len(bodies) < self._room
        return bodies


async def _exchange(window: Window, bodies: list[bytes | GridError]) -> tuple[list[Outcome], int, bool]:
    """Bodies in; the outcomes that are there, at least one unless nothing is under way, the room and whether empty."""
    for body in bodies:
        window.put(body)
    if not window.empty:
        await window.wait()
    outcomes = window.take()
    return outcomes, window.room, window.empty
