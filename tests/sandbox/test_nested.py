"""Calls out of a sandbox that says whatever it likes: depth, deadline and number are the node's to say."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gridnode import wire
from gridnode.errors import CallTimeout, Forbidden, GridError, NoCapacity, TaskRaised
from gridnode.link import Cancel, LinkLimits
from gridnode.messages import decode_call_meta
from gridnode.model import Done, InstanceId, Invocation, InvocationId, NodeId, Outcome, TaskName
from gridnode.sandbox import Exit, SandboxSpec, nested
from gridnode.sandbox.instance import SOCKET, Instance
from gridnode.sandbox.nested import MAX_DEPTH, MAX_NESTED, Onward
from gridnode.wire import FLAG_ERROR, Frame, Kind, Op
from tests.fakes.peers import Raw, until

ECHO, OTHER = TaskName("echo"), TaskName("other")
HELLO = Frame(Kind.HELLO, 0, body=b'{"version":1,"handlers":[{"name":"echo","concurrency":64}]}')
TIMEOUT = 7.0


class Inside:
    """An Instance with the test for its sandbox and for the rest of the grid."""

    def __init__(self, directory: Path) -> None:
        self.routed: list[tuple[Invocation, Done]] = []
        self.cancelled: list[Invocation] = []
        self.outcomes: list[Outcome] = []
        self.cancels: list[Cancel] = []
        self._path = directory / "s" / SOCKET
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
            socket_dir=str(directory / "s"),
            memory=1 << 26,
            cpu=1.0,
        )
        self.published: list[tuple[str, bytes, int]] = []
        onward = Onward(self._route, lambda task: TIMEOUT, self._publish)
        self.instance = Instance(spec, self, LinkLimits(max_inbound=256), lambda instance: None, onward)
        self.raw: Raw

    def _route(self, call: Invocation, done: Done) -> Cancel:
        self.routed.append((call, done))
        return lambda: self.cancelled.append(call)

    def _publish(self, topic: str, body: bytes, depth: int) -> int:
        self.published.append((topic, body, depth))
        return len(self.published)

    async def begin(self) -> None:
        start = asyncio.ensure_future(self.instance.start(5))
        await until(self._path.exists)
        self.raw = Raw(*await asyncio.open_unix_connection(str(self._path)))
        self.raw.send(HELLO)
        await start
        await self.raw.frame()

    async def enter(self, seconds: float = 60.0, meta: bytes = b"") -> int:
        """Send a call inside; its id there."""
        deadline = asyncio.get_running_loop().time() + seconds
        call = Invocation(InvocationId("i"), ECHO, b"1", deadline, meta)
        self.cancels.append(self.instance.invoke(call, self.outcomes.append))
        frame = await self.raw.frame()
        assert frame
        return frame.call_id

    def call(self, call_id: int, meta: Any, op: int = Op.INVOKE, ms: int = 0, body: bytes = b"2") -> None:
        raw = meta if isinstance(meta, bytes) else json.dumps(meta).encode()
        self.raw.send(Frame(Kind.CALL, call_id, op, 0, ms, OTHER, raw, body))

    async def nested(self, call_id: int, meta: Any, ms: int = 0) -> tuple[Invocation, Done]:
        """Make a call from inside; as it goes on its way."""
        before = len(self.routed)
        self.call(call_id, meta, ms=ms)
        await until(lambda: len(self.routed) > before)
        return self.routed[-1]

    async def refusal(self, call_id: int) -> GridError:
        frame = await self.raw.frame()
        assert frame
        assert (frame.kind, frame.call_id, frame.flags) == (Kind.REPLY, call_id, FLAG_ERROR)
        return wire.decode_error(frame.body)

    # a Sandbox

    async def start(self, spec: SandboxSpec) -> None: ...

    async def wait(self, instance: InstanceId) -> Exit:
        await asyncio.get_running_loop().create_future()
        raise AssertionError

    async def stop(self, instance: InstanceId, grace: float) -> None: ...

    async def logs(self, instance: InstanceId, lines: int) -> str:
        return ""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(name)


@pytest.fixture
async def inside(tmp_path: Path) -> AsyncIterator[Inside]:
    one = Inside(tmp_path)
    await one.begin()
    yield one
    one.raw.writer.transport.abort()
    await one.instance.stop(0)


def left(call: Invocation) -> float:
    return call.deadline - asyncio.get_running_loop().time()


async def test_a_call_goes_onward_and_its_result_comes_back(inside: Inside) -> None:
    parent = await inside.enter(meta=b'{"id":"x"}')
    assert not inside.instance.is_calling
    call, done = await inside.nested(9, {"parent": parent}, ms=2000)
    assert inside.instance.is_calling
    meta = decode_call_meta(call.meta)
    assert (call.task, call.body, meta.depth, meta.node, len(meta.id)) == (OTHER, b"2", 1, "", 32)
    assert 1 < left(call) <= 2
    done(Outcome(b"three"))
    frame = await inside.raw.frame()
    assert frame
    assert (frame.kind, frame.call_id, frame.body) == (Kind.REPLY, 9, b"three")
    assert not inside.instance.is_calling


async def test_an_error_comes_back_typed_with_its_traceback(inside: Inside) -> None:
    _, done = await inside.nested(9, {"parent": await inside.enter()})
    done(Outcome(error=TaskRaised("ValueError: no", trace="there")))
    told = await inside.refusal(9)
    assert (told.code, told.message, told.trace) == ("task_raised", "ValueError: no", "there")


async def test_what_is_no_matter_of_tasks_is_not_told(inside: Inside) -> None:
    _, done = await inside.nested(9, {"parent": await inside.enter()})
    done(Outcome(error=GridError("at 10.0.0.1:7400")))
    assert "10.0.0.1" not in (await inside.refusal(9)).message


@pytest.mark.parametrize("op", [*(op for op in Op if op not in (Op.INVOKE, Op.PUBLISH)), 9999])
async def test_nothing_but_invoke_is_within_reach(inside: Inside, op: int) -> None:
    inside.call(9, {"parent": await inside.enter()}, op=op)
    assert isinstance(await inside.refusal(9), Forbidden)
    assert inside.routed == []


@pytest.mark.parametrize(
    "meta", [b"", b"x", b"{}", b"[]", b'{"parent":"1"}', b'{"parent":null}', b'{"parent":1.5}', b"[" * 4000, b"\xff"]
)
async def test_garbage_for_metadata_is_refused(inside: Inside, meta: bytes) -> None:
    await inside.enter()
    inside.call(9, meta)
    assert (await inside.refusal(9)).code == "body_invalid"
    assert inside.routed == []


@given(meta=st.binary(max_size=200), op=st.integers(0, 65535), body=st.binary(max_size=50))
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_garbage_gets_through(meta: bytes, op: int, body: bytes) -> None:
    async def check() -> None:
        routed: list[Invocation] = []

        def route(call: Invocation, done: Done) -> Cancel:
            routed.append(call)
            return lambda: None

        one = nested.Nested(Onward(route, lambda task: TIMEOUT))
        with pytest.raises(GridError):
            one.called(None, Frame(Kind.CALL, 1, op, 0, 0, "t", meta, body))  # type: ignore[arg-type]
        assert routed == []

    asyncio.run(check())


async def test_a_call_needs_one_that_it_serves(inside: Inside) -> None:
    parent = await inside.enter()
    for wrong in (parent + 1, 0, -1):
        inside.call(9, {"parent": wrong})
        assert isinstance(await inside.refusal(9), Forbidden)
    inside.raw.send(Frame(Kind.REPLY, parent, body=b"1"))
    await until(lambda: inside.outcomes)
    inside.call(9, {"parent": parent})
    assert isinstance(await inside.refusal(9), Forbidden)
    assert inside.routed == []


@pytest.mark.parametrize("depth", [0, 1, MAX_DEPTH - 1])
async def test_the_node_counts_the_depth(inside: Inside, depth: int) -> None:
    parent = await inside.enter(meta=json.dumps({"id": "x", "depth": depth}).encode())
    call, _ = await inside.nested(9, {"parent": parent, "depth": 0, "attempt": -5, "node": "that-one"})
    meta = decode_call_meta(call.meta)
    assert (meta.depth, meta.attempt, meta.node) == (depth + 1, 1, "")


async def test_past_the_deepest_it_is_refused(inside: Inside) -> None:
    parent = await inside.enter(meta=json.dumps({"depth": MAX_DEPTH}).encode())
    inside.call(9, {"parent": parent, "depth": 0})
    told = await inside.refusal(9)
    assert isinstance(told, Forbidden)
    assert "8 deep" in told.message
    assert inside.routed == []


@pytest.mark.parametrize(("ms", "most"), [(0, 3.0), (2**32 - 1, 3.0), (1000, 1.0)])
async def test_no_call_outlives_the_one_it_is_made_for(inside: Inside, ms: int, most: float) -> None:
    call, _ = await inside.nested(9, {"parent": await inside.enter(3.0)}, ms=ms)
    assert most - 1 < left(call) <= most


async def test_a_task_has_its_own_timeout(inside: Inside) -> None:
    call, _ = await inside.nested(9, {"parent": await inside.enter(60.0)})
    assert TIMEOUT - 1 < left(call) <= TIMEOUT


async def test_past_its_deadline_a_call_makes_no_more(inside: Inside) -> None:
    parent = await inside.enter(0.0)
    inside.call(9, {"parent": parent})
    assert isinstance(await inside.refusal(9), CallTimeout)


async def test_so_many_at_once_and_no_more(inside: Inside) -> None:
    parent = await inside.enter()
    for number in range(MAX_NESTED + 1):
        inside.call(100 + number, {"parent": parent})
    assert isinstance(await inside.refusal(100 + MAX_NESTED), NoCapacity)
    assert len(inside.routed) == MAX_NESTED
    inside.routed[0][1](Outcome(b"1"))
    await inside.raw.frame()
    await inside.nested(9, {"parent": parent})


async def test_so_many_bytes_at_once_and_no_more(inside: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nested, "MAX_BYTES", 100)
    parent = await inside.enter()
    inside.call(7, {"parent": parent}, body=b"1" * 60)
    inside.call(8, {"parent": parent}, body=b"1" * 60)
    assert isinstance(await inside.refusal(8), NoCapacity)
    await until(lambda: inside.routed)
    inside.routed[0][1](Outcome())
    await inside.raw.frame()
    inside.call(9, {"parent": parent}, body=b"1" * 60)
    await until(lambda: len(inside.routed) == 2)


async def test_a_call_taken_back_goes_no_further(inside: Inside) -> None:
    call, done = await inside.nested(9, {"parent": await inside.enter()})
    inside.raw.send(Frame(Kind.CANCEL, 9))
    await until(lambda: inside.cancelled)
    assert inside.cancelled == [call]
    assert not inside.instance.is_calling
    done(Outcome(b"late"))


async def test_calls_of_a_call_that_was_given_up_are_given_up(inside: Inside) -> None:
    call, _ = await inside.nested(9, {"parent": await inside.enter()})
    inside.cancels[0]()
    frames = [await inside.raw.frame(), await inside.raw.frame()]
    assert [frame and frame.kind for frame in frames] == [Kind.CANCEL, Kind.REPLY]
    assert inside.cancelled == [call]


async def test_calls_that_a_handler_did_not_wait_for_end_with_it(inside: Inside) -> None:
    parent = await inside.enter()
    call, _ = await inside.nested(9, {"parent": parent})
    inside.raw.send(Frame(Kind.REPLY, parent, body=b"1"))
    assert isinstance(await inside.refusal(9), CallTimeout)
    assert inside.cancelled == [call]


async def test_calls_of_a_sandbox_that_is_gone_are_given_up(inside: Inside) -> None:
    call, done = await inside.nested(9, {"parent": await inside.enter()})
    inside.raw.writer.transport.abort()
    await until(lambda: inside.cancelled)
    assert inside.cancelled == [call]
    assert inside.outcomes[0].error
    assert not inside.instance.is_calling
    done(Outcome(b"late"))


async def test_events_have_the_depth_of_the_call_that_published_them(inside: Inside) -> None:
    parent = await inside.enter(meta=b'{"depth": 3}')
    inside.call(7, {"parent": parent, "depth": 0}, op=Op.PUBLISH, body=b'"x"')
    reply = await inside.raw.frame()
    assert reply
    assert (reply.call_id, reply.flags, reply.body) == (7, 0, b"1")
    assert inside.published == [(OTHER, b'"x"', 4)]


async def test_nothing_is_published_while_no_call_is_served(inside: Inside) -> None:
    inside.call(7, {"parent": 99}, op=Op.PUBLISH)
    assert isinstance(await inside.refusal(7), Forbidden)
    assert inside.published == []


async def test_an_instance_publishes_so_much_in_a_second(inside: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nested, "MAX_PUBLISHED", 2)
    parent = await inside.enter()
    for number in (1, 2):
        inside.call(number, {"parent": parent}, op=Op.PUBLISH)
        await inside.raw.frame()
    inside.call(3, {"parent": parent}, op=Op.PUBLISH)
    assert isinstance(await inside.refusal(3), NoCapacity)
    assert len(inside.published) == 2
