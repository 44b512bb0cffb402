"""The HTTP front door, on loopback only: invoke tasks and look at the grid."""

import asyncio
from collections.abc import Callable

import msgspec
import structlog
from aiohttp import web

from gridnode import wire
from gridnode.errors import BodyTooLarge, CallTimeout, GridError
from gridnode.event_stream import EventStreams
from gridnode.http_call import (
    SERVER,
    Answer,
    HttpCalls,
    Route,
    check_json,
    check_key,
    check_sender,
    error_answer,
    new_call,
    outcome_answer,
)
from gridnode.http_stream import LINES, HttpStreams, wanted
from gridnode.model import Invocation, Member, Outcome, TaskName
from gridnode.room import Room

log = structlog.get_logger()

_INVOKE = "/v1/invoke/"
_BROADCAST = "/v1/broadcast/"
_PUBLISH = "/v1/publish/"
_SUBSCRIBE = "/v1/subscribe"
_READABLE = frozenset({"/v1/nodes", "/v1/tasks", "/v1/events", "/healthz"})
_EVERY = {"Content-Type": "application/json", "Server": SERVER}
_MAX_REQUESTS, _MAX_SIZE = 1024, 128 * 1024 * 1024


class Api:
    """timeout: seconds a call of this task may take; members and tasks: what the grid looks like from here.

    room: for requests that invoke a task, while they are read and run. broadcast: a call to every node.
    flows: results item by item.
    """

    def __init__(
        self,
        route: Route,
        timeout: Callable[[TaskName], float],
        max_timeout: float,
        members: Callable[[], list[Member]],
        tasks: Callable[[], list[TaskName]],
        streams: EventStreams | None = None,
        room: Room | None = None,
        broadcast: Route | None = None,
        flows: HttpStreams | None = None,
    ) -> None:
        self.calls = HttpCalls(route, timeout, max_timeout, room or Room(_MAX_REQUESTS, _MAX_SIZE))
        self._members = members
        self._tasks = tasks
        self._streams = streams
        self._broadcast = broadcast
        self._flows = flows or HttpStreams()
        self._loop = asyncio.get_running_loop()

    def server(self) -> web.Server:
        """aiohttp's bare server: its application, router and middlewares would cost each call a tenth of its time."""

        return web.Server(
            self.answer,
            request_factory=lambda message, payload, protocol, writer, task: web.BaseRequest(
                message, payload, protocol, writer, task, self._loop, client_max_size=wire.MAX_CALL_BODY
            ),
            access_log=None,
            handler_cancellation=True,
        )

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """The one place where errors become responses."""
        try:
            check_sender(request.host, request.headers.get("Origin"))
            return await self._dispatch(request)
        except GridError as exc:
            return error_response(exc)
        except web.HTTPRequestEntityTooLarge:
            return error_response(BodyTooLarge(f"body is larger than {wire.MAX_CALL_BODY} bytes"))
        except Exception:
            log.exception("request failed", path=request.path)
            return error_response(GridError("internal error: see this node's log"))

    async def _dispatch(self, request: web.BaseRequest) -> web.StreamResponse:
        path = request.path
        task = path.removeprefix(_INVOKE)
        if task != path and task and "/" not in task:
            return await self._invoke(request, TaskName(task)) if request.method == "POST" else _not_allowed("POST")
        task = path.removeprefix(_BROADCAST)
        if self._broadcast and task != path and task and "/" not in task:
            if request.method != "POST":
                return _not_allowed("POST")
            return await self._invoke(request, TaskName(task), self._broadcast)
        if self._streams and path.startswith((_PUBLISH, _SUBSCRIBE)):
            return await self._pub_sub(request, path, self._streams)
        if path not in _READABLE:
            return _refusal(404, f"there is nothing at {path}")
        if request.method not in ("GET", "HEAD"):
            return _not_allowed("GET")
        return _json(200, self._read(path))

    def _read(self, path: str) -> bytes:
        """/healthz: up and listening; whether a release is active is for /v1/nodes to say."""
        if path == "/healthz":
            return b'{"status":"ok"}'
        if path == "/v1/events":
            return msgspec.json.encode(self._streams.counts() if self._streams else {})
        return msgspec.json.encode({"nodes": self._members()} if path == "/v1/nodes" else {"tasks": self._tasks()})

    async def _pub_sub(self, request: web.BaseRequest, path: str, streams: EventStreams) -> web.StreamResponse:
        """POST JSON to /v1/publish/TOPIC; GET /v1/subscribe?topic=PATTERN, as often as there are patterns."""
        topic = path.removeprefix(_PUBLISH)
        if topic != path:
            if request.method != "POST":
                return _not_allowed("POST")
            listeners = streams.publish(topic, await _read_json(request))
            return _json(202, msgspec.json.encode({"listeners": listeners}))
        if path != _SUBSCRIBE:
            return _refusal(404, f"there is nothing at {path}")
        return await streams.serve(request) if request.method == "GET" else _not_allowed("GET")

    async def _invoke(
        self, request: web.BaseRequest, task: TaskName, broadcast: Route | None = None
    ) -> web.StreamResponse:
        """JSON in, JSON out; ?timeout=SECONDS or Grid-Timeout, ?node=NAME, Idempotency-Key; item by item by Accept."""
        query = request.query if request.query_string else {}
        said = query.get("timeout", request.headers.get("Grid-Timeout"))
        deadline = self.calls.deadline(task, said)
        key = request.headers.get("Idempotency-Key", "")
        check_key(key)
        form = wanted(request.headers.get("Accept", "")) or (LINES if broadcast else None)
        size = _announced(request) + (self._flows.size if form else 0)
        self.calls.enter(size)
        try:
            body = await _read_in_time(request, deadline - self._loop.time())
            call = new_call(task, body, deadline, key)
            if form:
                route, node = broadcast or self.calls.route, query.get("node", "")
                answered = await self._flows.serve(request, call, route, node, form)
                if isinstance(answered, web.StreamResponse):
                    return answered
                outcome = answered
            else:
                outcome = await self._call(call, query.get("node", ""))
        finally:
            self.calls.leave(size)
        return _response(outcome_answer(outcome, call.id))

    async def _call(self, call: Invocation, node: str) -> Outcome:
        waiter: asyncio.Future[Outcome] = self._loop.create_future()

        def done(outcome: Outcome) -> None:
            if not waiter.done():
                waiter.set_result(outcome)

        cancel = self.calls.route(call, done, node)
        try:
            return await waiter
        except asyncio.CancelledError:
            cancel()
            raise


def _not_allowed(method: str) -> web.Response:
    return _refusal(405, f"use {method}", {"Allow": method})


def _refusal(status: int, message: str, headers: dict[str, str] | None = None) -> web.Response:
    return _json(status, msgspec.json.encode({"error": {"code": "http", "message": message}}), headers)


def _announced(request: web.BaseRequest) -> int:
    """Bytes of body to make room for: the most there can be where the length is not said."""
    length = request.content_length
    if length is None:
        return wire.MAX_CALL_BODY if request.body_exists else 0
    return min(length, wire.MAX_CALL_BODY)


async def _read_in_time(request: web.BaseRequest, patience: float) -> bytes:
    """The JSON body; CallTimeout when it is not there by the call's deadline."""
    if request.content.is_eof():
        return await _read_json(request)
    try:
        async with asyncio.timeout(patience):
            return await _read_json(request)
    except TimeoutError as exc:
        raise CallTimeout("the request's body was not here before the call's deadline") from exc


async def _read_json(request: web.BaseRequest) -> bytes:
    if request.headers.get("Expect", "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0
    body = await request.read()
    check_json(body)
    return body


def error_response(error: GridError) -> web.Response:
    return _response(error_answer(error))


def _response(answer: Answer) -> web.Response:
    return _json(answer.status, answer.body, answer.headers)


def _json(status: int, body: bytes, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(status=status, body=body, headers={**_EVERY, **(headers or {})})
