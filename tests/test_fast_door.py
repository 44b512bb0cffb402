"""Raw and hostile HTTP at the fast door, and the same to aiohttp alone: the answers must be the same."""

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gridnode import fast_door
from gridnode.api import Api
from gridnode.errors import GridError, NodeLost, TaskNotFound
from gridnode.fast_door import FastDoor
from gridnode.http_head import MAX_BODY, MAX_HEAD, read_head
from gridnode.link import Cancel
from gridnode.model import Done, Invocation, NodeId, Outcome
from gridnode.room import Room
from tests.fakes.peers import until

BOTH_LOOPS = True

LAST = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
PATIENCE = 20.0
_CHANGING = re.compile(rb"(Date|Grid-Invocation-Id|Grid-Duration-Ms): [^\r]*|\"invocation_id\":\"[0-9a-f]*\"")


class Open:
    """The two doors of one node, and what they route. at_once: calls are over when they are routed."""

    def __init__(self) -> None:
        self.at_once = True
        self.calls: list[tuple[Invocation, str]] = []
        self.waiting: list[tuple[Invocation, Done]] = []
        self.cancelled: list[str] = []
        self.handed_over = 0
        self.room = Room(64, 10**9)
        self.ports: dict[str, int] = {}
        self.fast: FastDoor

    def route(self, call: Invocation, done: Done, node: str) -> Cancel:
        self.calls.append((call, node))
        if call.task == "broken":
            raise ZeroDivisionError("secret")
        if self.at_once:
            done(self.outcome(call))
        else:
            self.waiting.append((call, done))
        return lambda: self.cancelled.append(call.id)

    def outcome(self, call: Invocation) -> Outcome:
        errors: dict[str, GridError] = {"none": TaskNotFound("no task"), "lost": NodeLost("lost")}
        if call.task in errors:
            return Outcome(error=errors[call.task], name="web1")
        return Outcome(call.body, node=NodeId("ab" * 20), name="web1", duration=0.001)

    def finish(self, number: int = 0) -> None:
        call, done = self.waiting.pop(number)
        done(self.outcome(call))

    async def connect(self, door: str = "fast") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.ports[door], limit=1 << 24)

    async def ask(self, *parts: bytes, door: str = "fast") -> bytes:
        """All that comes back until the door closes the connection, each part sent once the one before is answered."""
        reader, writer = await self.connect(door)
        found = b""
        try:
            async with asyncio.timeout(PATIENCE):
                for part in parts[:-1]:
                    writer.write(part)
                    found += await reader.readuntil(b"\r\n\r\n")
                writer.write(parts[-1])
                return found + await reader.read()
        except asyncio.IncompleteReadError as exc:
            return found + exc.partial
        except ConnectionError:
            return found + b"reset"
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


@contextlib.asynccontextmanager
async def opened() -> AsyncIterator[Open]:
    both = Open()
    api = Api(both.route, lambda task: 7.0, 60.0, list, list, room=both.room)
    thorough = api.server()

    def counted() -> asyncio.Protocol:
        both.handed_over += 1
        return thorough()

    both.fast = FastDoor(api.calls, counted)
    loop = asyncio.get_running_loop()
    servers = []
    protocols: dict[str, Callable[[], asyncio.Protocol]] = {"fast": both.fast, "thorough": thorough}
    for name, protocol in protocols.items():
        server = await loop.create_server(protocol, "127.0.0.1", 0)
        both.ports[name] = server.sockets[0].getsockname()[1]
        servers.append(server)
    yield both
    for server in servers:
        server.close()
    both.fast.close()
    await thorough.shutdown(1.0)
    await until(lambda: not both.fast.open, "every connection is closed")
    await until(lambda: both.room.calls == 0 and both.room.size == 0, "the room is empty")


@pytest.fixture
async def both() -> AsyncIterator[Open]:
    async with opened() as doors:
        yield doors


def post(body: bytes = b"1", *lines: str, target: str = "echo", host: str = "localhost") -> bytes:
    head = [f"POST /v1/invoke/{target} HTTP/1.1", f"Host: {host}", *lines, f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(head).encode("latin-1") + body


def answers(text: bytes) -> list[tuple[int, Any]]:
    """Status and JSON of each of the answers in `text`."""
    found = []
    while text:
        head, _, rest = text.partition(b"\r\n\r\n")
        length = int(re.search(rb"Content-Length: (\d+)", head)[1])  # type: ignore[index]
        found.append((int(head.split()[1]), json.loads(rest[:length])))
        text = rest[length:]
    return found


async def one(reader: asyncio.StreamReader) -> tuple[int, Any]:
    """The next answer."""
    async with asyncio.timeout(PATIENCE):
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(re.search(rb"Content-Length: (\d+)", head)[1])  # type: ignore[index]
        return answers(head + await reader.readexactly(length))[0]


def normal(text: bytes) -> list[list[bytes]]:
    """Answers without what differs between any two, the lines of their heads in order."""
    blocks = _CHANGING.sub(b"", text).split(b"\r\n\r\n")
    return [sorted(block.split(b"\r\n")) for block in blocks]


# -- one call after the other ---------------------------------------------------------------------------------------


async def test_requests_in_a_row_are_answered_in_order(both: Open) -> None:
    requests = b"".join(post(b"%d" % number, target="none" if number == 3 else "echo") for number in range(50))
    found = answers(await both.ask(requests + LAST))
    assert [body for status, body in found if status == 200][:-1] == [n for n in range(50) if n != 3]
    assert (found[3][0], found[-1]) == (404, (200, {"status": "ok"}))
    assert both.handed_over == 1


async def test_one_call_at_a_time_and_its_answer_before_the_next(both: Open) -> None:
    both.at_once = False
    reader, writer = await both.connect()
    writer.write(post(b"1") + post(b"2"))
    writer.write(post(b"3")[:20])
    await until(lambda: both.waiting)
    both.finish()
    assert await one(reader) == (200, 1)
    await until(lambda: both.waiting)
    assert [call.body for call, _ in both.calls] == [b"1", b"2"]
    writer.write(post(b"3")[20:])
    both.finish()
    assert await one(reader) == (200, 2)
    await until(lambda: both.waiting)
    both.finish()
    assert await one(reader) == (200, 3)
    assert both.handed_over == 0
    writer.close()


async def test_an_outcome_told_twice_is_answered_once(both: Open) -> None:
    both.at_once = False
    reader, writer = await both.connect()
    writer.write(post(b"1") + post(b"2"))
    await until(lambda: both.waiting)
    call, done = both.waiting[0]
    both.finish()
    done(both.outcome(call))
    await until(lambda: both.waiting)
    done(both.outcome(call))
    both.finish()
    assert [await one(reader), await one(reader)] == [(200, 1), (200, 2)]
    writer.close()


@pytest.mark.parametrize("size", [1, 7, 64])
async def test_a_request_in_pieces(both: Open, size: int) -> None:
    text = post(b'{"a": 1}') * 3 + LAST
    pieces = [text[at : at + size] for at in range(0, len(text), size)]
    reader, writer = await both.connect()
    for piece in pieces:
        writer.write(piece)
        await asyncio.sleep(0)
    assert [await one(reader) for _ in range(3)] == [(200, {"a": 1})] * 3
    writer.close()


async def test_what_breaks_is_answered_once(both: Open) -> None:
    found = answers(await both.ask(post(target="broken") + post() + LAST))
    assert [status for status, _ in found] == [500, 200, 200]
    assert "secret" not in str(found[0])


# -- clients that go, wait, or do not read --------------------------------------------------------------------------


@pytest.mark.parametrize("rest", [b"", post(), post()[:10], LAST])
async def test_a_client_that_goes_cancels_its_call(both: Open, rest: bytes) -> None:
    both.at_once = False
    _, writer = await both.connect()
    writer.write(post() + rest)
    await until(lambda: both.waiting)
    assert both.room.calls == 1
    writer.close()
    await until(lambda: both.cancelled == [both.calls[0][0].id])
    both.finish()
    assert (len(both.calls), both.room.calls) == (1, 0)


@pytest.mark.parametrize("start", [b"P", b"POST /v1/invoke/echo HTT", post()[:-1]])
async def test_a_slow_request_is_for_the_thorough_door(
    both: Open, start: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fast_door, "_PATIENCE", 0.01)
    reader, writer = await both.connect()
    writer.write(start)
    await until(lambda: both.handed_over)
    writer.write(post()[len(start) :])
    assert await one(reader) == (200, 1)
    writer.close()


async def test_a_body_that_never_comes_ends_with_the_calls_time(both: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast_door, "_PATIENCE", 0.01)
    reader, writer = await both.connect()
    writer.write(post(b"[1,2,3]", target="echo?timeout=0.1")[:-3])
    assert (await one(reader))[0] == 504
    assert both.calls == []
    writer.close()


async def test_an_idle_connection_is_closed_and_a_busy_one_is_not(both: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast_door, "_IDLE", 0.05)
    both.at_once = False
    idle, quiet = await both.connect()
    busy, writer = await both.connect()
    writer.write(post())
    async with asyncio.timeout(PATIENCE):
        assert await idle.read() == b""
    both.finish()
    assert await one(busy) == (200, 1)
    async with asyncio.timeout(PATIENCE):
        assert await busy.read() == b""
    quiet.close()
    writer.close()


async def test_requests_ahead_of_their_turn_are_read_up_to_a_bound(both: Open) -> None:
    both.at_once = False
    _, writer = await both.connect()
    writer.write(post())
    await until(lambda: both.waiting)
    (connection,) = both.fast.open
    writer.write(post(b'"' + b"x" * 50_000 + b'"') * 200)
    await until(lambda: connection._held)
    assert len(connection._buffer) <= fast_door._MAX_WAITING + (1 << 18)
    both.at_once = True
    both.finish()
    await until(lambda: not connection._held or connection._full)
    writer.transport.abort()
    await until(lambda: not both.fast.open)


async def test_a_client_that_does_not_read_gets_no_more_calls(both: Open) -> None:
    """Until it does: then it gets all its answers."""
    body = b'"' + b"x" * 60_000 + b'"'
    reader, writer = await both.connect()
    reader._transport.pause_reading()  # type: ignore[attr-defined]
    count = 300
    writer.write(post(body) * count)
    await until(lambda: any(connection._full for connection in both.fast.open))
    assert len(both.calls) < count
    reader._transport.resume_reading()  # type: ignore[attr-defined]
    for _ in range(count):
        assert (await one(reader))[0] == 200
    assert both.handed_over == 0
    writer.close()


# -- what goes to the thorough door, and when -----------------------------------------------------------------------

OTHERS: dict[str, bytes] = {
    "GET": b"GET /v1/tasks HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "HEAD": b"HEAD /v1/tasks HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "GET of a task": b"GET /v1/invoke/echo HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "HEAD of a task": b"HEAD /v1/invoke/echo HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "no such method": b"PSOT /v1/invoke/echo HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "HTTP/1.0": b"POST /v1/invoke/echo HTTP/1.0\r\nHost: localhost\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "an empty line first": b"\r\n" + post(),
    "a long head": post(b"1", f"X: {'x' * MAX_HEAD}"),
    "a long name": post(b"1", target="x" * MAX_HEAD),
    "a long body": post(b'"' + b"x" * MAX_BODY + b'"'),
    "chunks": post(b"", "Transfer-Encoding: chunked").replace(b"Content-Length: 0\r\n", b"") + b"1\r\n7\r\n0\r\n\r\n",
    "length and chunks": post(b"1\r\n7\r\n0\r\n\r\n", "Transfer-Encoding: chunked"),
    "chunks and a request inside": post(b"0\r\n\r\n" + post(b'"smuggled"'), "Transfer-Encoding: chunked"),
    "two lengths": post(b"1" + post(b'"smuggled"'), "Content-Length: 1"),
    "a list of lengths": post(b"1").replace(b"Length: 1", b"Length: 1, 1"),
    "a length with a plus": post(b"1").replace(b"Length: 1", b"Length: +1"),
    "a length in words": post(b"1").replace(b"Length: 1", b"Length: one"),
    "a space before the colon": post(b"1").replace(b"Length: 1", b"Length : 1"),
    "a bare line feed": post(b"1").replace(b"\r\n", b"\n"),
    "a bare return": post(b"1", "X: a\rTransfer-Encoding: chunked"),
    "a folded line": post(b"1", "X: a", " b"),
    "a null": post(b"1", "X: a\0b"),
    "two hosts": post(b"1", "Host: evil.example"),
    "no host": post(b"1").replace(b"Host", b"Hast"),
    "asks first": post(b"1", "Expect: 100-continue"),
    "expects magic": post(b"1", "Expect: magic"),
    "closes": post(b"1", "Connection: close"),
    "upgrades": post(b"1", "Connection: Upgrade", "Upgrade: websocket"),
    "an escape": post(b"1", target="%65cho"),
    "a task with a slash": post(b"1", target="a/b"),
    "an unknown question": post(b"1", target="echo?x=1"),
}
ORDINARY: dict[str, bytes] = {
    "a call": post(b'{"a": [1, 2]}', "Content-Type: application/json", "Accept: */*"),
    "no body": post(b""),
    "no length": b"POST /v1/invoke/echo HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "kept alive": post(b"1", "Connection: Keep-Alive"),
    "a node": post(b"1", target="echo?node=web-1&timeout=5"),
    "a time": post(b"1", "Grid-Timeout: 5"),
    "a bad time": post(b"1", "Grid-Timeout: soon"),
    "an empty time": post(b"1", target="echo?timeout="),
    "too long a time": post(b"1", target="echo?timeout=61"),
    "a key": post(b"1", "Idempotency-Key: order 17"),
    "an empty key": post(b"1", "Idempotency-Key:"),
    "a long key": post(b"1", f"Idempotency-Key: {'x' * 256}"),
    "a foreign host": post(b"1", host="evil.example"),
    "an empty host": post(b"1", host=""),
    "a foreign origin": post(b"1", "Origin: http://evil.example"),
    "an origin of its own": post(b"1", "Origin: http://localhost:3000"),
    "not JSON": post(b"{"),
    "deep JSON": post(b"[" * 60_000),
    "not UTF-8": post(b"\xff"),
    "no task": post(b"1", target="none"),
    "a lost node": post(b"1", target="lost"),
    "what breaks": post(b"1", target="broken"),
    "the largest here": post(b'"' + b"x" * (MAX_BODY - 2) + b'"'),
}


async def _compare(both: Open, *parts: bytes) -> bytes:
    """The same bytes through both doors: the answers, and what was routed, must be the same."""
    found, routed = [], []
    for door in ("thorough", "fast"):
        both.calls.clear()
        found.append(await both.ask(*parts, door=door))
        routed.append([(call.task, call.body, call.key, node) for call, node in both.calls])
    assert normal(found[1]) == normal(found[0])
    assert routed[1] == routed[0]
    return found[1]


@pytest.mark.parametrize("text", ORDINARY.values(), ids=ORDINARY)
async def test_ordinary_requests_get_the_same_answer(both: Open, text: bytes) -> None:
    found = answers(await _compare(both, text, LAST))
    assert (len(found), both.handed_over) == (2, 1), "the last one only"


@pytest.mark.parametrize("text", OTHERS.values(), ids=OTHERS)
async def test_others_get_the_thorough_doors_answer(both: Open, text: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast_door, "_PATIENCE", 0.05)
    await _compare(both, text, LAST)
    assert both.handed_over == 1


@pytest.mark.parametrize("text", OTHERS.values(), ids=OTHERS)
async def test_others_behind_an_ordinary_request(both: Open, text: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast_door, "_PATIENCE", 0.05)
    found = await both.ask(post(b'"first"') + text + LAST)
    assert found.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b'"first"HTTP/1.' in found
    assert both.handed_over == 1
    assert b'"smuggled"' not in [call.body for call, _ in both.calls]


async def test_a_client_that_asks_first_is_told_to_go_on(both: Open) -> None:
    reader, writer = await both.connect()
    writer.write(post(b'{"a":1}', "Expect: 100-continue")[:-7])
    async with asyncio.timeout(PATIENCE):
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(b'{"a":1}')
    assert await one(reader) == (200, {"a": 1})
    writer.close()


_PIECES = st.one_of(
    st.sampled_from(
        [text for text in [*ORDINARY.values(), *OTHERS.values()] if len(text) < 2000 and b"Upgrade" not in text]
    ),
    st.sampled_from([b"\r\n", b"\n", b" ", b"0\r\n\r\n", b"X: y\r\n", b"Content-Length: 0\r\n\r\n", b"\0", b"\xff"]),
)


@st.composite
def _streams(draw: st.DrawFn) -> bytes:
    """Requests in a row, of which some bytes were changed, left out or put in."""
    text = bytearray(b"".join(draw(st.lists(_PIECES, min_size=1, max_size=4))))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, max(0, len(text) - 1)))
        text[at : at + draw(st.integers(0, 2))] = draw(
            st.sampled_from([b"", b"\r", b"\n", b":", b" ", b"1", b"\t", b"%"])
        )
    return bytes(text)


def _apart(text: bytes) -> list[bytes]:
    """Each ordinary request by itself, then all the rest."""
    parts: list[bytes] = []
    while True:
        end = text.find(b"\r\n\r\n") + 4
        head = read_head(text[:end])
        if not head or end + head.length > len(text):
            return [*parts, text]
        parts.append(text[: end + head.length])
        text = text[end + head.length :]


@settings(max_examples=100, deadline=None)
@given(_streams())
def test_any_bytes_get_the_same_answer(text: bytes) -> None:
    """aiohttp refuses all it has read at once if any of it is wrong: so both get it request by request, then the rest.

    All that the fast door takes for a request is one to aiohttp too, and all that it hands on is untouched.
    """

    assume(not re.search(rb"[0-9]{4}", text))

    async def compare() -> None:
        async with opened() as both:
            await _compare(both, *_apart(text + LAST * 20))  # should a length have grown, these are its body

    asyncio.run(compare())
