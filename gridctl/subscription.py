"""Events of the grid on a client's link: what comes in, and what is published."""

import asyncio
import json
from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple

from gridnode import messages, wire
from gridnode.errors import BodyInvalid, BodyTooLarge, GridError, LinkClosed, UsageError
from gridnode.event_wire import MAX_EVENTS, MAX_PATTERNS, Publication, decode_batch
from gridnode.link.protocol import Link
from gridnode.topics import MAX_PAYLOAD, Backlog, check_pattern, check_topic
from gridnode.wire import Frame, Op

__all__ = ["Event", "Inbox", "Publisher", "Subscription"]

_BATCH = 512
_BATCH_BYTES = 1024 * 1024
_UNDER_WAY = 2
"""Batches sent and not answered: what is published meanwhile makes the next."""
_PATIENCE = 15.0


class Event(NamedTuple):
    """One event. time: when it was published, unix seconds; dropped: how many were lost before it."""

    topic: str
    payload: Any
    id: str
    time: float
    dropped: int = 0


class Inbox:
    """What has come for one subscription and was not taken yet: bounded, the oldest are dropped."""

    def __init__(self, max_events: int) -> None:
        self.backlog = Backlog(max_events)
        self.bell = asyncio.Event()
        self.opened = asyncio.Event()
        self.error: GridError | None = None

    def take(self, body: bytes) -> None:
        """A batch of a node's; garbage ends the subscription."""
        try:
            _, batch = decode_batch(body)
        except BodyInvalid as exc:
            self.end(exc)
            return
        for topic, count in batch.dropped.items():
            self.backlog.missed(topic, count)
        for event in batch.events:
            self.backlog.push(event)
        self.opened.set()
        self.bell.set()

    def end(self, error: GridError) -> None:
        """No more will come."""
        self.error = self.error or error
        self.opened.set()
        self.bell.set()


Listeners = dict[str, Inbox]
"""By the call ids of their SUBSCRIBEs: the names of the events that come for them."""


class Subscription:
    """`async for event in subscription`; `async with` it to be sure that it stands, and ends. Made by Grid.subscribe.

    A consumer that is slow loses the oldest events past `buffer`, which the next one's `dropped` says. Raises
    LinkClosed when the node goes.
    """

    def __init__(self, link: Link, listeners: Listeners, patterns: Sequence[str], buffer: int = 8192) -> None:
        if not 0 < len(patterns) <= MAX_PATTERNS:
            raise UsageError(f"{len(patterns)} patterns in one subscription: 1 to {MAX_PATTERNS} are allowed")
        for pattern in patterns:
            check_pattern(pattern)
        self._link = link
        self._listeners = listeners
        self._patterns = list(patterns)
        self._inbox = Inbox(buffer)
        self._call_id: int | None = None

    @property
    def dropped(self) -> int:
        """Events lost so far, here or on the way."""
        return self._inbox.backlog.dropped

    async def open(self) -> "Subscription":
        """Wait until the node listens for us; events published there from now on come."""
        if self._call_id is None:
            inbox = self._inbox
            body = messages.encode(self._patterns)
            call_id = self._link.call(Op.SUBSCRIBE, "", body, lambda reply: inbox.end(_why(reply)))
            self._call_id = call_id
            self._listeners[str(call_id)] = inbox
        try:
            async with asyncio.timeout(_PATIENCE):
                await self._inbox.opened.wait()
        except TimeoutError as exc:
            self.close()
            raise LinkClosed(f"{self._link.address} did not answer within {_PATIENCE:g} s") from exc
        if self._inbox.error:
            raise self._inbox.error
        return self

    async def next(self) -> Event:
        """The next event; raises LinkClosed when there will be none."""
        if self._call_id is None:
            await self.open()
        inbox = self._inbox
        while not inbox.backlog:
            if inbox.error:
                raise inbox.error
            inbox.bell.clear()
            await inbox.bell.wait()
        event, dropped = inbox.backlog.next()
        return Event(event.topic, json.loads(event.payload.decode()), event.id, event.time, dropped)

    def close(self) -> None:
        """End it; closing it twice does nothing."""
        if self._call_id is not None and self._listeners.pop(str(self._call_id), None) is self._inbox:
            self._link.cancel(self._call_id)
            self._inbox.end(LinkClosed("the subscription was closed"))

    def __aiter__(self) -> "Subscription":
        return self

    async def __anext__(self) -> Event:
        try:
            return await self.next()
        except LinkClosed:
            if self._call_id is not None and str(self._call_id) not in self._listeners:
                raise StopAsyncIteration from None  # closed by us
            raise

    async def __aenter__(self) -> "Subscription":
        return await self.open()

    async def __aexit__(self, *exc: object) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_call_id"):  # a loop over it that was left
            self.close()


def _why(reply: Frame | GridError) -> GridError:
    if isinstance(reply, GridError):
        return LinkClosed(f"lost the node: {reply.message}")
    return wire.decode_error(reply.body) if reply.flags & wire.FLAG_ERROR else LinkClosed("the node ended it")


class _Waiting(NamedTuple):
    """Events that go out together, and who waits for their counts."""

    publications: list[Publication]
    answer: "asyncio.Future[list[int]]"


class Publisher:
    """Sends events in order, what is published at the same time in one request."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[_Waiting] = deque()
        self._under_way = 0
        self._due = False

    @property
    def is_open(self) -> bool:
        """Its link is."""
        return self._link.is_open

    async def publish(self, publications: list[Publication]) -> list[int]:
        """To how many listeners each is sent; TopicInvalid, BodyTooLarge, or LinkClosed."""
        check_publications(publications)
        answer: asyncio.Future[list[int]] = self._loop.create_future()
        self._waiting.append(_Waiting(publications, answer))
        if not self._due:
            self._due = True
            self._loop.call_soon(self._flush)
        try:
            async with asyncio.timeout(_PATIENCE):
                return await answer
        except TimeoutError as exc:
            raise LinkClosed(f"{self._link.address} did not answer within {_PATIENCE:g} s") from exc

    def _flush(self) -> None:
        self._due = False
        while self._waiting and self._under_way < _UNDER_WAY:
            self._send(self._batch())

    def _batch(self) -> list[_Waiting]:
        """What waits, as much as goes into one request."""
        batch: list[_Waiting] = []
        count = size = 0
        while self._waiting:
            publications = self._waiting[0].publications
            count += len(publications)
            size += sum(len(topic) + len(body) + 16 for topic, body in publications)
            if batch and (count > _BATCH or size > _BATCH_BYTES):
                break
            batch.append(self._waiting.popleft())
        return batch

    def _send(self, batch: list[_Waiting]) -> None:
        body = messages.encode([publication for one in batch for publication in one.publications])

        def replied(reply: Frame | GridError) -> None:
            self._under_way -= 1
            _settle(batch, reply)
            self._flush()

        try:
            self._link.call(Op.PUBLISH, "", body, replied)
            self._under_way += 1
        except GridError as exc:
            _settle(batch, exc)


def check_publications(publications: list[Publication]) -> None:
    """Raises TopicInvalid or BodyTooLarge for what no node takes, UsageError for too many at once."""
    size = sum(len(topic) + len(body) + 16 for topic, body in publications)
    if len(publications) > MAX_EVENTS or (len(publications) > 1 and size > MAX_PAYLOAD):
        hint = f"at most {MAX_EVENTS} events and {MAX_PAYLOAD} bytes at once"
        raise UsageError(f"{len(publications)} events with {size} bytes are too many at once", hint=hint)
    for topic, body in publications:
        check_topic(topic)
        if len(body) > MAX_PAYLOAD:
            raise BodyTooLarge(f"an event of {len(body)} bytes on {topic}, at most {MAX_PAYLOAD} are allowed")


def _settle(batch: list[_Waiting], reply: Frame | GridError) -> None:
    """Give each what is its own: counts, or the error of all."""
    error = reply if isinstance(reply, GridError) else None
    counts: list[int] = []
    if isinstance(reply, Frame) and reply.flags & wire.FLAG_ERROR:
        error = wire.decode_error(reply.body)
    elif isinstance(reply, Frame):
        try:
            counts = messages.decode(reply.body, list[int])
        except BodyInvalid as exc:
            error = exc
    at = 0
    for one in batch:
        part, at = counts[at : at + len(one.publications)], at + len(one.publications)
        if one.answer.done():
            continue
        if error:
            one.answer.set_exception(error)
        else:
            one.answer.set_result(part)
