"""The SDK for code that is not async: a Grid on an event loop in a thread of its own."""

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable, Coroutine, Generator, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

import uvloop

from gridctl.calls import Call
from gridctl.client import Grid, encode_argument
from gridctl.connecting import Gridfiles, Places
from gridctl.handover import Handover
from gridctl.item_stream import ItemStream
from gridctl.node_answers import NodeAnswer
from gridctl.outcomes import result_of
from gridctl.results import DEFAULT_CONCURRENCY, OnProgress
from gridctl.subscription import Event, Subscription
from gridctl.sync_results import SyncResults
from gridnode.errors import GridError, LinkClosed
from gridnode.model import Member, Outcome, Release

if TYPE_CHECKING:
    from gridctl.executor import GridExecutor

__all__ = ["SyncGrid"]

T = TypeVar("T")


class SyncGrid:
    """As Grid, blocking, from any thread. Connects at once; `close` it, or use it in a `with`.

    >>> import gridctl
    >>> with gridctl.Grid.open() as grid:
    ...     print(grid.invoke("words.longest", "to be or not"))
    ...     print(list(grid.map("echo", range(5))))
    ...     future = grid.submit("echo", "later")
    ...     print(future.result())
    not
    [0, 1, 2, 3, 4]
    later
    """

    def __init__(self, gridfile: Gridfiles = None, addresses: Places = (), *, links: int = 3) -> None:
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="grid", daemon=True)
        self._thread.start()
        self._handover = Handover(self._loop)
        try:
            self._grid = self._run(_connected(gridfile, addresses, links))
        except BaseException:
            self._stop()
            raise

    # -- calls ------------------------------------------------------------------------------------------------------

    def invoke(
        self,
        task: str,
        argument: Any = None,
        *,
        timeout: float | None = None,
        node: str = "",
        idempotency_key: str = "",
    ) -> Any:
        """The task's result; see Grid.invoke."""
        return result_of(self.call(task, argument, timeout=timeout, node=node, idempotency_key=idempotency_key))

    def call(
        self,
        task: str,
        argument: Any = None,
        *,
        timeout: float | None = None,
        node: str = "",
        idempotency_key: str = "",
    ) -> Outcome:
        """The whole Outcome; see Grid.call."""
        future = self._start(_as_it_is, task, argument, timeout, node, idempotency_key)
        try:
            outcome: Outcome = future.result()
            return outcome
        finally:
            future.cancel()

    def submit(
        self,
        task: str,
        argument: Any = None,
        *,
        timeout: float | None = None,
        node: str = "",
        idempotency_key: str = "",
    ) -> "concurrent.futures.Future[Any]":
        """Sent at once: a future of the result. Cancelling it gives the call up; see Grid.submit."""
        return self._start(result_of, task, argument, timeout, node, idempotency_key)

    def map(
        self,
        task: str,
        items: Iterable[Any],
        *,
        concurrency: int = DEFAULT_CONCURRENCY,
        ordered: bool = True,
        timeout: float | None = None,
        return_exceptions: bool = False,
        progress: OnProgress | None = None,
    ) -> SyncResults:
        """`for result in grid.map("words", texts)`; the items are read in your thread. See Grid.map."""
        window = self._run(_made(lambda: self._grid.window(task, concurrency, ordered, timeout)))
        return SyncResults(window, items, self._run, self._later, return_exceptions, progress)

    def stream(
        self, task: str, argument: Any = None, *, timeout: float | None = None, node: str = ""
    ) -> Generator[Any, None, None]:
        """`for item in grid.stream("words.each", text)`: what the task yields, as it does; see Grid.stream."""
        made = self._run(_made(lambda: self._grid.stream(task, argument, timeout=timeout, node=node)))
        return self._items(made)

    def broadcast(
        self, task: str, argument: Any = None, *, timeout: float | None = None
    ) -> Generator[NodeAnswer, None, None]:
        """`for answer in grid.broadcast("whoami")`: what each node answers, as it comes; see Grid.broadcast."""
        return self._items(self._run(_made(lambda: self._grid.broadcast(task, argument, timeout=timeout))))

    def _items(self, stream: ItemStream[T]) -> Generator[T, None, None]:
        try:
            while found := self._run(stream.take()):
                yield found[0]
        finally:
            self._later(stream.close)

    def executor(self, concurrency: int = DEFAULT_CONCURRENCY, *, timeout: float | None = None) -> "GridExecutor":
        """A concurrent.futures.Executor over this connection; see GridExecutor."""
        from gridctl.executor import GridExecutor

        return GridExecutor(self, concurrency=concurrency, timeout=timeout)

    # -- events -----------------------------------------------------------------------------------------------------

    def publish(self, topic: str, payload: Any = None) -> int:
        """Send an event; see Grid.publish."""
        return self._run(self._grid.publish(topic, payload))

    def subscribe(self, *patterns: str, buffer: int = 8192) -> Generator[Event, None, None]:
        """`for event in grid.subscribe("orders.*")`, which waits for each; see Grid.subscribe."""
        subscription = self._run(_made(lambda: self._grid.subscribe(*patterns, buffer=buffer)))
        self._run(subscription.open())
        return self._events(subscription)

    def _events(self, subscription: Subscription) -> Generator[Event, None, None]:
        try:
            while True:
                yield self._run(subscription.next())
        finally:
            self._later(subscription.close)

    # -- the grid ---------------------------------------------------------------------------------------------------

    def nodes(self) -> list[Member]:
        """Every node; see Grid.nodes."""
        return self._run(self._grid.nodes())

    def release(self) -> Release | None:
        """The grid's current release; see Grid.release."""
        return self._run(self._grid.release())

    def close(self) -> None:
        """Close the links and end the thread; calling it twice does nothing."""
        if not self._loop.is_closed():
            self._run(self._grid.close())
            self._stop()

    def __enter__(self) -> "SyncGrid":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- inside -----------------------------------------------------------------------------------------------------

    def _start(
        self, read: Callable[[Outcome], Any], task: str, argument: Any, timeout: float | None, node: str, key: str
    ) -> "concurrent.futures.Future[Any]":
        """A call on the loop; `read` makes of its Outcome what the future gets."""
        body = encode_argument(argument)
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()

        def start() -> None:
            try:
                call = self._grid.start(
                    task, body, lambda outcome: _settle(future, read, outcome), timeout=timeout, node=node, key=key
                )
            except GridError as exc:
                future.set_exception(exc)
            else:
                future.add_done_callback(lambda _: self._give_up(future, call))

        self._hand(start)
        return future

    def _give_up(self, future: "concurrent.futures.Future[Any]", call: Call) -> None:
        if future.cancelled():
            self._later(call.cancel)

    def _hand(self, action: Callable[[], object]) -> None:
        if self._loop.is_closed():
            raise LinkClosed("this grid was closed")
        self._handover.put(action)

    def _later(self, action: Callable[[], object]) -> None:
        """What needs not be done any more once the loop is closed."""
        if not self._loop.is_closed():
            self._handover.put(action)

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


async def _connected(gridfile: Gridfiles, addresses: Places, links: int) -> Grid:
    return await Grid.connect(gridfile, addresses, links=links)


async def _made(make: Callable[[], T]) -> T:
    """What has to be made on the loop."""
    return make()


def _as_it_is(outcome: Outcome) -> Outcome:
    return outcome


def _settle(future: "concurrent.futures.Future[Any]", read: Callable[[Outcome], Any], outcome: Outcome) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(read(outcome))
    except GridError as exc:
        future.set_exception(exc)
