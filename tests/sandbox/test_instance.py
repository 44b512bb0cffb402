"""An Instance against sandboxes that say whatever they like on their socket."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gridnode import wire
from gridnode.errors import (
    BodyTooLarge,
    Forbidden,
    FrameInvalid,
    GridError,
    InstanceFailed,
    NotReady,
    SandboxError,
    TaskCrashed,
    TaskRaised,
)
from gridnode.link import LinkLimits
from gridnode.model import InstanceId, Invocation, InvocationId, NodeId, Outcome, TaskName
from gridnode.sandbox import Exit, SandboxSpec
from gridnode.sandbox import instance as module
from gridnode.sandbox.instance import SOCKET, End, Instance
from gridnode.wire import FLAG_ERROR, Frame, Kind, Op
from tests.fakes.peers import Raw, until

ECHO = TaskName("echo")


class Puppet:
    """A Sandbox whose inside is the test."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.ended: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
        self.started = self.stopped = 0
        self.raws: list[Raw] = []

    async def start(self, spec: SandboxSpec) -> None:
        self.started += 1

    async def wait(self, instance: InstanceId) -> Exit:
        return await asyncio.shield(self.ended)

    async def stop(self, instance: InstanceId, grace: float) -> None:
        self.stopped += 1

    async def logs(self, instance: InstanceId, lines: int) -> str:
        return "last words"

    async def running(self) -> list[InstanceId]:
        return []

    async def close(self) -> None: ...

    async def connect(self, *first: Frame | bytes) -> Raw:
        path = self.directory / "s" / SOCKET
        await until(path.exists)
        raw = Raw(*await asyncio.open_unix_connection(str(path)))
        raw.send(*first)
        self.raws.append(raw)
        return raw


def hello(*handlers: dict[str, Any], **more: Any) -> Frame:
    body = {"version": 1, "handlers": handlers or [{"name": "echo"}], **more}
    return Frame(Kind.HELLO, 0, body=json.dumps(body).encode())


@pytest.fixture
async def puppet(tmp_path: Path) -> AsyncIterator[Puppet]:
    puppet = Puppet(tmp_path)
    yield puppet
    for raw in puppet.raws:
        raw.writer.transport.abort()


@pytest.fixture
async def instance(puppet: Puppet) -> AsyncIterator[Instance]:
    one = make(puppet)
    yield one
    await one.stop(0)
    assert puppet.stopped
    assert not (puppet.directory / "s").exists()


def make(puppet: Puppet, directory: str = "s") -> Instance:
    spec = SandboxSpec(
        instance=InstanceId("ab" * 4),
        node=NodeId("cd" * 20),
        node_name="n",
        grid="g",
        release="r",
        task="echo",
        file="tasks/echo.py",
        runtime="python",
        image="i",
        release_dir="/r",
        socket_dir=str(puppet.directory / directory),
        memory=1 << 26,
        cpu=1.0,
    )
    return Instance(spec, puppet, LinkLimits(hello_timeout=0.3), lambda instance: None)


async def started(instance: Instance, puppet: Puppet, said: Frame | None = None) -> Raw:
    start = asyncio.ensure_future(instance.start(5))
    raw = await puppet.connect(said or hello())
    await start
    await raw.frame()
    return raw


def invoke(instance: Instance, body: bytes = b"1", seconds: float = 9.0) -> tuple[list[Outcome], Any]:
    outcomes: list[Outcome] = []
    deadline = asyncio.get_running_loop().time() + seconds
    call = Invocation(InvocationId("i"), ECHO, body, deadline, b'{"id":"i"}')
    return outcomes, instance.invoke(call, outcomes.append)


async def failed(instance: Instance, timeout: float = 5) -> GridError:
    with pytest.raises(GridError) as caught:
        await instance.start(timeout)
    return caught.value


# -- starting -------------------------------------------------------------------------------------------------------


async def test_a_call_and_its_result(instance: Instance, puppet: Puppet) -> None:
    raw = await started(instance, puppet, hello({"name": "echo"}, {"name": "echo.wide", "concurrency": 9}))
    assert {handler.name: handler.concurrency for handler in instance.handlers.values()} == {"echo": 1, "echo.wide": 9}
    outcomes, _ = invoke(instance)
    frame = await raw.frame()
    assert frame
    assert (frame.op, frame.name, frame.body, frame.meta) == (Op.INVOKE, "echo", b"1", b'{"id":"i"}')
    assert 8000 < frame.deadline_ms <= 9000
    raw.send(Frame(Kind.REPLY, frame.call_id, body=b"2"))
    await until(lambda: outcomes)
    assert outcomes == [Outcome(b"2", instance=instance.id)]


async def test_an_import_error_carries_its_traceback(instance: Instance, puppet: Puppet) -> None:
    start = asyncio.ensure_future(failed(instance))
    await puppet.connect(hello(error={"code": "instance_failed", "message": "ImportError: x", "trace": "Traceback…"}))
    error = await start
    assert (type(error), error.message, error.trace) == (InstanceFailed, "ImportError: x", "Traceback…")


@pytest.mark.parametrize(
    ("end", "words"), [(Exit(3, log="boom"), "exited with code 3"), (Exit(137, oom=True, log="boom"), "out of memory")]
)
async def test_a_sandbox_that_ends_first(instance: Instance, puppet: Puppet, end: Exit, words: str) -> None:
    puppet.ended.set_result(end)
    error = await failed(instance)
    assert isinstance(error, InstanceFailed)
    assert words in error.message
    assert error.trace == "boom"


async def test_an_engine_that_breaks(instance: Instance, puppet: Puppet) -> None:
    puppet.ended.set_exception(SandboxError("the engine says no"))
    assert "the engine says no" in (await failed(instance)).message


async def test_one_that_never_says_hello(instance: Instance) -> None:
    error = await failed(instance, timeout=0.1)
    assert isinstance(error, InstanceFailed)
    assert (error.trace, "not ready within" in error.message) == ("last words", True)


async def test_a_socket_that_cannot_be_made(puppet: Puppet) -> None:
    assert isinstance(await failed(make(puppet, "d" * 200)), InstanceFailed)
    (puppet.directory / "file").write_text("")
    assert isinstance(await failed(make(puppet, "file/s")), InstanceFailed)
    assert puppet.started == 0


GARBAGE = {
    "nothing": b"",
    "no json": b"\xff{",
    "deep": b'{"version":1,"x":' + b"[" * 50_000,
    "no version": b"{}",
    "handlers that are none": b'{"version":1,"handlers":3}',
}


@pytest.mark.parametrize("body", GARBAGE.values(), ids=GARBAGE)
async def test_garbage_for_a_hello_is_refused(instance: Instance, puppet: Puppet, body: bytes) -> None:
    start = asyncio.ensure_future(instance.start(5))
    bad = await puppet.connect(Frame(Kind.HELLO, 0, body=body))
    await bad.frames_to_the_end()
    assert not instance.is_ready
    await puppet.connect(hello())
    await start


async def test_a_runtime_of_another_version(instance: Instance, puppet: Puppet) -> None:
    start = asyncio.ensure_future(failed(instance))
    await puppet.connect(Frame(Kind.HELLO, 0, body=b'{"version":2}'))
    assert "version 2" in (await start).message


async def test_it_serves_its_own_tasks_only(instance: Instance, puppet: Puppet) -> None:
    """A sandbox must not take the calls of others, nor make this node's record unfit for its peers."""
    names = ["echo", "echo.wide", "pay", "echoes", "", "echo.\n", "echo.\x00", "echo." + "x" * 300, "echo." + "é" * 126]
    odd = [{"name": "echo.a", "concurrency": 0}, {"name": "echo.b", "concurrency": -1}]
    many = [{"name": f"echo.n{n}"} for n in range(1000)]
    await started(instance, puppet, hello(*({"name": name} for name in names), *odd, *many))
    assert {"echo", "echo.wide"} <= set(instance.handlers)
    assert not set(instance.handlers) & {*names[2:], "echo.a", "echo.b"}
    assert len(instance.handlers) <= 128


async def test_a_second_connection_is_refused(instance: Instance, puppet: Puppet) -> None:
    raw = await started(instance, puppet)
    other = await puppet.connect(hello({"name": "echo.other"}))
    await other.frames_to_the_end()
    assert list(instance.handlers) == ["echo"]
    outcomes, _ = invoke(instance)
    assert await raw.frame()
    assert outcomes == []


async def test_connections_that_say_nothing_are_closed(instance: Instance, puppet: Puppet) -> None:
    await started(instance, puppet)
    for raw in [await puppet.connect() for _ in range(50)]:
        await raw.frames_to_the_end()
    assert instance.is_ready


# -- calls ----------------------------------------------------------------------------------------------------------


async def reply(instance: Instance, puppet: Puppet, body: bytes) -> Outcome:
    raw = await started(instance, puppet)
    outcomes, _ = invoke(instance)
    frame = await raw.frame()
    assert frame
    raw.send(Frame(Kind.REPLY, frame.call_id, flags=FLAG_ERROR, body=body))
    await until(lambda: outcomes)
    return outcomes[0]


async def test_a_task_that_raises(instance: Instance, puppet: Puppet) -> None:
    outcome = await reply(instance, puppet, wire.encode_error(TaskRaised("ValueError: x", trace="T")))
    assert outcome.error
    assert (type(outcome.error), outcome.error.trace, outcome.started) == (TaskRaised, "T", True)


@pytest.mark.parametrize("code", ["no_capacity", "link_closed", "not_ready", "task_not_found"])
async def test_a_sandbox_cannot_send_its_call_to_other_nodes(instance: Instance, puppet: Puppet, code: str) -> None:
    """It ran here: an error that says it may be tried elsewhere would run it again."""
    outcome = await reply(instance, puppet, json.dumps({"code": code, "message": "m"}).encode())
    assert outcome.error
    assert not outcome.error.retryable
    assert outcome.started


@pytest.mark.parametrize("body", [b"", b"\xff", b'{"x":' + b"[" * 50_000])
async def test_a_malformed_error_is_an_outcome(instance: Instance, puppet: Puppet, body: bytes) -> None:
    assert isinstance((await reply(instance, puppet, body)).error, FrameInvalid)


async def test_a_crash_ends_the_calls_inside(instance: Instance, puppet: Puppet) -> None:
    raw = await started(instance, puppet)
    outcomes, _ = invoke(instance)
    await raw.frame()
    raw.writer.transport.abort()
    await until(lambda: outcomes)
    assert isinstance(outcomes[0].error, TaskCrashed)
    later, _ = invoke(instance)
    assert isinstance(later[0].error, NotReady)
    assert not later[0].started


async def test_a_body_that_does_not_fit_is_not_tried_elsewhere(instance: Instance, puppet: Puppet) -> None:
    await started(instance, puppet)
    outcomes, _ = invoke(instance, bytes(wire.MAX_CALL_BODY + 1))
    assert isinstance(outcomes[0].error, BodyTooLarge)
    assert not outcomes[0].started


async def test_cancel_is_sent_and_the_reply_still_awaited(instance: Instance, puppet: Puppet) -> None:
    raw = await started(instance, puppet)
    outcomes, cancel = invoke(instance)
    cancel()
    call, stop = await raw.frame(), await raw.frame()
    assert call
    assert stop == Frame(Kind.CANCEL, call.call_id)
    assert outcomes == []
    raw.send(Frame(Kind.REPLY, call.call_id, body=b"late"))
    await until(lambda: outcomes)


async def test_calls_from_inside_are_refused(instance: Instance, puppet: Puppet) -> None:
    raw = await started(instance, puppet)
    raw.send(*[Frame(Kind.CALL, n, op, 0, 0, "other") for n, op in enumerate([*Op, 999], 1)])
    for _ in [*Op, 999]:
        frame = await raw.frame()
        assert frame
        assert isinstance(wire.decode_error(frame.body), NotReady | Forbidden)


# -- ending ---------------------------------------------------------------------------------------------------------


async def test_it_says_how_it_ended(instance: Instance, puppet: Puppet) -> None:
    await started(instance, puppet)
    puppet.ended.set_result(Exit(137, oom=True))
    assert await instance.ended() == End("was killed: out of memory (limit 64 MB)", "")


@pytest.mark.parametrize(
    ("end", "words"),
    [
        (Exit(0), "exited with code 0"),
        (Exit(1, oom=True), "exited with code 1, after one of its processes ran out of memory (limit 256 MB)"),
        (Exit(137, oom=True), "was killed: out of memory (limit 256 MB)"),
        (Exit(137), "was killed by SIGKILL"),
        (Exit(139), "was killed by SIGSEGV"),
        (Exit(139, oom=True), "was killed by SIGSEGV"),
        (Exit(255), "exited with code 255"),
        (Exit(128), "exited with code 128"),
    ],
)
def test_ends_are_told_apart(end: Exit, words: str) -> None:
    assert module.describe(end, 256 << 20) == words


async def test_what_it_was_stopped_for_is_how_it_ended(instance: Instance, puppet: Puppet) -> None:
    await started(instance, puppet)
    await instance.stop(0, "was stopped for a test")
    await instance.stop(0, "was stopped again")
    puppet.ended.set_result(Exit(137))
    assert (await instance.ended()).reason == "was stopped for a test"


async def test_one_that_runs_already_is_adopted(instance: Instance, puppet: Puppet) -> None:
    adopting = asyncio.ensure_future(instance.adopt(5))
    raw = await puppet.connect(hello())
    await adopting
    await raw.frame()
    assert (instance.is_ready, puppet.started) == (True, 0)
    outcomes, _ = invoke(instance)
    frame = await raw.frame()
    assert frame
    raw.send(Frame(Kind.REPLY, frame.call_id, body=b"2"))
    await until(lambda: outcomes)
    assert outcomes[0].body == b"2"


async def test_one_that_stays_away_is_not_adopted(instance: Instance) -> None:
    with pytest.raises(InstanceFailed, match="did not come back"):
        await instance.adopt(0.05)


async def test_the_next_life_listens_where_the_last_one_did(instance: Instance, puppet: Puppet) -> None:
    await started(instance, puppet)
    instance.leave()
    assert (puppet.directory / "s").exists()
    again = make(puppet)
    adopting = asyncio.ensure_future(again.adopt(5))
    await until(lambda: again._server)
    await puppet.connect(hello())
    await adopting
    assert puppet.stopped == 0
    again.leave()


async def test_a_runtime_that_stays_off_its_socket_has_ended(
    instance: Instance, puppet: Puppet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_RECONNECT", 0.05)
    raw = await started(instance, puppet)
    raw.writer.transport.abort()
    async with asyncio.timeout(5):
        assert await instance.ended() == End("closed its connection and did not come back", "last words")


async def test_a_runtime_that_comes_back_serves_on(
    instance: Instance, puppet: Puppet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_RECONNECT", 0.1)
    raw = await started(instance, puppet)
    ended = asyncio.ensure_future(instance.ended())
    raw.writer.transport.abort()
    await until(lambda: not instance.is_ready)
    await puppet.connect(hello())
    await until(lambda: instance.is_ready)
    outcomes, _ = invoke(instance)
    assert outcomes == []
    await asyncio.wait({ended}, timeout=0.2)
    assert not ended.done()
    ended.cancel()
