"""The quick way in for calls over HTTP: ordinary requests to invoke a task are read and answered here.

Every other request goes to the thorough door, from its first byte and with its connection, so that this one never
judges what is odd. One call at a time per connection, in order.
"""

import asyncio
import time
from collections.abc import Callable
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from typing import cast

import structlog

from gridnode.errors import GridError
from gridnode.http_call import (
    SERVER,
    Answer,
    HttpCalls,
    check_json,
    check_key,
    check_sender,
    error_answer,
    new_call,
    outcome_answer,
)
from gridnode.http_head import MAX_BODY, MAX_HEAD, START, Head, read_head
from gridnode.link import Cancel
from gridnode.model import Invocation, Outcome

__all__ = ["FastDoor"]

log = structlog.get_logger()

_MAX_WAITING = 2 * (MAX_HEAD + MAX_BODY)
"""Bytes of requests to come that are read while one is answered."""
_PATIENCE = 1.0
"""Seconds for all of a request to come; the thorough door has rules for those that take longer."""
_IDLE = 3600.0
"""Seconds without a request after which a connection is closed."""


class FastDoor:
    """Makes the protocol of each connection. thorough: that of one which brings something out of the ordinary."""

    def __init__(self, calls: HttpCalls, thorough: Callable[[], asyncio.Protocol]) -> None:
        self.calls = calls
        self.thorough = thorough
        self.open: set[Connection] = set()

    def __call__(self) -> asyncio.Protocol:
        return Connection(self)

    def close(self) -> None:
        """Close all connections; the calls on them are given up."""
        for connection in list(self.open):
            connection.close()


class Connection(asyncio.Protocol):
    """One client, as long as its requests are ordinary."""

    def __init__(self, door: FastDoor) -> None:
        self._door = door
        self._calls = door.calls
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._head_text = b""
        self._head: Head | None = None
        self._busy = False
        self._room: int | None = None
        self._cancel: Cancel | None = None
        self._stepping = self._full = self._held = False
        self._late: asyncio.TimerHandle | None = None
        self._idle: asyncio.TimerHandle | None = None
        self._used = 0.0

    # -- asyncio's side ---------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._door.open.add(self)
        self._used = self._loop.time()
        self._idle = self._loop.call_later(_IDLE, self._look_whether_idle)

    def data_received(self, chunk: bytes) -> None:
        self._buffer += chunk
        if not self._busy:
            self._go_on()
        if len(self._buffer) > _MAX_WAITING and self._transport and not self._held:
            self._held = True
            self._transport.pause_reading()

    def pause_writing(self) -> None:
        """The client does not read its answers: it gets no more before it does."""
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        self._go_on()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()
        cancel = self._cancel
        self._end_call()
        if cancel:
            cancel()

    def close(self) -> None:
        if self._transport:
            self._transport.close()

    # -- requests ---------------------------------------------------------------------------------------------------

    def _go_on(self) -> None:
        """Serve what is here, as far as it is whole; an outcome that comes at once comes inside."""
        if self._stepping:
            return
        self._stepping = True
        while self._buffer and not self._busy and not self._full and self._transport and self._serve_one():
            pass
        self._stepping = False
        if self._held and not self._busy and not self._full and self._transport:
            self._held = False
            self._transport.resume_reading()

    def _serve_one(self) -> bool:
        """Whether there was a whole request, which is now under way or answered."""
        buffer = self._buffer
        end = buffer.find(b"\r\n\r\n", 0, MAX_HEAD) + 4
        if end < 4:
            starts = buffer.startswith(START) or START.startswith(buffer)
            return self._wait() if starts and len(buffer) < MAX_HEAD else self._hand_over()
        text = bytes(buffer[:end])
        if text != self._head_text:  # on one connection a head is mostly like the one before
            self._head, self._head_text = read_head(text), text
        head = self._head
        if head is None:
            return self._hand_over()
        end += head.length
        if len(buffer) < end:
            return self._wait()
        body = bytes(buffer[end - head.length : end])
        del buffer[:end]
        if self._late:
            self._late.cancel()
            self._late = None
        self._serve(head, body)
        return True

    def _serve(self, head: Head, body: bytes) -> None:
        """Start the call. Every error is an answer, as at the thorough door."""
        self._busy = True
        self._used = self._loop.time()
        try:
            check_sender(head.host, head.origin)
            deadline = self._calls.deadline(head.task, head.timeout)
            check_key(head.key)
            self._calls.enter(head.length)
            self._room = head.length
            check_json(body)
            self._route(new_call(head.task, body, deadline, head.key), head.node)
        except GridError as exc:
            self._answer(error_answer(exc))
        except Exception:
            log.exception("request failed", task=head.task)
            self._answer(error_answer(GridError("internal error: see this node's log")))

    def _route(self, call: Invocation, node: str) -> None:
        over = False

        def done(outcome: Outcome) -> None:
            nonlocal over
            if not over:
                over = True
                self._answer(outcome_answer(outcome, call.id))

        cancel = self._calls.route(call, done, node)
        if not over:
            self._cancel = cancel

    def _answer(self, answer: Answer) -> None:
        """To the request under way, if it still is; then the next."""
        if not self._busy:
            return
        self._end_call()
        if self._transport:
            self._transport.write(_render(answer))
        self._go_on()

    def _end_call(self) -> None:
        self._busy = False
        self._cancel = None
        if self._room is not None:
            self._calls.leave(self._room)
            self._room = None

    # -- all that is not ordinary -----------------------------------------------------------------------------------

    def _wait(self) -> bool:
        """For the rest of a request, for a moment."""
        if not self._late:
            self._late = self._loop.call_later(_PATIENCE, self._hand_over)
        return False

    def _hand_over(self) -> bool:
        """Give the connection, and what has come of the next request, to the thorough door."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return False
        self._forget()
        if self._held:
            transport.resume_reading()
        protocol = self._door.thorough()
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        protocol.data_received(bytes(self._buffer))
        self._buffer.clear()
        return False

    def _forget(self) -> None:
        """The connection is no longer ours."""
        self._transport = None
        self._door.open.discard(self)
        for timer in (self._late, self._idle):
            if timer:
                timer.cancel()

    def _look_whether_idle(self) -> None:
        left = self._used + _IDLE - self._loop.time()
        if not self._busy and left <= 0:
            self.close()
        else:
            self._idle = self._loop.call_later(left if left > 0 else _IDLE, self._look_whether_idle)


def _render(answer: Answer) -> bytes:
    head = _start(answer.status) + "".join([f"{name}: {value}\r\n" for name, value in answer.headers.items()])
    return f"{head}Content-Length: {len(answer.body)}\r\n{_date(int(time.time()))}\r\n".encode() + answer.body


@lru_cache
def _start(status: int) -> str:
    phrase = HTTPStatus(status).phrase
    return f"HTTP/1.1 {status} {phrase}\r\nContent-Type: application/json\r\nServer: {SERVER}\r\n"


@lru_cache(maxsize=1)
def _date(second: int) -> str:
    return f"Date: {formatdate(second, usegmt=True)}\r\n"
