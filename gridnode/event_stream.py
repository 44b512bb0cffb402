"""Subscriptions over HTTP: server-sent events, with a comment now and then so that everybody knows who is there."""

import asyncio
import contextlib

from aiohttp import web

from gridnode.errors import NoCapacity
from gridnode.events import Events
from gridnode.topics import Backlog, Event, as_json

__all__ = ["EventStreams"]

MAX_STREAMS = 64
KEEP_ALIVE = 15.0
"""Seconds without an event after which a comment is sent."""
_BATCH_EVENTS = 256
_BATCH_BYTES = 256 * 1024


class Stream:
    """One listener: what waits for it, and a bell."""

    def __init__(self) -> None:
        self.backlog = Backlog()
        self.bell = asyncio.Event()

    def push(self, event: Event) -> None:
        self.backlog.push(event)
        self.bell.set()

    def missed(self, topic: str, count: int) -> None:
        self.backlog.missed(topic, count)

    def text(self) -> bytes:
        """What waits, as the client gets it; the first event says how many were lost before it."""
        batch = self.backlog.take(_BATCH_EVENTS, _BATCH_BYTES)
        if not self.backlog:
            self.bell.clear()
        dropped = sum(batch.dropped.values())
        parts = []
        for event in batch.events:
            parts.append(b"id: %s\ndata: %s\n\n" % (event.id.encode(), as_json(event, dropped)))
            dropped = 0
        if dropped:
            self.backlog.missed("", dropped)
        return b"".join(parts)


class EventStreams:
    """All open streams of a node."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self._open: set[asyncio.Task[object]] = set()

    def publish(self, topic: str, body: bytes) -> int:
        """To how many listeners the event is sent."""
        return self._events.publish(topic, body or b"null")

    def counts(self) -> dict[str, int]:
        return self._events.counts() | {"streams": len(self._open)}

    async def serve(self, request: web.BaseRequest) -> web.StreamResponse:
        """Until the client goes, or the node does; raises TopicInvalid, BodyInvalid or NoCapacity before it begins."""
        if len(self._open) >= MAX_STREAMS:
            raise NoCapacity(f"{len(self._open)} streams of events are open already", hint="ask another node")
        stream = Stream()
        self._events.listen(stream, request.query.getall("topic", []))
        job = asyncio.current_task()
        assert job
        self._open.add(job)
        try:
            return await self._run(request, stream)
        finally:
            self._open.discard(job)
            self._events.forget(stream)

    async def _run(self, request: web.BaseRequest, stream: Stream) -> web.StreamResponse:
        headers = {"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        response = web.StreamResponse(headers=headers)
        with contextlib.suppress(ConnectionError):
            await response.prepare(request)
            await response.write(b": listening\n\n")
            while True:
                try:
                    async with asyncio.timeout(KEEP_ALIVE):
                        await stream.bell.wait()
                except TimeoutError:
                    await response.write(b": still here\n\n")
                    continue
                await response.write(stream.text())
        return response

    def close(self) -> None:
        """End every stream."""
        for job in self._open:
            job.cancel()
