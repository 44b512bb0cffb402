"""Streams over HTTP: both forms, backpressure, ends of all kinds."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import pytest

from gridnode import http_stream
from gridnode.api import Api
from gridnode.errors import NoCapacity, TaskRaised
from gridnode.fast_door import FastDoor
from gridnode.flow import Credit, Stream, Window
from gridnode.http_stream import EVENTS, LINES, HttpStreams, wanted
from gridnode.link import Cancel
from gridnode.model import Done, InstanceId, Invocation, Outcome, TaskName
from gridnode.room import Room
from tests.fakes.peers import until

SSE, NDJSON = {"Accept": "text/event-stream"}, {"Accept": "application/x-ndjson"}
OVER = Outcome(name="web1", instance=InstanceId("cd" * 4), duration=0.0015)


class Producer:
    """What the API routes to: a place that streams. items: to send as the reader allows, then `outcome`."""

    def __init__(self) -> None:
        self.items: list[bytes] = []
        self.endless: bytes = b""
        self.outcome: Outcome | None = OVER
        self.sent = self.cancels = 0
        self.calls: list[tuple[Invocation, str]] = []
        self.stream: Stream | None = None
        self.window = Window()
        self.done: Done | None = None

    def route(self, call: Invocation, done: Done, node: str) -> Cancel:
        self.calls.append((call, node))
        self.stream, self.done = call.stream, done
        if call.stream is None:
            done(Outcome(b"[]"))
            return self.cancel
        call.stream.source = self.credited
        asyncio.get_running_loop().call_soon(self.go_on)
        return self.cancel

    def cancel(self) -> None:
        self.cancels += 1

    def credited(self, credit: Credit) -> None:
        self.window.add(credit)
        self.go_on()

    def go_on(self) -> None:
        assert self.stream
        assert self.done
        while self.window.is_open and (self.items or self.endless):
            item = self.items.pop(0) if self.items else self.endless
            self.window.spend(len(item))
            self.sent += len(item)
            self.stream.take(item)
        if self.outcome and not self.items and not self.endless:
            self.done(self.outcome)


class Door:
    """The API on a real socket."""

    def __init__(self, base: str, port: int, session: aiohttp.ClientSession, producer: Producer, room: Room) -> None:
        self.base, self.port, self.session, self.producer, self.room = base, port, session, producer, room
        self.writers: list[asyncio.StreamWriter] = []

    async def ask(
        self, headers: dict[str, str], path: str = "/v1/invoke/t", body: bytes = b"1"
    ) -> tuple[int, str, str]:
        async with self.session.post(self.base + path, data=body, headers=headers) as response:
            return response.status, response.content_type, (await response.read()).decode()

    async def raw(self, headers: dict[str, str]) -> asyncio.StreamReader:
        """The answer's bytes, as they come."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=64 * 1024)
        self.writers.append(writer)
        head = f"POST /v1/invoke/t HTTP/1.1\r\nHost: localhost:{self.port}\r\nAccept: {headers['Accept']}\r\n"
        writer.write(f"{head}Content-Length: 1\r\n\r\n1".encode())
        return reader


@pytest.fixture
async def door() -> AsyncIterator[Door]:
    producer, room = Producer(), Room(10, 16 * 1024 * 1024)
    api = Api(
        producer.route,
        lambda task: 7.0,
        60.0,
        list,
        lambda: [TaskName("t")],
        room=room,
        broadcast=producer.route,
        flows=HttpStreams(256, 512 * 1024),
    )
    thorough = api.server()
    fast = FastDoor(api.calls, thorough)
    server = await asyncio.get_running_loop().create_server(fast, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with aiohttp.ClientSession() as session:
        door = Door(f"http://127.0.0.1:{port}", port, session, producer, room)
        yield door
    for writer in door.writers:
        writer.transport.abort()
    server.close()
    fast.close()
    await thorough.shutdown(1.0)
    assert (room.calls, room.size) == (0, 0)


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        ("text/event-stream", EVENTS),
        ("Text/Event-Stream; q=1, */*", EVENTS),
        ("application/x-ndjson", LINES),
        ("application/json", None),
        ("*/*", None),
        ("", None),
    ],
)
def test_what_accept_asks_for(accept: str, form: object) -> None:
    assert wanted(accept) is form


async def test_lines(door: Door) -> None:
    door.producer.items = [b'{"a":\n1}', b"2"]
    assert await door.ask(NDJSON) == (200, "application/x-ndjson", '{"a": 1}\n2\n')
    assert (door.producer.calls[0][0].body, door.producer.calls[0][1]) == (b"1", "")


async def test_events(door: Door) -> None:
    door.producer.items = [b"1", b'"\\n"']
    status, kind, text = await door.ask(SSE, "/v1/invoke/t?node=web1")
    ended = '{"node":"web1","instance":"cdcdcdcd","attempts":1,"duration_ms":1.5}'
    assert (status, kind) == (200, "text/event-stream")
    assert text == f'data: 1\n\ndata: "\\n"\n\nevent: end\ndata: {ended}\n\n'
    assert door.producer.calls[0][1] == "web1"


async def test_a_result_that_is_no_stream_is_one_item(door: Door) -> None:
    door.producer.outcome = Outcome(b"[1]")
    assert (await door.ask(NDJSON))[2] == "[1]\n"
    assert (await door.ask({"Accept": "application/json"}))[2] == "[]"


@pytest.mark.parametrize("headers", [SSE, NDJSON])
async def test_an_error_before_the_first_item_has_its_status(door: Door, headers: dict[str, str]) -> None:
    door.producer.outcome = Outcome(error=NoCapacity("full"))
    status, kind, text = await door.ask(headers)
    assert (status, kind, json.loads(text)["error"]["code"]) == (429, "application/json", "no_capacity")


async def test_an_error_in_the_middle(door: Door) -> None:
    """Lines are broken off, so that nobody takes them for all there are."""
    door.producer.items, door.producer.outcome = [b"1"], Outcome(error=TaskRaised("oh", trace="t"), name="web1")
    told = '{"error":{"code":"task_raised","message":"oh","trace":"t","node":"web1"}}'
    assert (await door.ask(SSE))[2] == f"data: 1\n\nevent: error\ndata: {told}\n\n"
    door.producer.items, door.producer.window = [b"1"], Window()
    raw = await door.raw(NDJSON)
    head, _, rest = (await raw.read()).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert rest == b"".join(b"%x\r\n%s\r\n" % (len(line), line) for line in (b"1\n", told.encode() + b"\n"))


@pytest.mark.parametrize("item", [b"not JSON", b"1}\n\nevent: end", b'"\xff"', b"1\n\ndata: 2"])
async def test_what_is_no_json_is_the_end(door: Door, item: bytes) -> None:
    """A task cannot make up events."""
    door.producer.items, door.producer.outcome = [b"1", item, b"3"], None
    _, _, text = await door.ask(SSE)
    assert text.startswith("data: 1\n\nevent: error\n")
    assert "body_invalid" in text
    assert door.producer.cancels == 1


async def test_a_client_that_does_not_read_stops_the_producer(door: Door) -> None:
    door.producer.endless = b'"%s"' % (b"x" * 50_000)
    reader = await door.raw(SSE)
    transport: Any = door.writers[0].transport
    transport.pause_reading()
    sent = await at_rest(lambda: door.producer.sent)
    assert 50_000 < sent < 16 * 1024 * 1024  # what the sockets take, and one window
    transport.resume_reading()
    while door.producer.sent < 4 * sent:
        assert await reader.read(256 * 1024)
    transport.abort()
    await until(lambda: door.producer.cancels == 1)


async def at_rest(value: Callable[[], int]) -> int:
    """The value once it has not grown for a while."""
    seen, since = 0, asyncio.get_running_loop().time()
    while asyncio.get_running_loop().time() - since < 0.5:
        await asyncio.sleep(0.01)
        if value() > seen:
            seen, since = value(), asyncio.get_running_loop().time()
    assert seen
    return seen


async def test_a_client_that_goes_gives_the_call_up(door: Door) -> None:
    door.producer.items, door.producer.outcome = [b"1"], None
    async with door.session.post(door.base + "/v1/invoke/t", headers=NDJSON) as response:
        assert await response.content.readline() == b"1\n"
    await until(lambda: door.producer.cancels == 1)


async def test_comments_while_nothing_comes(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_stream, "KEEP_ALIVE", 0.02)
    door.producer.items, door.producer.outcome = [b"1"], None
    async with door.session.post(door.base + "/v1/invoke/t", headers=SSE) as response:
        lines: list[bytes] = [await response.content.readline() for _ in range(4)]
    assert lines == [b"data: 1\n", b"\n", b": still here\n", b"\n"]


async def test_a_client_that_stands_still_past_the_deadline_is_cut_off(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_stream, "LINGER", 0.0)
    door.producer.items, door.producer.outcome = [b"1"], None
    with contextlib.suppress(aiohttp.ClientError):
        await door.ask(NDJSON, "/v1/invoke/t?timeout=0.1")
    await until(lambda: door.producer.cancels == 1)


async def test_room_counts_what_a_stream_may_hold(door: Door) -> None:
    door.producer.outcome = None
    asking: list[Any] = [asyncio.create_task(door.ask(NDJSON)) for _ in range(10)]
    await until(lambda: len(door.producer.calls) == 10)
    assert door.room.size == 10 * (512 * 1024 + 1)
    assert (await door.ask(NDJSON))[0] == 429
    for job in asking:
        job.cancel()
    await asyncio.gather(*asking, return_exceptions=True)
    await until(lambda: door.room.calls == 0)


async def test_a_broadcast_is_lines_whatever_is_accepted(door: Door) -> None:
    door.producer.items = [b'{"node":"a"}', b'{"node":"b"}']
    assert await door.ask({}, "/v1/broadcast/t") == (200, "application/x-ndjson", '{"node":"a"}\n{"node":"b"}\n')
    assert door.producer.calls[0][0].task == "t"
    async with door.session.get(door.base + "/v1/broadcast/t") as response:
        assert (response.status, response.headers["Allow"]) == (405, "POST")
