"""Serves a task file's calls side by side: each a job on one loop, those of its sync handlers on threads."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import itertools
import sys
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor, ThreadPoolExecutor
from contextvars import ContextVar, copy_context

from gridnode.runtimes.python import (
    CONCURRENCY,
    DIAL_PATIENCE,
    REDIAL_PATIENCE,
    REDIAL_PAUSE,
    Fault,
    Handler,
    Handlers,
    answer,
    dial,
    pack_error,
    pack_raised,
    pack_result,
)
from gridnode.runtimes.python_calls import Calling, Served, Unanswered, pack_call
from gridnode.runtimes.python_frames import CALL, CANCEL, OP_INVOKE, PING, PONG, REPLY, Frame, Inbox, pack

_served: ContextVar[Served | None] = ContextVar("served", default=None)


def run(path: str, hello: bytes, handlers: Handlers) -> None:
    """Serve until nobody has listened for a long time."""
    threads = ThreadPoolExecutor(CONCURRENCY or max(1, sum(not handler.is_async for handler in handlers.values())))
    asyncio.run(keep_serving(path, hello, lambda writer: HandlerConnection(writer, handlers, threads)))


async def keep_serving(path: str, hello: bytes, connect: Callable[[asyncio.StreamWriter], Connection]) -> None:
    """Dial, say hello and serve, again and again, until nobody has listened for a long time."""
    patience = DIAL_PATIENCE
    while sock := await asyncio.to_thread(dial, path, patience):
        reader, writer = await asyncio.open_unix_connection(sock=sock)
        connection = connect(writer)
        writer.write(hello)
        with contextlib.suppress(OSError, ValueError):
            await connection.serve(reader)
        connection.close()
        patience = REDIAL_PATIENCE
        await asyncio.sleep(REDIAL_PAUSE)


class Connection:
    """One connection and the calls under way on it. limit: how many at once, the others wait; 0 for all."""

    def __init__(self, writer: asyncio.StreamWriter, limit: int) -> None:
        self._writer = writer
        self._loop = asyncio.get_running_loop()
        self._jobs: dict[int, asyncio.Task[None]] = {}
        self._turn = asyncio.Semaphore(limit) if limit else contextlib.nullcontext()

    async def reply(self, frame: Frame) -> bytes:
        """The Reply to one call, whatever happens in it; raises CancelledError when it was cancelled."""
        raise NotImplementedError

    async def serve(self, reader: asyncio.StreamReader) -> None:
        """Start every call that comes, until the connection ends."""
        inbox = Inbox()
        while got := await reader.read(len(inbox.space())):
            inbox.space()[: len(got)] = got
            for frame in inbox.received(len(got)):
                self._take(frame)
            await self._writer.drain()

    def close(self) -> None:
        """Cancel what runs: nobody is there to take the results."""
        for job in self._jobs.values():
            job.cancel()
        self._writer.close()

    def _take(self, frame: Frame) -> None:
        if frame.kind == CALL:
            job = _start(self._answer(frame), self._loop)
            if not job.done():
                self._jobs[frame.call_id] = job
        elif frame.kind == CANCEL and frame.call_id in self._jobs:
            self._loop.call_soon(self._jobs[frame.call_id].cancel)
        elif frame.kind == PING:
            self._writer.write(pack(PONG, frame.call_id))

    async def _answer(self, frame: Frame) -> None:
        try:
            async with self._turn:
                reply = await self.reply(frame)
        except asyncio.CancelledError:
            reply = pack_error(frame.call_id, Fault("call", "the call was cancelled"))
        self._jobs.pop(frame.call_id, None)
        self._writer.write(reply)


class HandlerConnection(Connection):
    """Calls handlers of a Python file."""

    def __init__(self, writer: asyncio.StreamWriter, handlers: Handlers, threads: Executor) -> None:
        # A node sends calls early to what takes one at a time; where several are taken it keeps to their number itself.
        super().__init__(writer, 1 if CONCURRENCY == 1 else 0)
        self._handlers, self._threads = handlers, threads
        self._made: dict[int, asyncio.Future[Frame]] = {}
        self._ids = itertools.count(1)
        self._closed = False
        Calling.line = self

    def served(self) -> Served | None:
        return _served.get()

    def call(self, task: bytes, body: bytes, deadline_ms: int) -> Frame:
        if _running_loop() is self._loop:
            raise RuntimeError("this would stop every other call: `await grid.invoke_async(...)` in async handlers")
        asking = self._ask(task, body, deadline_ms)
        return asyncio.run_coroutine_threadsafe(asking, self._loop).result()

    async def call_async(self, task: bytes, body: bytes, deadline_ms: int) -> Frame:
        asking = self._ask(task, body, deadline_ms)
        if _running_loop() is self._loop:
            return await asking
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(asking, self._loop))

    def close(self) -> None:
        self._closed = True
        for made in self._made.values():
            if not made.done():
                made.set_exception(Unanswered("the connection to the node was lost during the call"))
        super().close()

    async def _ask(self, task: bytes, body: bytes, deadline_ms: int) -> Frame:
        served = _served.get()
        if self._closed or served is None:
            raise Unanswered("the connection to the node is lost")
        call_id = next(self._ids)
        made: asyncio.Future[Frame] = self._loop.create_future()
        self._made[call_id] = made
        self._writer.write(pack_call(call_id, task, served[0].call_id, body, deadline_ms))
        try:
            return await made
        except asyncio.CancelledError:
            self._writer.write(pack(CANCEL, call_id))
            raise
        finally:
            del self._made[call_id]

    def _take(self, frame: Frame) -> None:
        if frame.kind != REPLY:
            super()._take(frame)
        elif (made := self._made.get(frame.call_id)) and not made.done():
            made.set_result(frame)

    async def reply(self, frame: Frame) -> bytes:
        _served.set((frame, time.time()))
        handler = self._handlers.get(frame.name)
        if handler and handler.is_async and frame.op == OP_INVOKE:
            return await _call(handler, frame)
        return await self._answer_on_thread(frame)

    async def _answer_on_thread(self, frame: Frame) -> bytes:
        """Cancelled, it ends at once only if it has not begun: a thread cannot be stopped, its instance can."""
        work = self._threads.submit(copy_context().run, answer, self._handlers, frame)
        try:
            return await asyncio.shield(asyncio.wrap_future(work))
        except asyncio.CancelledError:
            if work.cancel():
                raise
            return await asyncio.wrap_future(work)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


async def _call(handler: Handler, frame: Frame) -> bytes:
    try:
        result = handler.call(frame)
        return pack_result(frame.call_id, await result if inspect.isawaitable(result) else result)
    except Fault as fault:
        return pack_error(frame.call_id, fault)
    except asyncio.CancelledError:
        raise
    except BaseException as exc:
        return pack_raised(frame.call_id, exc)


def _start(work: Coroutine[object, object, None], loop: asyncio.AbstractEventLoop) -> asyncio.Task[None]:
    """A job that runs at once up to its first await, where Python can do that."""
    if sys.version_info >= (3, 12):
        return asyncio.Task(work, loop=loop, eager_start=True)
    return loop.create_task(work)
