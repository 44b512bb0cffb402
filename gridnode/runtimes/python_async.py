"""Serves a task file's calls side by side: each a job on one loop, those of its sync handlers on threads."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import itertools
import sys
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager
from contextvars import ContextVar, copy_context
from types import AsyncGeneratorType, GeneratorType
from typing import Any

from gridnode.runtimes.python import (
    CONCURRENCY,
    DIAL_PATIENCE,
    REDIAL_PATIENCE,
    REDIAL_PAUSE,
    Fault,
    Handler,
    Handlers,
    answer,
    collect,
    dial,
    encode_result,
    pack_error,
    pack_raised,
    pack_result,
)
from gridnode.runtimes.python_calls import Calling, Served, Unanswered, pack_call
from gridnode.runtimes.python_frames import (
    CALL,
    CANCEL,
    CREDIT,
    FLAG_STREAM,
    OP_INVOKE,
    PART,
    PING,
    PONG,
    REPLY,
    Frame,
    Inbox,
    pack,
)
from gridnode.runtimes.python_stream import Collected, Credit

Turn = AbstractAsyncContextManager[Any]
Generated = AsyncGenerator[Any, None] | Generator[Any, None, None]
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
        self._given_up: set[int] = set()
        self._streams: dict[int, _Stream] = {}
        self._closed = False
        self._turn: Turn = asyncio.Semaphore(limit) if limit else contextlib.nullcontext()

    def turn(self, frame: Frame) -> Turn:
        """What a call waits for before it begins."""
        return self._turn

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
        self._closed = True
        for stream in self._streams.values():
            stream.bell.set()
        for job in self._jobs.values():
            job.cancel()
        self._writer.close()

    async def send_part(self, call_id: int, item: bytes) -> bool:
        """Send an item of a call's stream once its reader takes it; False when nobody does any more."""
        stream = self._streams.get(call_id)
        if stream is None:
            stream = self._streams[call_id] = _Stream()
        while not stream.credit.is_open and not self.is_cancelled(call_id):
            stream.bell.clear()
            await stream.bell.wait()
        if self.is_cancelled(call_id):
            return False
        stream.credit.spend(len(item))
        self._writer.write(pack(PART, call_id, item))
        await self._writer.drain()
        return True

    def is_cancelled(self, call_id: int) -> bool:
        """Whether nobody waits for this call any more."""
        return self._closed or call_id in self._given_up

    def _take(self, frame: Frame) -> None:
        if frame.kind == CALL:
            job = _start(self._answer(frame), self._loop)
            if not job.done():
                self._jobs[frame.call_id] = job
        elif frame.kind == CANCEL and frame.call_id in self._jobs:
            self._given_up.add(frame.call_id)
            if stream := self._streams.get(frame.call_id):
                stream.bell.set()
            self._loop.call_soon(self._jobs[frame.call_id].cancel)
        elif frame.kind == CREDIT:
            if stream := self._streams.get(frame.call_id):
                stream.credit.add(frame.body)
                stream.bell.set()
        elif frame.kind == PING:
            self._writer.write(pack(PONG, frame.call_id))

    async def _answer(self, frame: Frame) -> None:
        try:
            async with self.turn(frame):
                reply = await self.reply(frame)
        except asyncio.CancelledError:
            reply = pack_error(frame.call_id, Fault("call", "the call was cancelled"))
        self._jobs.pop(frame.call_id, None)
        self._given_up.discard(frame.call_id)
        self._streams.pop(frame.call_id, None)
        self._writer.write(reply)


class _Stream:
    """What the reader of one call's items takes, and a bell that rings when it is more, or nobody reads."""

    __slots__ = ("bell", "credit")

    def __init__(self) -> None:
        self.credit = Credit()
        self.bell = asyncio.Event()


class HandlerConnection(Connection):
    """Calls handlers of a Python file."""

    def __init__(self, writer: asyncio.StreamWriter, handlers: Handlers, threads: Executor) -> None:
        # A node sends calls early to what takes one at a time; where several are taken it keeps to their number itself.
        super().__init__(writer, 1 if CONCURRENCY == 1 else 0)
        self._handlers, self._threads = handlers, threads
        self._made: dict[int, asyncio.Future[Frame]] = {}
        self._ids = itertools.count(1)
        Calling.line = self

    def served(self) -> Served | None:
        return _served.get()

    def part(self, call_id: int, item: bytes) -> bool:
        return asyncio.run_coroutine_threadsafe(self.send_part(call_id, item), self._loop).result()

    def call(self, task: bytes, body: bytes, deadline_ms: int, op: int = OP_INVOKE) -> Frame:
        if _running_loop() is self._loop:
            name = "invoke_async" if op == OP_INVOKE else "publish_async"
            raise RuntimeError(f"this would stop every other call: `await grid.{name}(...)` in async handlers")
        asking = self._ask(task, body, deadline_ms, op)
        return asyncio.run_coroutine_threadsafe(asking, self._loop).result()

    async def call_async(self, task: bytes, body: bytes, deadline_ms: int, op: int = OP_INVOKE) -> Frame:
        asking = self._ask(task, body, deadline_ms, op)
        if _running_loop() is self._loop:
            return await asking
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(asking, self._loop))

    def close(self) -> None:
        for made in self._made.values():
            if not made.done():
                made.set_exception(Unanswered("the connection to the node was lost during the call"))
        super().close()

    async def _ask(self, task: bytes, body: bytes, deadline_ms: int, op: int) -> Frame:
        served = _served.get()
        if self._closed or served is None:
            raise Unanswered("the connection to the node is lost")
        call_id = next(self._ids)
        made: asyncio.Future[Frame] = self._loop.create_future()
        self._made[call_id] = made
        self._writer.write(pack_call(call_id, task, served[0].call_id, body, deadline_ms, op))
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
            return await self._call(handler, frame)
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

    async def _call(self, handler: Handler, frame: Frame) -> bytes:
        try:
            result = handler.call(frame)
            result = await result if inspect.isawaitable(result) else result
            if isinstance(result, AsyncGeneratorType | GeneratorType):
                return await self._drain(frame, result)
            return pack_result(frame.call_id, result)
        except Fault as fault:
            return pack_error(frame.call_id, fault)
        except asyncio.CancelledError:
            raise
        except BaseException as exc:
            return pack_raised(frame.call_id, exc)

    async def _drain(self, frame: Frame, generator: Generated) -> bytes:
        """Send what it yields, and the Reply that ends it; or all of it in the Reply if no stream is wanted."""
        collected = None if frame.flags & FLAG_STREAM else Collected()
        items = generator if isinstance(generator, AsyncGenerator) else _all(generator)
        async with contextlib.aclosing(items):
            async for item in items:
                body = encode_result(item)
                if collected is None and not await self.send_part(frame.call_id, body):
                    raise asyncio.CancelledError
                collect(collected, body)
        return pack(REPLY, frame.call_id, collected.body if collected else b"")


async def _all(generator: Generator[Any, None, None]) -> AsyncGenerator[Any, None]:
    with contextlib.closing(generator):
        for item in generator:
            yield item


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _start(work: Coroutine[object, object, None], loop: asyncio.AbstractEventLoop) -> asyncio.Task[None]:
    """A job that runs at once up to its first await, where Python can do that."""
    if sys.version_info >= (3, 12):
        return asyncio.Task(work, loop=loop, eager_start=True)
    return loop.create_task(work)
