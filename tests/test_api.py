import asyncio
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
from gridnode.link import Cancel
from gridnode.model import Done, InstanceId, Invocation, Member, MemberState, NodeId, NodeRecord, Outcome, TaskName
from tests.fakes.peers import until

NODE = NodeId("ab" * 20)
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


@pytest.fixture
async def door() -> AsyncIterator[Door]:
    door = Door()
    api = Api(door.route, lambda task: 7.0, 60.0, lambda: [MEMBER], lambda: [TaskName("echo")])
    runner = web.ServerRunner(api.server())
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    door.port = runner.addresses[0][1]
    door.base = f"http://127.0.0.1:{door.port}"
    async with aiohttp.ClientSession() as door.session:
        yield door
    await runner.cleanup()


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
