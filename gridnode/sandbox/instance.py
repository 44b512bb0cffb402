"""One warm sandbox: its socket, its link, its life from start to exit."""

import asyncio
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from gridnode import wire
from gridnode.errors import BodyTooLarge, GridError, InstanceFailed, LinkClosed, NotReady, TaskCrashed, TaskRaised
from gridnode.link import Cancel, LinkLimits
from gridnode.link.protocol import Link
from gridnode.model import Done, InstanceId, Invocation, Outcome, TaskName
from gridnode.sandbox import Sandbox, SandboxSpec
from gridnode.wire import Frame, Op

SOCKET = "grid.sock"
_RECONNECT = 3.0
_MAX_HANDLERS = 128


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


_decode_hello = msgspec.json.Decoder(RuntimeHello).decode


class Instance:
    """Listens on its own unix socket, starts the sandbox, and carries calls over the link the runtime dials.

    on_ready: called with the handlers each time the runtime (re)connects.
    """

    def __init__(
        self, spec: SandboxSpec, sandbox: Sandbox, limits: LinkLimits, on_ready: Callable[["Instance"], None]
    ) -> None:
        self.spec = spec
        self.handlers: dict[TaskName, Handler] = {}
        self._sandbox = sandbox
        self._limits = limits
        self._on_ready = on_ready
        self._loop = asyncio.get_running_loop()
        self._link: Link | None = None
        self._server: asyncio.Server | None = None
        self._greeted: asyncio.Future[None] = self._loop.create_future()
        self._absent: asyncio.Future[None] = self._loop.create_future()

    @property
    def id(self) -> InstanceId:
        return self.spec.instance

    @property
    def is_ready(self) -> bool:
        return self._link is not None and self._link.is_open

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
                why = "was killed: out of memory" if end.oom else f"exited with code {end.code}"
                raise InstanceFailed(f"{self.spec.file}: {why} before it was ready", trace=end.log or None)
            else:
                raise InstanceFailed(f"{self.spec.file}: not ready within {timeout:g} s", trace=await self.log())
        finally:
            ended.cancel()

    async def ended(self) -> str:
        """Wait until the sandbox ended or its runtime stays off the socket; says which."""
        exit_ = asyncio.ensure_future(self._sandbox.wait(self.id))
        try:
            await _first(exit_, self._absent)
            if not exit_.done():
                return "left its socket"
            end = exit_.result()
            return "out of memory" if end.oom else f"exit code {end.code}"
        finally:
            exit_.cancel()

    async def stop(self, grace: float) -> None:
        """Stop the sandbox and remove its socket."""
        if self._server:
            self._server.close()
        if self._link:
            self._link.close()
        try:
            await self._sandbox.stop(self.id, grace)
        finally:
            await asyncio.to_thread(shutil.rmtree, self.spec.socket_dir, ignore_errors=True)

    async def log(self, lines: int = 50) -> str:
        return await self._sandbox.logs(self.id, lines)

    def invoke(self, call: Invocation, done: Done) -> Cancel:
        """Send the call inside; exactly one Outcome follows, also after Cancel: when the instance is free of it."""
        link = self._link
        if link is None:
            done(Outcome(error=NotReady("the instance is starting"), instance=self.id, started=False))
            return _nothing

        def replied(reply: Frame | GridError) -> None:
            done(self._outcome(reply))

        left = max(1, int((call.deadline - self._loop.time()) * 1000))
        try:
            call_id = link.call(Op.INVOKE, call.task, call.body, replied, meta=call.meta, deadline_ms=left)
        except BodyTooLarge as exc:
            done(Outcome(error=exc, instance=self.id, started=False))
            return _nothing
        except GridError as exc:
            done(Outcome(error=NotReady(exc.message), instance=self.id, started=False))
            return _nothing
        return lambda: link.ask_to_stop(call_id)

    def _outcome(self, reply: Frame | GridError) -> Outcome:
        if isinstance(reply, GridError):
            return Outcome(error=TaskCrashed("the instance ended with the call inside it"), instance=self.id)
        if reply.flags & wire.FLAG_ERROR:
            error = wire.decode_error(reply.body)
            if error.retryable:  # whatever a sandbox says: the call was inside it, no other node may run it again
                error = TaskRaised(error.message, trace=error.trace)
            return Outcome(error=error, instance=self.id)
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
        if self.is_ready:
            raise LinkClosed("this instance is connected already")
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
        raise NotReady("calls from inside a sandbox are not served")

    def heard(self, link: Link, frame: Frame) -> None:
        return

    def closed(self, link: Link, error: GridError | None) -> None:
        if self._link is link:
            self._link = None
            self._loop.call_later(_RECONNECT, self._look_for_runtime)

    def _look_for_runtime(self) -> None:
        if self._link is None and not self._absent.done():
            self._absent.set_result(None)


async def _first(*futures: asyncio.Future[Any], timeout: float | None = None) -> None:
    """Wait until one of them is done, or for `timeout` seconds."""
    await asyncio.wait(futures, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)


def _nothing() -> None:
    return
