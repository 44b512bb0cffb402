import asyncio
import contextlib
import io
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from gridnode import wire
from gridnode.api import Api
from gridnode.errors import (
    CallTimeout,
    EngineUnavailable,
    GridError,
    NoCapacity,
    NodeLost,
    NodeNotFound,
    NoNode,
    NotReady,
    TaskCrashed,
    TaskNotFound,
    TaskRaised,
)
from gridnode.event_stream import EventStreams, Stream
from gridnode.events import Events
from gridnode.fast_door import FastDoor
from gridnode.link import Cancel
from gridnode.model import Done, InstanceId, Invocation, Member, MemberState, NodeId, NodeRecord, Outcome, TaskName
from gridnode.room import Room
from gridnode.topics import Event
from tests.fakes.peers import until

NODE = NodeId("ab" * 20)
MAX_REQUESTS = 4
MEMBER = Member(NodeRecord(NODE, "web1", 1, 0, (), "1", 0), MemberState.ALIVE, 0.0)


class Door:
    """The API on a real socket, and what it routes."""

    def __init__(self) -> None:
        self.answer: Callable[[Done], None] = lambda done: done(self.outcome)
        self.outcome = Outcome(b'{"ok":1}', node=NODE, name="web1", instance=InstanceId("cd" * 4), duration=0.0015)
        self.calls: list[tuple[Invocation, str]] = []
        self.cancels = 0
        self.base = ""
        self.port = 0
        self.session: Any = None

    def route(self, call: Invocation, done: Done, node: str) -> Cancel:
        self.calls.append((call, node))
        self.answer(done)
        return self._cancel

    def _cancel(self) -> None:
        self.cancels += 1

    async def ask(self, method: str, path: str, **options: Any) -> tuple[int, Any, Any]:
        async with self.session.request(method, self.base + path, **options) as response:
            body = await response.read()
            assert response.content_type == "application/json"
            return response.status, json.loads(body), response.headers

    async def error(self, path: str = "/v1/invoke/echo", status: int = 400, **options: Any) -> dict[str, str]:
        got, body, _ = await self.ask("POST", path, **options)
        assert got == status, body
        return dict(body["error"])


@pytest.fixture(params=["thorough", "fast"])
async def door(request: pytest.FixtureRequest) -> AsyncIterator[Door]:
    """Through aiohttp alone, and with the fast door before it: nobody can tell which."""
    door = Door()
    room = Room(MAX_REQUESTS, 1000 + MAX_REQUESTS)
    api = Api(door.route, lambda task: 7.0, 60.0, lambda: [MEMBER], lambda: [TaskName("echo")], room=room)
    thorough = api.server()
    fast = FastDoor(api.calls, thorough)
    protocol = fast if request.param == "fast" else thorough
    server = await asyncio.get_running_loop().create_server(protocol, "127.0.0.1", 0)
    door.port = server.sockets[0].getsockname()[1]
    door.base = f"http://127.0.0.1:{door.port}"
    async with aiohttp.ClientSession() as door.session:
        yield door
    server.close()
    fast.close()
    await thorough.shutdown(1.0)
    assert room.calls == 0


# -- invoking -------------------------------------------------------------------------------------------------------


async def test_a_call_and_its_result(door: Door) -> None:
    now = asyncio.get_running_loop().time()
    status, body, headers = await door.ask("POST", "/v1/invoke/req.get_ip", data=b' {"a": [1]} ')
    call, node = door.calls[0]
    assert (status, body) == (200, {"ok": 1})
    assert (call.task, call.body, node) == ("req.get_ip", b' {"a": [1]} ', "")
    assert 6.9 < call.deadline - now < 8.0
    assert (headers["Grid-Node"], headers["Grid-Duration-Ms"]) == ("web1", "1.500")
    assert headers["Grid-Invocation-Id"] == call.id
    assert len(call.id) == 32
    assert json.loads(call.meta)["id"] == call.id


async def test_no_body_is_none_and_no_result_is_null(door: Door) -> None:
    door.outcome = Outcome()
    status, body, headers = await door.ask("POST", "/v1/invoke/echo")
    assert (status, body, door.calls[0][0].body) == (200, None, b"")
    assert "Grid-Node" not in headers


async def test_a_node_and_a_timeout_can_be_asked_for(door: Door) -> None:
    now = asyncio.get_running_loop().time()
    await door.ask("POST", "/v1/invoke/echo?node=web1&timeout=0.5")
    call, node = door.calls[0]
    assert node == "web1"
    assert 0.4 < call.deadline - now < 1.5


@pytest.mark.parametrize("timeout", ["0", "-1", "61", "inf", "nan", "x", "", "1s", "1e99"])
async def test_a_bad_timeout(door: Door, timeout: str) -> None:
    error = await door.error(f"/v1/invoke/echo?timeout={timeout}")
    assert error["code"] == "body_invalid"
    assert door.calls == []


async def test_a_timeout_in_a_header(door: Door) -> None:
    now = asyncio.get_running_loop().time()
    await door.ask("POST", "/v1/invoke/echo", headers={"Grid-Timeout": "0.5"})
    await door.ask("POST", "/v1/invoke/echo?timeout=30", headers={"Grid-Timeout": "0.5"})
    assert 0.4 < door.calls[0][0].deadline - now < 1.5
    assert 29 < door.calls[1][0].deadline - now < 31, "what the address says goes first"
    for text in ("0", "61", "soon", ""):
        assert (await door.error(headers={"Grid-Timeout": text}))["code"] == "body_invalid"


async def test_an_idempotency_key_goes_with_the_call(door: Door) -> None:
    await door.ask("POST", "/v1/invoke/echo", headers={"Idempotency-Key": "order 17"})
    call, _ = door.calls[0]
    assert call.key == "order 17"
    assert json.loads(call.meta) == {"id": call.id, "key": "order 17"}
    await door.ask("POST", "/v1/invoke/echo")
    assert (door.calls[1][0].key, b"key" in door.calls[1][0].meta) == ("", False)


@pytest.mark.parametrize("key", ["x" * 256, "schl\u00fcssel", "a\tb"])
async def test_a_key_that_cannot_be(door: Door, key: str) -> None:
    assert "255 printable" in (await door.error(headers={"Idempotency-Key": key}))["message"]
    assert door.calls == []


async def test_requests_under_way_are_bounded(door: Door) -> None:
    """In number, and in bytes that have been announced; those refused are told when to come again."""
    door.answer = lambda done: None
    waiting = [asyncio.ensure_future(door.ask("POST", "/v1/invoke/echo", data=b"1")) for _ in range(MAX_REQUESTS)]
    await until(lambda: len(door.calls) == MAX_REQUESTS)
    status, body, headers = await door.ask("POST", "/v1/invoke/echo", data=b"1")
    assert (status, body["error"]["code"], headers["Retry-After"]) == (429, "no_capacity", "1")
    assert (await door.ask("GET", "/healthz"))[0] == 200
    waiting.pop().cancel()
    await until(lambda: door.cancels == 1)
    door.answer = lambda done: done(door.outcome)
    assert (await door.ask("POST", "/v1/invoke/echo", data=b"1" * 1000))[0] == 200
    assert (await door.ask("POST", "/v1/invoke/echo", data=b"1" * 1002))[0] == 429
    for one in waiting:
        one.cancel()
    await until(lambda: door.cancels == MAX_REQUESTS)
    assert (await door.ask("POST", "/v1/invoke/echo", data=b"1" * 1002))[0] == 200


async def test_a_body_that_does_not_come_ends_with_the_calls_time(door: Door) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
    head = b"POST /v1/invoke/echo?timeout=0.1 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n[1,"
    writer.write(head)
    async with asyncio.timeout(10):
        answer = await reader.readline()
    assert b" 504 " in answer
    writer.close()
    assert door.calls == []
    assert (await door.ask("POST", "/v1/invoke/echo", data=b"1" * 1000))[0] == 200, "its room is free again"


ERRORS = [
    (TaskNotFound("no task 'ecoh'; did you mean echo?"), 404),
    (NodeNotFound("nobody"), 404),
    (NoCapacity("full"), 429),
    (TaskRaised("ValueError: x", trace="Traceback…"), 500),
    (TaskCrashed("crashed"), 502),
    (NodeLost("lost"), 502),
    (NoNode("none", hint="deploy"), 503),
    (NotReady("starting"), 503),
    (EngineUnavailable("down"), 503),
    (CallTimeout("late"), 504),
]


@pytest.mark.parametrize(("error", "status"), ERRORS, ids=lambda one: getattr(one, "code", one))
async def test_errors_are_errors(door: Door, error: GridError, status: int) -> None:
    door.outcome = Outcome(error=error, node=NODE, name="web1", duration=0.1)
    got, body, headers = await door.ask("POST", "/v1/invoke/echo")
    expected = {"code": error.code, "message": error.message, "node": "web1", "invocation_id": door.calls[0][0].id}
    expected |= {"trace": error.trace} if error.trace else {}
    expected |= {"hint": error.hint} if error.hint else {}
    assert (got, body) == (status, {"error": expected})
    assert headers["Grid-Node"] == "web1"
    assert ("Retry-After" in headers) == (status == 429)


NOT_JSON = [b"{", b"nope", b'{"a":1}x', b"'a'", b"NaN", b"\xff\xfe", b"{'a': 1}", b"[" * 100_000, b'{"a":' * 50_000]


@pytest.mark.parametrize("body", NOT_JSON, ids=lambda body: ascii(body[:8]))
async def test_a_body_that_is_not_json(door: Door, body: bytes) -> None:
    error = await door.error(data=body)
    assert error["code"] == "body_invalid"
    assert "not JSON" in error["message"]
    assert door.calls == []


async def test_the_largest_body_and_one_byte_more(door: Door) -> None:
    largest = b'"' + b"x" * (wire.MAX_CALL_BODY - 2) + b'"'
    status, _, _ = await door.ask("POST", "/v1/invoke/echo", data=io.BytesIO(largest))
    assert (status, len(door.calls[0][0].body)) == (200, wire.MAX_CALL_BODY)
    error = await door.error(status=413, data=io.BytesIO(largest + b" "))
    assert error["code"] == "body_too_large"

    async def in_parts() -> AsyncIterator[bytes]:
        for _ in range(7):
            yield b" " * 1024 * 1024

    error = await door.error(status=413, data=in_parts())
    assert (error["code"], len(door.calls)) == ("body_too_large", 1)


async def test_a_client_that_goes_away_cancels_its_call(door: Door) -> None:
    door.answer = lambda done: None
    _, writer = await asyncio.open_connection("127.0.0.1", door.port)
    writer.write(b"POST /v1/invoke/echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
    await until(lambda: door.calls)
    writer.close()
    await until(lambda: door.cancels == 1)


async def test_what_breaks_says_no_more_than_that(door: Door) -> None:
    def broken(done: Done) -> None:
        raise ZeroDivisionError("secret")

    door.answer = broken
    error = await door.error(status=500)
    assert error["code"] == "error"
    assert "secret" not in str(error)


@pytest.mark.parametrize("task", ["%2e%2e", "a%2Fb", "%00", "%0d%0aX:y", "x" * 300, "é", "%ff", "%ed%a0%80"])
async def test_odd_names_reach_nothing_but_the_router(door: Door, task: str) -> None:
    door.outcome = Outcome(error=TaskNotFound(f"no task {task!r}"))
    status, body, _ = await door.ask("POST", f"/v1/invoke/{task}")
    assert (status, bool(body["error"]["code"])) == (404, True)


# -- looking at the grid --------------------------------------------------------------------------------------------


async def test_the_grid_as_seen_from_here(door: Door) -> None:
    assert (await door.ask("GET", "/v1/tasks"))[:2] == (200, {"tasks": ["echo"]})
    status, body, _ = await door.ask("GET", "/v1/nodes")
    assert status == 200
    assert (body["nodes"][0]["record"]["name"], body["nodes"][0]["state"]) == ("web1", "alive")
    assert (await door.ask("GET", "/healthz"))[:2] == (200, {"status": "ok"})


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/", 404), ("GET", "/v1/invoke/echo", 405), ("PUT", "/v1/nodes", 405), ("POST", "/v1/invoke/", 404)],
)
async def test_what_is_not_served_is_an_error_in_json(door: Door, method: str, path: str, status: int) -> None:
    got, body, _ = await door.ask(method, path)
    assert (got, body["error"]["code"]) == (status, "http")


# -- pages in somebody's browser ------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["localhost", "localhost:10000", "127.0.0.1:10000", "[::1]:10000", "[::1]"])
async def test_hosts_that_are_served(door: Door, host: str) -> None:
    assert (await door.ask("GET", "/healthz", headers={"Host": host}))[0] == 200


FOREIGN_HOSTS = [
    "evil.example",
    "evil.example:10000",
    "localhost.evil.example",
    "127.0.0.1.evil.example",
    "",
    "[::1",
    "a@localhost",
]


@pytest.mark.parametrize("host", FOREIGN_HOSTS)
async def test_foreign_hosts_are_refused(door: Door, host: str) -> None:
    """DNS rebinding: a name of the attacker's that leads to 127.0.0.1."""
    status, body, _ = await door.ask("POST", "/v1/invoke/echo", headers={"Host": host})
    assert (status, body["error"]["code"], door.calls) == (403, "forbidden", [])


FOREIGN_ORIGINS = [
    "http://evil.example",
    "https://evil.example:10000",
    "null",
    "http://localhost.evil.example",
    "http://evil.example//localhost",
    "http://localhost@evil.example",
    "file://",
    "//",
    "x",
    "http://evil.example:80:localhost",
]


@pytest.mark.parametrize("origin", FOREIGN_ORIGINS)
async def test_foreign_origins_are_refused(door: Door, origin: str) -> None:
    status, _, _ = await door.ask("POST", "/v1/invoke/echo", headers={"Origin": origin})
    assert (status, door.calls) == (403, [])


@pytest.mark.parametrize("origin", ["http://localhost:10000", "http://127.0.0.1:3000", "http://[::1]:10000"])
async def test_pages_of_this_machine_may_call(door: Door, origin: str) -> None:
    assert (await door.ask("POST", "/v1/invoke/echo", headers={"Origin": origin}))[0] == 200


async def test_a_client_that_asks_first_is_told_to_go_on(door: Door) -> None:
    got, body, _ = await door.ask("POST", "/v1/invoke/echo", data=b'{"a":1}', expect100=True)
    assert (got, body) == (200, {"ok": 1})
    assert door.calls[0][0].body == b'{"a":1}'


# -- events ---------------------------------------------------------------------------------------------------------


class Streaming:
    """The API with events of one node without peers."""

    def __init__(self, base: str, events: Events, streams: EventStreams, session: aiohttp.ClientSession) -> None:
        self.base, self.events, self.streams, self.session = base, events, streams, session

    def subscribe(self, query: str = "topic=a.*") -> Any:
        return self.session.get(f"{self.base}/v1/subscribe?{query}")

    async def ask(self, method: str, path: str, **options: Any) -> tuple[int, Any]:
        async with self.session.request(method, self.base + path, **options) as response:
            return response.status, await response.json()


def no_run(call: Invocation, done: Done) -> Cancel:
    raise AssertionError("no task listens")


@pytest.fixture
async def streaming() -> AsyncIterator[Streaming]:
    events = Events({}, lambda node: None, lambda op, body: None, lambda version: None, no_run, no_run)
    streams = EventStreams(events)
    api = Api(lambda call, done, node: done, lambda task: 7.0, 60.0, list, list, streams)  # type: ignore[arg-type, return-value]
    runner = web.ServerRunner(api.server())
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    async with aiohttp.ClientSession() as session:
        yield Streaming(f"http://127.0.0.1:{runner.addresses[0][1]}", events, streams, session)
    streams.close()
    events.close()
    await runner.cleanup()


async def next_event(response: aiohttp.ClientResponse) -> dict[str, Any]:
    """The next event of a stream, comments left out."""
    async with asyncio.timeout(10):
        while True:
            line = await response.content.readline()
            assert line, "the stream has ended"
            if line.startswith(b"data: "):
                return dict(json.loads(line[6:]))


async def test_a_stream_of_events(streaming: Streaming) -> None:
    async with streaming.subscribe("topic=a.*&topic=b.%3E") as response:
        assert (response.status, response.content_type) == (200, "text/event-stream")
        assert (await response.content.readline()).startswith(b":")
        assert await streaming.ask("POST", "/v1/publish/a.x", data=b'{"n":\n1}') == (202, {"listeners": 1})
        assert await streaming.ask("POST", "/v1/publish/b.c.d") == (202, {"listeners": 1})
        assert await streaming.ask("POST", "/v1/publish/c", data=b"1") == (202, {"listeners": 0})
        first, second = await next_event(response), await next_event(response)
        assert (first["topic"], first["data"], second["topic"], second["data"]) == ("a.x", {"n": 1}, "b.c.d", None)
        counts = (await streaming.ask("GET", "/v1/events"))[1]
        assert (counts["published"], counts["streams"], counts["subscriptions"]) == (3, 1, 1)
    await until(lambda: streaming.events.counts()["subscriptions"] == 0)


async def test_a_stream_says_what_it_lost(streaming: Streaming) -> None:
    stream = Stream()
    for number in range(8192 + 7):
        stream.push(Event("a", b"%d" % number, "1", 0.0))
    lines = stream.text().decode().splitlines()
    assert json.loads(lines[1][6:])["dropped"] == 7
    assert "dropped" not in lines[4]
    stream.backlog.drop()
    assert stream.text() == b""
    assert stream.backlog.has_news  # told with the next event


async def test_a_quiet_stream_is_kept_alive(streaming: Streaming, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gridnode.event_stream.KEEP_ALIVE", 0.01)
    async with streaming.subscribe() as response:
        lines = [await response.content.readline() for _ in range(5)]
    assert lines[2] == b": still here\n"


async def test_so_many_streams_and_no_more(streaming: Streaming, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gridnode.event_stream.MAX_STREAMS", 1)
    async with streaming.subscribe() as response:
        assert response.status == 200
        assert (await streaming.ask("GET", "/v1/subscribe?topic=a"))[0] == 429


async def test_streams_end_with_the_node(streaming: Streaming) -> None:
    async with streaming.subscribe() as response:
        await response.content.readline()
        streaming.streams.close()
        with contextlib.suppress(aiohttp.ClientError):
            await response.content.read()
    await until(lambda: streaming.events.counts()["subscriptions"] == 0)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/v1/publish/a..b", 400),
        ("POST", "/v1/publish/", 400),
        ("GET", "/v1/publish/a", 405),
        ("GET", "/v1/subscribe", 400),
        ("GET", "/v1/subscribe?topic=a%20b", 400),
        ("POST", "/v1/subscribe?topic=a", 405),
        ("GET", "/v1/subscribed", 404),
    ],
)
async def test_what_is_wrong_with_events_is_said(streaming: Streaming, method: str, path: str, status: int) -> None:
    assert (await streaming.ask(method, path))[0] == status


async def test_without_events_there_is_nothing_there(door: Door) -> None:
    assert (await door.ask("POST", "/v1/publish/a"))[0] == 404
    assert (await door.ask("GET", "/v1/subscribe?topic=a"))[0] == 404
