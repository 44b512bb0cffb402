"""One warm sandbox: its socket, its link, its life from start to exit."""

import asyncio
import contextlib
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from gridnode import wire
from gridnode.errors import BodyTooLarge, GridError, InstanceFailed, LinkClosed, NotReady, TaskCrashed, TaskRaised
from gridnode.link import Cancel, LinkLimits, nothing_to_cancel
from gridnode.link.protocol import Link
from gridnode.model import Done, InstanceId, Invocation, Outcome, TaskName
from gridnode.sandbox import Exit, Sandbox, SandboxSpec
from gridnode.sandbox.nested import Nested, Onward
from gridnode.wire import Frame, Op

SOCKET = "grid.sock"
_RECONNECT = 3.0
_END_WITHIN = 1.0
_MAX_HANDLERS = 128
_MAX_STRANGERS = 2
"""Connections that have not said hello."""
_SIGNALLED = 128
"""An exit code above it means: ended by the signal of that number more."""
_SIGNALS = {number.value: number.name for number in signal.Signals}


class Handler(msgspec.Struct, frozen=True):
    """One callable of the task file; concurrency: calls at once."""

    name: TaskName
    concurrency: int = 1


class _Failure(msgspec.Struct):
    message: str
    trace: str | None = None


class RuntimeHello(msgspec.Struct):
    """What a runtime says first."""

    version: int
    handlers: tuple[Handler, ...] = ()
    error: _Failure | None = None


class End(NamedTuple):
    """How an instance ended: a clause that goes on from "the instance", and its last log lines."""

    reason: str
    log: str = ""


_decode_hello = msgspec.json.Decoder(RuntimeHello).decode


class Instance:
    """Listens on its own unix socket, starts the sandbox, and carries calls over the link the runtime dials.

    on_ready: called with the handlers each time the runtime (re)connects; onward: where its own calls go.
    """

    def __init__(
        self,
        spec: SandboxSpec,
        sandbox: Sandbox,
        limits: LinkLimits,
        on_ready: Callable[["Instance"], None],
        onward: Onward | None = None,
    ) -> None:
        self.spec = spec
        self.handlers: dict[TaskName, Handler] = {}
        self._sandbox = sandbox
        self._limits = limits
        self._on_ready = on_ready
        self._nested = Nested(onward)
        self._loop = asyncio.get_running_loop()
        self._link: Link | None = None
        self._server: asyncio.Server | None = None
        self._why = ""
        self._strangers: list[Link] = []
        self._greeted: asyncio.Future[None] = self._loop.create_future()
        self._absent: asyncio.Future[None] = self._loop.create_future()

    @property
    def id(self) -> InstanceId:
        return self.spec.instance

    @property
    def is_ready(self) -> bool:
        return self._link is not None and self._link.is_open

    @property
    def is_calling(self) -> bool:
        """Whether a call inside waits for one that it made itself."""
        return self._nested.count > 0

    async def start(self, timeout: float) -> None:
        """Start and wait for the runtime's hello; InstanceFailed with its traceback or last log lines."""
        await self._listen()
        await self._sandbox.start(self.spec)
        ended = asyncio.ensure_future(self._sandbox.wait(self.id))
        try:
            await _first(ended, self._greeted, timeout=timeout)
            if self._greeted.done():
                self._greeted.result()
            elif ended.done():
                end = ended.result()
                why = describe(end, self.spec.memory)
                raise InstanceFailed(f"{self.spec.file}: {why} before it was ready", trace=end.log or None)
            else:
                raise InstanceFailed(f"{self.spec.file}: not ready within {timeout:g} s", trace=await self.log())
        finally:
            ended.cancel()

    async def adopt(self, timeout: float) -> None:
        """Take over a sandbox that runs already: wait until its runtime dials again; InstanceFailed if it does not."""
        await self._listen()
        await _first(self._greeted, timeout=timeout)
        if not self._greeted.done():
            raise InstanceFailed(f"{self.spec.file}: an earlier instance did not come back within {timeout:g} s")
        self._greeted.result()

    def leave(self) -> None:
        """Let go of the sandbox, which goes on and dials the next life of this node."""
        if self._server:
            self._server.close()
        if self._link:
            self._link.close()

    async def ended(self) -> End:
        """Wait until the sandbox ended or its runtime stays off the socket; says which, or why it was stopped."""
        exit_ = asyncio.ensure_future(self._sandbox.wait(self.id))
        try:
            await _first(exit_, self._absent)
            if not exit_.done():
                return End(self._why or "closed its connection and did not come back", await self.log())
            end = exit_.result()
            return End(self._why or describe(end, self.spec.memory), end.log)
        finally:
            exit_.cancel()

    async def stop(self, grace: float, why: str = "") -> None:
        """Stop the sandbox and remove its socket. why: what the callers of calls inside are told."""
        self._why = self._why or why
        if self._server:
            self._server.close()
        try:
            await self._sandbox.stop(self.id, grace)
        finally:
            await self._hang_up()
            await asyncio.to_thread(shutil.rmtree, self.spec.socket_dir, ignore_errors=True)

    async def _hang_up(self) -> None:
        """Read what it has answered up to its end, which comes with the sandbox's, then close."""
        if self._link:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_END_WITHIN):
                    await self._link.wait_closed()
        if self._link:
            self._link.close()

    async def log(self, lines: int = 50) -> str:
        return await self._sandbox.logs(self.id, lines)

    def invoke(self, call: Invocation, done: Done) -> Cancel:
        """Send the call inside; exactly one Outcome follows, also after Cancel: when the instance is free of it."""
        link = self._link
        if link is None:
            done(Outcome(error=NotReady("the instance is starting"), instance=self.id, started=False))
            return nothing_to_cancel
        nested = self._nested

        def replied(reply: Frame | GridError) -> None:
            nested.left(link, call_id)
            done(self._outcome(link, reply))

        def cancel() -> None:
            link.ask_to_stop(call_id)
            nested.give_up(link, call_id)

        left = max(1, int((call.deadline - self._loop.time()) * 1000))
        try:
            call_id = link.call(
                Op.INVOKE, call.task, call.body, replied, meta=call.meta, deadline_ms=left, stream=call.stream
            )
        except BodyTooLarge as exc:
            done(Outcome(error=exc, instance=self.id, started=False))
            return nothing_to_cancel
        except GridError as exc:
            done(Outcome(error=NotReady(exc.message), instance=self.id, started=False))
            return nothing_to_cancel
        nested.entered(link, call_id, call)
        return cancel

    def _outcome(self, link: Link, reply: Frame | GridError) -> Outcome:
        """started is False for a link that was read to its end: then calls behind the oldest have not begun."""
        if isinstance(reply, GridError):
            error = TaskCrashed(f"the instance's connection was lost with the call inside it: {reply.message}")
            return Outcome(error=error, instance=self.id, started=not link.read_to_end)
        if reply.flags & wire.FLAG_ERROR:
            told = wire.decode_error(reply.body)
            if told.retryable:  # whatever a sandbox says: the call was inside it, no other node may run it again
                told = TaskRaised(told.message, trace=told.trace)
            return Outcome(error=told, instance=self.id)
        return Outcome(reply.body, instance=self.id)

    async def _listen(self) -> None:
        """The directory is mounted read-only into one sandbox: only that one can reach the socket."""
        path = Path(self.spec.socket_dir)
        try:
            await asyncio.to_thread(path.mkdir, mode=0o755, parents=True, exist_ok=True)
            self._server = await self._loop.create_unix_server(lambda: Link(self, self._limits), str(path / SOCKET))
            os.chmod(path / SOCKET, 0o666)
        except OSError as exc:
            raise InstanceFailed(f"cannot make the socket {path / SOCKET}: {exc.strerror or exc}") from exc

    # -- LinkEnd ----------------------------------------------------------------------------------------------------

    def hello(self, link: Link) -> bytes:
        """Refuses at once what connects while the runtime is: each connection costs this node a descriptor."""
        self._strangers = [one for one in self._strangers if not one.is_closing and one is not self._link]
        if self.is_ready or len(self._strangers) >= _MAX_STRANGERS:
            raise LinkClosed("this instance is connected already")
        self._strangers.append(link)
        return b'{"version":%d}' % wire.VERSION

    def opened(self, link: Link, body: bytes) -> None:
        if self.is_ready:
            raise LinkClosed("this instance is connected already")
        try:
            hello = _decode_hello(body)
        except (msgspec.MsgspecError, RecursionError) as exc:
            raise LinkClosed(f"malformed hello: {exc}") from exc
        if hello.version != wire.VERSION:
            self._fail(InstanceFailed(f"the runtime speaks version {hello.version}, this node {wire.VERSION}"))
        elif hello.error:
            self._fail(InstanceFailed(hello.error.message, trace=hello.error.trace))
        else:
            self._link = link
            link.keep_spare()
            self.handlers = {one.name: one for one in hello.handlers[:_MAX_HANDLERS] if self._may_serve(one)}
            if not self._greeted.done():
                self._greeted.set_result(None)
            self._on_ready(self)

    def _may_serve(self, handler: Handler) -> bool:
        """Whether it is this file's own: a sandbox must not take the calls of another task."""
        name, task = handler.name, self.spec.task
        own = name == task or name.startswith(f"{task}.")
        return own and handler.concurrency > 0 and name.isprintable() and len(name.encode()) <= wire.MAX_NAME

    def _fail(self, error: InstanceFailed) -> None:
        if not self._greeted.done():
            self._greeted.set_exception(error)
        raise error

    def called(self, link: Link, frame: Frame) -> None:
        self._nested.called(link, frame)

    def heard(self, link: Link, frame: Frame) -> None:
        return

    def closed(self, link: Link, error: GridError | None) -> None:
        if self._link is link:
            self._link = None
            self._loop.call_later(_RECONNECT, self._look_for_runtime)

    def _look_for_runtime(self) -> None:
        if self._link is None and not self._absent.done():
            self._absent.set_result(None)


def describe(end: Exit, memory: int) -> str:
    """What happened to a sandbox that may use `memory` bytes: a clause that goes on from its name."""
    limit = f"out of memory (limit {memory / (1 << 20):.4g} MB)"
    if end.code <= _SIGNALLED or end.code - _SIGNALLED not in _SIGNALS:
        return f"exited with code {end.code}" + (f", after one of its processes ran {limit}" if end.oom else "")
    if end.oom and end.code - _SIGNALLED == signal.SIGKILL:
        return f"was killed: {limit}"
    return f"was killed by {_SIGNALS[end.code - _SIGNALLED]}"


async def _first(*futures: asyncio.Future[Any], timeout: float | None = None) -> None:
    """Wait until one of them is done, or for `timeout` seconds."""
    await asyncio.wait(futures, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
