"""Results that come item by item: what a task yields, or what each node answers to a broadcast."""

import asyncio
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Generic, TypeVar

import msgspec

from gridctl.calls import ANSWER_GRACE, LONGEST, PATIENCE
from gridctl.links import Lane, Links
from gridctl.outcomes import lost, outcome_of, raised
from gridnode import wire
from gridnode.errors import CallTimeout, GridError, LinkClosed, TaskNotFound, UsageError
from gridnode.link.reader import Reader
from gridnode.messages import CallMeta
from gridnode.model import Outcome
from gridnode.wire import Frame, Op

__all__ = ["ItemStream"]

_SILENT = 3.0
_VANISHED = 10.0
_ITEMS, _SIZE = 256, 1024 * 1024
"""Items and bytes that may be on their way to one reader, or wait for it: past them the task that yields waits."""

T = TypeVar("T")


class ItemStream(Generic[T]):
    """`async for item in stream`: made by Grid.stream and Grid.broadcast. The call is sent when the first is asked for.

    A reader that is slow stops the task. Leaving the loop by `break` gives the call up when the stream is forgotten;
    `async with stream` or `await stream.aclose()` do it at once. It ends with what became of the call: an error is
    raised after the items that came before it. outcome: where it ran, once it has ended.
    """

    def __init__(
        self,
        links: Links,
        op: Op,
        task: str,
        body: bytes,
        read: Callable[[bytes], T],
        timeout: float | None = None,
        node: str = "",
    ) -> None:
        if timeout is not None and not 0 < timeout < 0xFFFFFFFF / 1000:
            raise UsageError(f"a timeout of {timeout:g} s makes no sense", hint="more than 0 seconds")
        if len(task.encode()) > wire.MAX_NAME:
            raise TaskNotFound(f"no task is named {task[:32]!r}...: names have at most {wire.MAX_NAME} bytes")
        self.outcome: Outcome | None = None
        self._links = links
        self._call = (op, task, body)
        self._meta = msgspec.json.encode(CallMeta(secrets.token_hex(16), 1, node))
        self._read = read
        self._timeout = timeout
        self._reader: Reader[Frame | GridError] = Reader(_ITEMS, _SIZE)
        self._lane: Lane | None = None
        self._call_id = 0
        self._started = 0.0

    def __aiter__(self) -> "ItemStream[T]":
        return self

    async def __anext__(self) -> T:
        found = await self.take()
        if found is None:
            raise StopAsyncIteration
        return found[0]

    async def take(self) -> tuple[T] | None:
        """The next item, None at the end; raises what the call ended with instead."""
        if self.outcome:
            return None
        if self._lane is None:
            await self._send()
        item = await (self._reader.next() if self._reader.has_items else self._next())
        if item is not None:
            return (self._read(item),)
        outcome = self._end()
        if outcome.error:
            raise raised(outcome.error)
        return (self._read(outcome.body),) if outcome.body else None

    async def aclose(self) -> None:
        """Give the call up if it is under way; closing it twice does nothing."""
        self.close()

    def close(self) -> None:
        """The same, from the event loop's own thread."""
        self.outcome = self.outcome or Outcome(error=LinkClosed("the stream was closed"))
        self._reader.close()
        self._leave()

    async def __aenter__(self) -> "ItemStream[T]":
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_lane", None):  # a loop over it that was left
            self._leave()

    # -- inside -----------------------------------------------------------------------------------------------------

    async def _send(self) -> None:
        """Over the least busy link; what could not be sent goes over another one."""
        self._started = time.perf_counter()
        tried: list[Lane] = []
        while True:
            lane = self._links.best(tried) or (None if tried else await self._links.ready(PATIENCE))
            if lane is None:
                raise self._links.error
            try:
                self._call_id = self._start(lane)
            except LinkClosed:
                tried.append(lane)
                continue
            lane.calls += 1
            self._lane = lane
            return

    def _start(self, lane: Lane) -> int:
        op, task, body = self._call
        deadline_ms = 0 if self._timeout is None else max(1, int(self._timeout * 1000))
        reader = self._reader
        return lane.link.call(
            op, task, body, reader.end, meta=self._meta, deadline_ms=deadline_ms, stream=reader.stream
        )

    async def _next(self) -> bytes | None:
        """Wait for an item, and see now and then whether the node is there: one that is frozen closes nothing."""
        assert self._lane
        link, loop = self._lane.link, asyncio.get_running_loop()
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_SILENT):
                    return await self._reader.next()
            if time.perf_counter() - self._started > (self._timeout or LONGEST) + ANSWER_GRACE:
                said = f"{self._call[1]}: no end of it within {self._timeout or LONGEST:g} s"
                self._leave()
                self._reader.end(CallTimeout(said))
            elif loop.time() - link.last_heard > _VANISHED:
                link.abort(LinkClosed(f"silent for {_VANISHED:g} s"))
            else:
                link.ping()

    def _end(self) -> Outcome:
        reply, duration = self._reader.outcome, time.perf_counter() - self._started
        if isinstance(reply, CallTimeout):
            self.outcome = Outcome(error=reply, duration=duration)
        elif isinstance(reply, GridError):
            self.outcome = lost(reply, 0, duration)
        else:
            assert reply
            self.outcome = outcome_of(reply, 0, duration)
        self._leave()
        return self.outcome

    def _leave(self) -> None:
        lane, self._lane = self._lane, None
        if lane:
            lane.calls -= 1
            lane.link.cancel(self._call_id)
