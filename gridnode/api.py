"""The HTTP front door, on loopback only: invoke tasks and look at the grid."""

import asyncio
import functools
import os
from collections.abc import Callable

import msgspec
import structlog
from aiohttp import web

from gridnode import wire
from gridnode.errors import BodyInvalid, BodyTooLarge, Forbidden, GridError
from gridnode.link import Cancel
from gridnode.model import Done, Invocation, InvocationId, Member, Outcome, TaskName

log = structlog.get_logger()

Route = Callable[[Invocation, Done, str], Cancel]
"""Routes a call: (call, done, node or "")."""

_INVOKE = "/v1/invoke/"
_READABLE = frozenset({"/v1/nodes", "/v1/tasks", "/healthz"})
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})


class Api:
    """timeout: seconds a call of this task may take; members and tasks: what the grid looks like from here."""

    def __init__(
        self,
        route: Route,
        timeout: Callable[[TaskName], float],
        max_timeout: float,
        members: Callable[[], list[Member]],
        tasks: Callable[[], list[TaskName]],
    ) -> None:
        self._route = route
        self._timeout = timeout
        self._max_timeout = max_timeout
        self._members = members
        self._tasks = tasks
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
            check_sender(request)
            return await self._dispatch(request)
        except GridError as exc:
            return error_response(exc)
        except web.HTTPRequestEntityTooLarge:
            return error_response(BodyTooLarge(f"body is larger than {wire.MAX_CALL_BODY} bytes"))
        except Exception:
            log.exception("request failed", path=request.path)
            return error_response(GridError("internal error: see this node's log"))

    async def _dispatch(self, request: web.BaseRequest) -> web.Response:
        path = request.path
        task = path.removeprefix(_INVOKE)
        if task != path and task and "/" not in task:
            return await self._invoke(request, TaskName(task)) if request.method == "POST" else _not_allowed("POST")
        if path not in _READABLE:
            return _refusal(404, f"there is nothing at {path}")
        if request.method not in ("GET", "HEAD"):
            return _not_allowed("GET")
        return _json(200, self._read(path))

    def _read(self, path: str) -> bytes:
        """/healthz: up and listening; whether a release is active is for /v1/nodes to say."""
        if path == "/healthz":
            return b'{"status":"ok"}'
        return msgspec.json.encode({"nodes": self._members()} if path == "/v1/nodes" else {"tasks": self._tasks()})

    async def _invoke(self, request: web.BaseRequest, task: TaskName) -> web.Response:
        """JSON in, JSON out; ?timeout=SECONDS and ?node=NAME."""
        body = await _read_json(request)
        query = request.query if request.query_string else {}
        timeout = _seconds(query.get("timeout"), self._timeout(task), self._max_timeout)
        call_id = InvocationId(os.urandom(16).hex())
        outcome = await self._call(task, body, call_id, timeout, query.get("node", ""))
        return _respond(outcome, call_id)

    async def _call(self, task: TaskName, body: bytes, call_id: InvocationId, timeout: float, node: str) -> Outcome:
        waiter: asyncio.Future[Outcome] = self._loop.create_future()
        meta = f'{{"id":"{call_id}","attempt":1}}'.encode()

        def done(outcome: Outcome) -> None:
            if not waiter.done():
                waiter.set_result(outcome)

        cancel = self._route(Invocation(call_id, task, body, self._loop.time() + timeout, meta), done, node)
        try:
            return await waiter
        except asyncio.CancelledError:
            cancel()
            raise


def check_sender(request: web.BaseRequest) -> None:
    """Forbidden for foreign Host and Origin: a page in somebody's browser must not reach a grid through localhost."""
    if not _is_loopback(request.host):
        raise Forbidden(f"host {request.host!r} is not served here; use localhost")
    origin = request.headers.get("Origin")
    if origin and not _is_loopback(origin.split("//", 1)[-1]):
        raise Forbidden("requests from other origins are refused")


@functools.lru_cache(maxsize=64)
def _is_loopback(host: str) -> bool:
    return (host if host.endswith("]") else host.rsplit(":", 1)[0]) in _LOOPBACK


def _not_allowed(method: str) -> web.Response:
    return _refusal(405, f"use {method}", {"Allow": method})


def _refusal(status: int, message: str, headers: dict[str, str] | None = None) -> web.Response:
    return _json(status, msgspec.json.encode({"error": {"code": "http", "message": message}}), headers)


async def _read_json(request: web.BaseRequest) -> bytes:
    if request.headers.get("Expect", "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0
    body = await request.read()
    if not body:
        return b""
    try:
        msgspec.json.decode(body, type=msgspec.Raw)
    except (msgspec.MsgspecError, RecursionError) as exc:
        raise BodyInvalid(f"the body is not JSON: {exc}") from exc
    return body


def _seconds(text: str | None, default: float, most: float) -> float:
    if text is None:
        return default
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds <= most:
        raise BodyInvalid(f"timeout must be seconds, more than 0 and at most {most:g}, not {text!r}")
    return seconds


def _respond(outcome: Outcome, call_id: InvocationId) -> web.Response:
    headers = {"Grid-Invocation-Id": call_id, "Grid-Duration-Ms": f"{outcome.duration * 1000:.3f}"}
    if outcome.name:
        headers["Grid-Node"] = outcome.name
    if outcome.error:
        return error_response(outcome.error, headers, node=outcome.name, invocation_id=call_id)
    return _json(200, outcome.body or b"null", headers)


def error_response(error: GridError, headers: dict[str, str] | None = None, **more: str) -> web.Response:
    """{"error": {code, message, hint, trace, node, invocation_id}}, with what there is of them."""
    fields = {"code": error.code, "message": error.message, "hint": error.hint, "trace": error.trace, **more}
    body = msgspec.json.encode({"error": {name: value for name, value in fields.items() if value}})
    retry = {"Retry-After": "1"} if error.status == 429 else {}
    return _json(error.status, body, {**retry, **(headers or {})})


def _json(status: int, body: bytes, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(status=status, body=body, headers={"Content-Type": "application/json", **(headers or {})})
