"""Results item by item over HTTP: as server-sent events, or as lines. Who reads slowly stops the task that yields."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import NamedTuple

import msgspec
from aiohttp import web

from gridnode.errors import BodyInvalid, GridError
from gridnode.flow import FIRST_ITEMS, FIRST_SIZE
from gridnode.http_call import SERVER, Route, error_answer
from gridnode.json_line import json_line
from gridnode.link.reader import Reader
from gridnode.model import Invocation, Outcome

__all__ = ["EVENTS", "LINES", "Form", "HttpStreams", "wanted"]

KEEP_ALIVE = 15.0
"""Seconds without an item after which a comment is sent where that is possible."""
LINGER = 30.0
"""Seconds past its deadline in which a slow client may read the rest."""
_WRITE = 64 * 1024
"""Bytes of small items that are written together."""


class Form(NamedTuple):
    """How items are written. comment: what keeps an idle connection alive."""

    kind: str
    item: Callable[[bytes], bytes]
    comment: bytes = b""


EVENTS = Form("text/event-stream", lambda line: b"data: %s\n\n" % line, b": still here\n\n")
LINES = Form("application/x-ndjson", lambda line: line + b"\n")


def wanted(accept: str) -> Form | None:
    """What the header Accept asks for; None: the whole result."""
    kinds = {part.partition(";")[0].strip().lower() for part in accept.split(",")}
    return next((form for form in (EVENTS, LINES) if form.kind in kinds), None)


class HttpStreams:
    """items, size: what may be under way to one client. Of what a request may cost, `size` is what it holds here."""

    def __init__(self, items: int = FIRST_ITEMS, size: int = FIRST_SIZE) -> None:
        self._items = items
        self.size = size
        self._loop = asyncio.get_running_loop()

    async def serve(
        self, request: web.BaseRequest, call: Invocation, route: Route, node: str, form: Form
    ) -> web.StreamResponse | Outcome:
        """Run the call and send its items; its Outcome, when there was an error before the first of them."""
        reader: Reader[Outcome] = Reader(self._items, self.size)
        cancel = route(msgspec.structs.replace(call, stream=reader.stream), reader.end, node)
        try:
            async with asyncio.timeout_at(call.deadline + LINGER):
                first = await reader.next()
                if first is None and reader.outcome and reader.outcome.error:
                    return reader.outcome
                return await _Sender(request, form, reader).run(call, first)
        except TimeoutError:
            return _broken(request)
        finally:
            cancel()
            reader.close()


def _broken(request: web.BaseRequest) -> web.StreamResponse:
    """End the connection: its client does not read, or must see that something is missing."""
    if request.transport:
        request.transport.close()
    return web.Response()


class _Sender:
    """Writes one stream."""

    def __init__(self, request: web.BaseRequest, form: Form, reader: Reader[Outcome]) -> None:
        self._request = request
        self._form = form
        self._reader = reader
        headers = {"Content-Type": form.kind, "Cache-Control": "no-store", "X-Accel-Buffering": "no", "Server": SERVER}
        self._response = web.StreamResponse(headers=headers)

    async def run(self, call: Invocation, first: bytes | None) -> web.StreamResponse:
        self._response.headers["Grid-Invocation-Id"] = call.id
        if self._form is LINES:
            self._response.enable_chunked_encoding()
        with contextlib.suppress(ConnectionError):
            await self._response.prepare(self._request)
            error = await self._items(first)
            if error is None or self._form is EVENTS:
                return self._response
        return _broken(self._request)

    async def _items(self, item: bytes | None) -> GridError | None:
        """Send all that comes, and how it ended."""
        try:
            while item is not None:
                await self._write(item)
                item = await self._next()
            outcome = self._reader.outcome or Outcome()
            if outcome.error is None and outcome.body:
                await self._write(outcome.body)
        except BodyInvalid as exc:
            outcome = Outcome(error=exc)
        await self._end(outcome)
        return outcome.error

    async def _write(self, item: bytes) -> None:
        """With what else is here already."""
        written = self._form.item(json_line(item))
        while self._reader.has_items and len(written) < _WRITE:
            more = await self._reader.next()
            try:
                written += self._form.item(json_line(more or b""))
            except BodyInvalid:
                await self._response.write(written)
                raise
        await self._response.write(written)

    async def _next(self) -> bytes | None:
        while True:
            try:
                async with asyncio.timeout(KEEP_ALIVE if self._form.comment else None):
                    return await self._reader.next()
            except TimeoutError:
                await self._response.write(self._form.comment)

    async def _end(self, outcome: Outcome) -> None:
        if outcome.error:
            body = error_answer(outcome.error, node=outcome.name).body
            await self._response.write(body + b"\n" if self._form is LINES else _event(b"error", body))
        elif self._form is EVENTS:
            ran = {
                "node": outcome.name,
                "instance": outcome.instance,
                "attempts": outcome.attempts,
                "duration_ms": round(outcome.duration * 1000, 3),
            }
            await self._response.write(_event(b"end", msgspec.json.encode(ran)))


def _event(kind: bytes, body: bytes) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (kind, body)
