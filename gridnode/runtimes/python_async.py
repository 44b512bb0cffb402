"""Serves a task file that has an async handler: each call a job on one loop, the file's sync handlers on threads."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import sys
from collections.abc import Coroutine
from concurrent.futures import Executor, ThreadPoolExecutor

from gridnode.runtimes.python import (
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
from gridnode.runtimes.python_frames import CALL, CANCEL, PING, PONG, Frame, Inbox, pack


def run(path: str, hello: bytes, handlers: Handlers) -> None:
    """Serve until nobody has listened for a long time."""
    asyncio.run(_run(path, hello, handlers))


async def _run(path: str, hello: bytes, handlers: Handlers) -> None:
    threads = ThreadPoolExecutor(max(1, sum(not handler.is_async for handler in handlers.values())))
    patience = DIAL_PATIENCE
    while sock := await asyncio.to_thread(dial, path, patience):
        reader, writer = await asyncio.open_unix_connection(sock=sock)
        connection = Connection(handlers, writer, threads)
        writer.write(hello)
        with contextlib.suppress(OSError, ValueError):
            await connection.serve(reader)
        connection.close()
        patience = REDIAL_PATIENCE
        await asyncio.sleep(REDIAL_PAUSE)


class Connection:
    """One connection and the calls under way on it."""

    def __init__(self, handlers: Handlers, writer: asyncio.StreamWriter, threads: Executor) -> None:
        self._handlers, self._writer, self._threads = handlers, writer, threads
        self._loop = asyncio.get_running_loop()
        self._jobs: dict[int, asyncio.Task[None]] = {}

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
        handler = self._handlers.get(frame.name)
        try:
            if handler and handler.is_async:
                reply = await _call(handler, frame)
            else:
                reply = await self._loop.run_in_executor(self._threads, answer, self._handlers, frame)
        except asyncio.CancelledError:
            reply = pack_error(frame.call_id, Fault("call", "the call was cancelled"))
        self._jobs.pop(frame.call_id, None)
        self._writer.write(reply)


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
