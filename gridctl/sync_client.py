"""The SDK for code that is not async: a Grid on an event loop in a thread of its own."""

import asyncio
import threading
from collections.abc import Coroutine, Iterable
from types import TracebackType
from typing import Any, TypeVar

from gridctl.client import Grid, Gridfiles
from gridnode.errors import LinkClosed
from gridnode.model import Address, Member, Outcome, Release

__all__ = ["SyncGrid"]

T = TypeVar("T")


class SyncGrid:
    """As Grid, blocking, from any thread. Connects at once; `close` it, or use it in a `with`."""

    def __init__(self, gridfile: Gridfiles = None, addresses: Iterable[Address | str] = ()) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="grid", daemon=True)
        self._thread.start()
        try:
            self._grid = self._run(_connected(gridfile, addresses))
        except BaseException:
            self._stop()
            raise

    def invoke(self, task: str, argument: Any = None, *, timeout: float | None = None, node: str = "") -> Any:
        """The task's result; see Grid.invoke."""
        return self._run(self._grid.invoke(task, argument, timeout=timeout, node=node))

    def call(self, task: str, argument: Any = None, *, timeout: float | None = None, node: str = "") -> Outcome:
        """The whole Outcome; see Grid.call."""
        return self._run(self._grid.call(task, argument, timeout=timeout, node=node))

    def nodes(self) -> list[Member]:
        """Every node; see Grid.nodes."""
        return self._run(self._grid.nodes())

    def release(self) -> Release | None:
        """The grid's current release; see Grid.release."""
        return self._run(self._grid.release())

    def close(self) -> None:
        """Close the link and end the thread; calling it twice does nothing."""
        if not self._loop.is_closed():
            self._run(self._grid.close())
            self._stop()

    def __enter__(self) -> "SyncGrid":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        if self._loop.is_closed():
            coroutine.close()
            raise LinkClosed("this grid was closed")
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        finally:
            future.cancel()

    def _stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _connected(gridfile: Gridfiles, addresses: Iterable[Address | str]) -> Grid:
    return await Grid.connect(gridfile, addresses)
