"""What every runtime must do, over a socket as the node's: cases times runtimes. A test module subclasses the suite."""

import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from gridnode import wire
from gridnode.errors import GridError
from gridnode.flow import FIRST_ITEMS, Credit
from gridnode.sandbox import Sandbox
from gridnode.wire import Frame, Kind, Op
from tests.runtimes.sources import (
    ALONE_ASYNC,
    ALONE_EXEC,
    ALONE_HTTP,
    ALONE_NODE,
    CONTEXT,
    CONTEXT_EXEC,
    CONTEXT_HTTP,
    CONTEXT_NODE,
    DIES,
    DIES_HTTP,
    ECHO,
    FAILS,
    FAILS_EXEC,
    FAILS_HTTP,
    FAILS_NODE,
    HANGS_ASYNC,
    HANGS_EXEC,
    HANGS_HTTP,
    HANGS_NODE,
    LARGE_EXEC,
    LARGE_HTTP,
    MEET,
    MEET_ASYNC,
    MEET_EXEC,
    MEET_HTTP,
    MEET_NODE,
    NO_JSON_HTTP,
    ONWARD,
    ONWARD_NODE,
    PRINTS,
    PRINTS_HTTP,
    PRINTS_NODE,
    STARTED,
    STARTED_EXEC,
    STARTED_HTTP,
    STARTED_NODE,
    YIELDS,
    YIELDS_EXEC,
    YIELDS_LARGE,
    YIELDS_LARGE_NODE,
    YIELDS_NODE,
)
from tests.sandbox.conformance import PATIENCE, Line, Listener, Place

COLUMNS = {
    "python": "Python",
    "python_async": "Python, `async def`",
    "node": "JavaScript",
    "exec": "a program",
    "http": "an HTTP server",
}
SUFFIXES = {"python": ".py", "node": ".js", "exec": ".sh", "http": ".py"}
YES = "yes"


class Subject(NamedTuple):
    """A task file for one runtime. column: of the table; runtime: a TaskSpec's."""

    column: str
    source: str

    @property
    def runtime(self) -> str:
        return self.column.partition("_")[0]

    @property
    def file(self) -> str:
        return f"tasks/req{SUFFIXES[self.runtime]}"


class Served(NamedTuple):
    """A running instance. line: takes the next connection; logs: its output so far."""

    line: Callable[[], Awaitable[Line]]
    logs: Callable[[], Awaitable[str]]


Serve = Callable[..., Awaitable[Served]]
"""Starts a Subject; keywords are fields of its SandboxSpec."""
Test = Callable[..., Awaitable[None]]
ROWS: dict[str, dict[str, str]] = {}
"""Title of a case: what each column says of it."""


def case(title: str, notes: dict[str, str] | None = None, **sources: str) -> Callable[[Test], Test]:
    """A row of the table: run for each column that has a source; the others, and exceptions, have notes."""
    ROWS[title] = {column: (notes or {}).get(column, YES) for column in COLUMNS}
    assert {column for column in COLUMNS if column not in sources} <= set(notes or {}), title
    subjects = [pytest.param(Subject(column, source), id=column) for column, source in sources.items()]
    mark: Callable[[Test], Test] = pytest.mark.parametrize("subject", subjects)
    return mark


def table() -> str:
    """The cases as a Markdown table."""
    lines = [["", *COLUMNS.values()], ["---"] * (len(COLUMNS) + 1)]
    lines += [[title, *cells.values()] for title, cells in ROWS.items()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


@asynccontextmanager
async def opened(place: Place, sandbox: Sandbox, images: dict[str, str], **common: Any) -> AsyncIterator[Serve]:
    """Starts subjects in this sandbox. images: by runtime, without one a test is skipped; common: of every spec."""

    async def start(subject: Subject, **fields: Any) -> Served:
        if subject.runtime not in images:
            pytest.skip(f"nothing here runs {subject.runtime}")
        given = {"file": subject.file, "runtime": subject.runtime, "image": images[subject.runtime]}
        spec = place.spec("", **(given | common | fields))
        file = Path(spec.release_dir) / subject.file
        file.write_text(subject.source)
        file.chmod(0o555)
        listener = await listeners.enter_async_context(Listener(Path(spec.socket_dir)))
        await sandbox.start(spec)
        return Served(listener.line, lambda: sandbox.logs(spec.instance, 100))

    async with AsyncExitStack() as listeners:
        yield start


async def failure(line: Line, name: str = "req", event: object = None) -> GridError:
    with pytest.raises(GridError) as caught:
        await line.ask(name, event)
    return caught.value


async def replies(line: Line, count: int) -> dict[int, Frame]:
    """The next `count` frames by their call."""
    frames = [await line.receive() for _ in range(count)]
    return {frame.call_id: frame for frame in frames}


async def part(line: Line, call_id: int) -> Any:
    """The next item of a stream."""
    frame = await line.receive()
    assert (frame.kind, frame.call_id) == (Kind.PART, call_id), frame
    return json.loads(frame.body)


def code_of(frame: Frame) -> str:
    assert frame.flags & wire.FLAG_ERROR
    return wire.decode_error(frame.body).code


async def shows(served: Served, *texts: str) -> bool:
    """Whether its output holds all the texts, within the time that a backend needs to take it in."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        logged = await served.logs()
        if all(text in logged for text in texts):
            return True
    return False


class RuntimeConformance:
    """Needs the fixture `serve`."""

    @case("an argument and a result are JSON, up to 6 MiB", **ECHO)
    async def test_echo(self, serve: Serve, subject: Subject) -> None:
        line = await (await serve(subject)).line()
        assert line.hello["version"] == wire.VERSION
        assert [handler["name"] for handler in line.hello["handlers"]] == ["req"]
        for value in ({"a": [1, 2.5, "é\u2028", None, True]}, "x", 0, [], "y" * (wire.MAX_CALL_BODY - 2)):
            assert await line.ask("req", value) == value

    @case("no argument is `null`", **ECHO)
    async def test_no_argument(self, serve: Serve, subject: Subject) -> None:
        line = await (await serve(subject)).line()
        assert await line.ask("req") is None

    @case(
        "the context: task, node, instance, invocation, attempt, deadline",
        notes={"exec": "in `GRID_*` variables", "http": "in `X-Grid-*` headers"},
        python=CONTEXT.format("def"),
        python_async=CONTEXT.format("async def"),
        node=CONTEXT_NODE,
        exec=CONTEXT_EXEC,
        http=CONTEXT_HTTP,
    )
    async def test_context(self, serve: Serve, subject: Subject) -> None:
        line = await (await serve(subject, instance="0a1b2c3d")).line()
        meta = json.dumps({"id": "5" * 32, "attempt": 2}).encode()
        *known, left = await line.ask("req", 1, meta, deadline_ms=20_000)
        assert known == ["req", "attic", "0a1b2c3d", "5" * 32, 2]
        assert 5 < left <= 20

    @case(
        "an error is the caller's, with its trace; the instance goes on",
        notes={
            "exec": "an exit code, with the last lines of stderr",
            "http": "a status that is not 2xx, with the end of its body",
        },
        python=FAILS.format("def"),
        python_async=FAILS.format("async def"),
        node=FAILS_NODE,
        exec=FAILS_EXEC,
        http=FAILS_HTTP,
    )
    async def test_error(self, serve: Serve, subject: Subject) -> None:
        line = await (await serve(subject)).line()
        error = await failure(line, event="fail")
        assert error.code == "task_raised"
        raised = ("ValueError: cannot take fail", "RangeError: cannot take fail")
        assert error.message in (*raised, "exit code 3", "HTTP 500 Internal Server Error")
        assert "cannot take fail" in str(error.trace)
        assert "runtimes" not in str(error.trace)
        assert await line.ask("req", "fine") == "fine"

    @case(
        "a result that is no JSON is refused",
        notes={"exec": "it becomes a string", "http": "it becomes a string"},
        python="def handler(event): return {1, 2}",
        python_async="async def handler(event): return object()",
        node="exports.handler = () => 1n",
        exec="#!/bin/sh\necho '{1, 2}'",
        http=NO_JSON_HTTP,
    )
    async def test_no_json(self, serve: Serve, subject: Subject) -> None:
        line = await (await serve(subject)).line()
        if subject.runtime in ("exec", "http"):
            assert await line.ask("req") == "{1, 2}"
        else:
            assert "JSON" in (await failure(line)).message

    @case(
        "a result that is too large is refused",
        python="def handler(event): return 'x' * 7_000_000",
        python_async="async def handler(event): return 'x' * 7_000_000",
        node="exports.handler = () => 'x'.repeat(7_000_000)",
        exec=LARGE_EXEC,
        http=LARGE_HTTP,
    )
    async def test_too_large(self, serve: Serve, subject: Subject) -> None:
        line = await (await serve(subject)).line()
        for _ in range(2):
            assert (await failure(line)).code == "body_too_large"

    @case("an argument that is no JSON, another task, another op are refused", **ECHO)
    async def test_refused(self, serve: Serve, subject: Subject) -> None:
        line = await (await serve(subject)).line()
        line.send(Frame(Kind.CALL, 1, Op.INVOKE, name="req", body=b"{"))
        assert code_of(await line.receive()) == "body_invalid"
        line.send(Frame(Kind.CALL, 2, 999, name="req"))
        assert code_of(await line.receive()) == "call"
        assert (await failure(line, "req.nothing")).code == "task_not_found"
        assert await line.ask("req", 1) == 1

    @case(
        "a file that cannot be served is told with the reason",
        python="import nothing_like_it",
        python_async="async def handler(event:\n",
        node="require('nothing_like_it')",
        exec="#!/usr/bin/nothing_like_it\n",
        http="#!/usr/bin/nothing_like_it\n",
    )
    async def test_not_served(self, serve: Serve, subject: Subject) -> None:
        served = await serve(subject)
        line = await served.line()
        assert line.hello["handlers"] == []
        assert "nothing_like_it" in line.hello["error"]["message"] or "SyntaxError" in line.hello["error"]["message"]
        assert subject.file in line.hello["error"]["message"]
        line.close()

    @case(
        "`concurrency = N` takes N calls at once",
        notes={"python": "on threads", "exec": "as processes"},
        python=MEET,
        python_async=MEET_ASYNC,
        node=MEET_NODE,
        exec=MEET_EXEC,
        http=MEET_HTTP,
    )
    async def test_concurrency(self, serve: Serve, subject: Subject) -> None:
        line = await (await serve(subject, concurrency=3)).line()
        assert line.hello["handlers"] == [{"name": "req", "concurrency": 3}]
        sent = {line.call("req", n): n for n in range(3)}
        assert {call: json.loads(frame.body) for call, frame in (await replies(line, 3)).items()} == sent

    @case(
        "`concurrency = 1` takes one at a time, in order",
        python="def handler(event): return [event, 0]",
        python_async=ALONE_ASYNC,
        node=ALONE_NODE,
        exec=ALONE_EXEC,
        http=ALONE_HTTP,
    )
    async def test_one_at_a_time(self, serve: Serve, subject: Subject) -> None:
        line = await (await serve(subject, concurrency=1)).line()
        sent = [line.call("req", n) for n in range(5)]
        assert [line.result(await line.receive(), call) for call in sent] == [[n, 0] for n in range(5)]

    @case(
        "calls at once by default",
        notes={"python": "1", "python_async": "64", "node": "64", "exec": "1", "http": "16"},
        **ECHO,
    )
    async def test_default_concurrency(self, serve: Serve, subject: Subject) -> None:
        line = await (await serve(subject)).line()
        wanted = int(ROWS["calls at once by default"][subject.column])
        assert line.hello["handlers"] == [{"name": "req", "concurrency": wanted}]

    @case(
        "a call that is taken back before its turn never starts",
        python=STARTED.format("def", "time.sleep(0.3)", "time"),
        python_async=STARTED.format("async def", "await asyncio.sleep(0.3)", "asyncio"),
        node=STARTED_NODE,
        exec=STARTED_EXEC,
        http=STARTED_HTTP,
    )
    async def test_cancel_before(self, serve: Serve, subject: Subject) -> None:
        line = await (await serve(subject, concurrency=1)).line()
        calls = [line.call("req", event) for event in ("long", "never", "last")]
        line.send(Frame(Kind.CANCEL, calls[1]))
        line.send(Frame(Kind.CANCEL, 12345))
        found = await replies(line, 3)
        assert code_of(found[calls[1]]) == "call"
        assert json.loads(found[calls[2]].body) == ["long", "last"]

    @case(
        "a call that waits is ended when it is cancelled; the instance goes on",
        notes={
            "python": "a thread cannot be stopped: the node ends its instance",
            "node": "and its `signal` aborted",
            "http": "its connection is closed",
        },
        python_async=HANGS_ASYNC,
        node=HANGS_NODE,
        exec=HANGS_EXEC,
        http=HANGS_HTTP,
    )
    async def test_cancel(self, serve: Serve, subject: Subject) -> None:
        line = await (await serve(subject)).line()
        call = line.call("req")
        line.send(Frame(Kind.PING, 77))
        assert (await line.receive())[:2] == (Kind.PONG, 77)
        line.send(Frame(Kind.CANCEL, call))
        frame = await line.receive()
        assert (frame.call_id, code_of(frame)) == (call, "call")
        assert await line.ask("req", "next") == "next"

    @case(
        "what it prints goes to the log, never to the caller",
        notes={"exec": "stderr; stdout is the result"},
        python=PRINTS.format("def"),
        python_async=PRINTS.format("async def"),
        node=PRINTS_NODE,
        exec="#!/bin/sh\necho 'out of it' >&2\necho 'to stderr' >&2",
        http=PRINTS_HTTP,
    )
    async def test_output(self, serve: Serve, subject: Subject) -> None:
        served = await serve(subject)
        line = await served.line()
        assert await line.ask("req", "it") is None
        assert await shows(served, "out of it", "to stderr")

    @case("a lost connection is dialled again", **ECHO)
    async def test_redial(self, serve: Serve, subject: Subject) -> None:
        served = await serve(subject)
        first = await served.line()
        assert await first.ask("req", 1) == 1
        first.close()
        assert await (await served.line()).ask("req", 2) == 2

    @case("garbage costs the connection, not the instance", **ECHO)
    async def test_garbage(self, serve: Serve, subject: Subject) -> None:
        served = await serve(subject)
        line = await served.line()
        line._writer.write(b"\xff" * 64)
        assert await line.ended()
        assert await (await served.line()).ask("req", 3) == 3

    @case(
        "ending the process ends the instance",
        notes={"exec": "of one call only"},
        python=DIES.format("def"),
        python_async=DIES.format("async def"),
        node="exports.handler = () => process.exit(7)",
        exec="#!/bin/sh\nkill -9 $$",
        http=DIES_HTTP,
    )
    async def test_exit(self, serve: Serve, subject: Subject) -> None:
        line = await (await serve(subject)).line()
        if subject.runtime == "exec":
            assert (await failure(line)).message == "killed by SIGKILL"
            return
        line.call("req")
        assert await line.ended()

    @case(
        "a deadline that passes ends the call",
        notes=dict.fromkeys(("python", "python_async", "node"), "by the node"),
        exec=HANGS_EXEC,
        http=HANGS_HTTP,
    )
    async def test_deadline(self, serve: Serve, subject: Subject) -> None:
        line = await (await serve(subject)).line()
        with pytest.raises(GridError) as caught:
            await line.ask("req", deadline_ms=200)
        assert caught.value.code == "timeout"
        assert await line.ask("req", "next") == "next"

    @case(
        "what it yields is a stream, item by item; one list for a caller that asks for none",
        notes={"exec": "each line it prints; else its output", "http": "its answer is the one item"},
        python=YIELDS.format("def"),
        python_async=YIELDS.format("async def"),
        node=YIELDS_NODE,
        exec=YIELDS_EXEC,
        http=ECHO["http"],
    )
    async def test_stream(self, serve: Serve, subject: Subject) -> None:
        line = await (await serve(subject)).line()
        call = line.call("req", 5, flags=wire.FLAG_STREAM)
        if subject.runtime == "http":
            assert line.result(await line.receive(), call) == 5
            return
        assert [await part(line, call) for _ in range(5)] == [0, 1, 2, 3, 4]
        reply = await line.receive()
        assert (reply.kind, reply.call_id, reply.flags, reply.body) == (Kind.REPLY, call, 0, b"")
        assert await line.ask("req", 5) == ("0\n1\n2\n3\n4" if subject.runtime == "exec" else [0, 1, 2, 3, 4])

    @case(
        "an error after some items is the end of the stream",
        notes={"http": "no"},
        python=YIELDS.format("def"),
        python_async=YIELDS.format("async def"),
        node=YIELDS_NODE,
        exec=YIELDS_EXEC,
    )
    async def test_stream_fails(self, serve: Serve, subject: Subject) -> None:
        line = await (await serve(subject)).line()
        call = line.call("req", 3, flags=wire.FLAG_STREAM)
        assert [await part(line, call) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(GridError) as caught:
            line.result(await line.receive(), call)
        assert (caught.value.code, "cannot take 3" in str(caught.value.trace)) == ("task_raised", True)

    @case(
        "it waits for a reader that has enough, and ends when it is cancelled",
        notes={"exec": "is killed", "http": "no"},
        python=YIELDS.format("def"),
        python_async=YIELDS.format("async def"),
        node=YIELDS_NODE,
        exec=YIELDS_EXEC,
    )
    async def test_stream_waits(self, serve: Serve, subject: Subject) -> None:
        line = await (await serve(subject)).line()
        call = line.call("req", "forever", flags=wire.FLAG_STREAM)
        assert [await part(line, call) for _ in range(FIRST_ITEMS)] == list(range(FIRST_ITEMS))
        for more in (10, 3):
            line.send(Frame(Kind.PING, 77))
            assert (await line.receive())[:2] == (Kind.PONG, 77)
            line.send(Frame(Kind.CREDIT, call, body=wire.encode_credit(Credit(more, 1000))))
            for _ in range(more):
                await part(line, call)
        line.send(Frame(Kind.CANCEL, call))
        frame = await line.receive()
        assert (frame.call_id, code_of(frame)) == (call, "call")
        left = await line.ask("req")
        assert left is None if subject.runtime == "exec" else left == [["forever", None]]

    @case(
        "more items than a result can hold are refused to a caller that asks for no stream",
        notes={"exec": "as any output", "http": "as any answer"},
        python=YIELDS_LARGE.format("def"),
        python_async=YIELDS_LARGE.format("async def"),
        node=YIELDS_LARGE_NODE,
    )
    async def test_stream_too_large(self, serve: Serve, subject: Subject) -> None:
        line = await (await serve(subject)).line()
        for _ in range(2):
            assert (await failure(line)).code == "body_too_large"

    @case(
        "calls tasks and publishes events, on behalf of the call that it serves",
        notes=dict.fromkeys(("exec", "http"), "no"),
        python=ONWARD.format("def", "", "", ""),
        python_async=ONWARD.format("async def", "await ", "_async", "_async"),
        node=ONWARD_NODE,
    )
    async def test_onward(self, serve: Serve, subject: Subject) -> None:
        line = await (await serve(subject)).line()
        call_id = line.call("req", 7, b'{"topic": "a.b"}')
        for op, name, answer in ((Op.INVOKE, "other", b'"made"'), (Op.PUBLISH, "c.d", b"2")):
            frame = await line.receive()
            assert (frame.kind, frame.op, frame.name, json.loads(frame.body)) == (Kind.CALL, op, name, 7)
            assert json.loads(frame.meta) == {"parent": call_id}
            line.send(Frame(Kind.REPLY, frame.call_id, 0, 0, 0, "", b"", answer))
        assert line.result(await line.receive(), call_id) == ["made", 2, "a.b"]
