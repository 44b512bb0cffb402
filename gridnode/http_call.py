"""A task called over HTTP: what a request may ask for, and how its outcome is told, whichever door it came through."""

import asyncio
import functools
import os
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from gridnode import messages
from gridnode.errors import BodyInvalid, Forbidden, GridError, NoCapacity
from gridnode.link import Cancel
from gridnode.messages import CallMeta
from gridnode.model import Done, Invocation, InvocationId, Outcome, TaskName
from gridnode.room import Room

__all__ = [
    "SERVER",
    "Answer",
    "HttpCalls",
    "Route",
    "check_json",
    "check_key",
    "check_sender",
    "error_answer",
    "new_call",
    "outcome_answer",
]

SERVER = "gridnode"
"""What every answer says it comes from: no versions, which are nobody's business."""

Route = Callable[[Invocation, Done, str], Cancel]
"""Routes a call: (call, done, node or "")."""

_LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})


class Answer(NamedTuple):
    """What goes back: always JSON. headers: besides those of every answer."""

    status: int
    headers: dict[str, str]
    body: bytes


class HttpCalls:
    """timeout: seconds a call of this task may take; room: for requests while they are read and run."""

    def __init__(self, route: Route, timeout: Callable[[TaskName], float], max_timeout: float, room: Room) -> None:
        self.route = route
        self.room = room
        self._timeout = timeout
        self._max_timeout = max_timeout
        self._now = asyncio.get_running_loop().time

    def deadline(self, task: TaskName, said: str | None) -> float:
        """By the loop's clock; said: seconds as the request has them. Raises BodyInvalid."""
        return self._now() + _seconds(said, self._timeout(task), self._max_timeout)

    def enter(self, size: int) -> None:
        """Take room for a request with so many bytes of body; NoCapacity when there is none."""
        if not self.room.take(size):
            raise NoCapacity(f"HTTP: {self.room}", hint="wait a moment, or ask another node")

    def leave(self, size: int) -> None:
        self.room.give(size)


def new_call(task: TaskName, body: bytes, deadline: float, key: str) -> Invocation:
    """The first attempt of a new call."""
    call_id = InvocationId(os.urandom(16).hex())
    return Invocation(call_id, task, body, deadline, _meta(call_id, key), key)


def check_sender(host: str, origin: str | None) -> None:
    """Forbidden for foreign Host and Origin: a page in somebody's browser must not reach a grid through localhost."""
    if not _is_loopback(host):
        raise Forbidden(f"host {host!r} is not served here; use localhost")
    if origin and not _is_loopback(origin.split("//", 1)[-1]):
        raise Forbidden("requests from other origins are refused")


@functools.lru_cache(maxsize=64)
def _is_loopback(host: str) -> bool:
    return (host if host.endswith("]") else host.rsplit(":", 1)[0]) in _LOOPBACK


def check_key(key: str) -> None:
    """An Idempotency-Key; none is none. Raises BodyInvalid."""
    if key:
        messages.check_key(key)


def check_json(body: bytes) -> None:
    """Nothing, or one JSON value; raises BodyInvalid."""
    if not body:
        return
    try:
        _decode_raw(body)
    except (msgspec.MsgspecError, RecursionError) as exc:
        raise BodyInvalid(f"the body is not JSON: {exc}") from exc


_decode_raw = msgspec.json.Decoder(msgspec.Raw).decode


def _meta(call_id: InvocationId, key: str) -> bytes:
    if key:
        return msgspec.json.encode(CallMeta(call_id, key=key))
    return f'{{"id":"{call_id}","attempt":1}}'.encode()


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


def outcome_answer(outcome: Outcome, call_id: InvocationId) -> Answer:
    """The result, or the error it ended with; both say where the call ran."""
    headers = {"Grid-Invocation-Id": call_id, "Grid-Duration-Ms": f"{outcome.duration * 1000:.3f}"}
    if outcome.name:
        headers["Grid-Node"] = outcome.name if outcome.name.isprintable() else ascii(outcome.name)
    if outcome.error:
        return error_answer(outcome.error, headers, node=outcome.name, invocation_id=call_id)
    return Answer(200, headers, outcome.body or b"null")


def error_answer(error: GridError, headers: dict[str, str] | None = None, **more: str) -> Answer:
    """{"error": {code, message, hint, trace, node, invocation_id}}, with what there is of them."""
    fields = {"code": error.code, "message": error.message, "hint": error.hint, "trace": error.trace, **more}
    body = msgspec.json.encode({"error": {name: value for name, value in fields.items() if value}})
    retry = {"Retry-After": "1"} if error.status == 429 else {}
    return Answer(error.status, {**retry, **(headers or {})}, body)
