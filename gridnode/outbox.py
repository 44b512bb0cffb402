"""Events on their way out over one link, in batches: at once when it is quiet, a batch every 2 ms when it is not."""

import asyncio
import time
from collections.abc import Callable

from gridnode.event_wire import encode_batch
from gridnode.link.protocol import Link
from gridnode.topics import Backlog, Event
from gridnode.wire import Op

__all__ = ["Outbox"]

_PAUSE = 0.002
"""Seconds from batch to batch: 500 frames a second, well below what a link takes."""
_ROOM = 1024 * 1024
"""Bytes that may wait in the link; past it events wait here, where they are bounded by themselves."""
_BATCH_EVENTS = 1024
_BATCH_BYTES = 256 * 1024


class Outbox:
    """One listener at the far end of a link. link: None while there is none; name: which of the listeners there."""

    def __init__(self, link: Callable[[], Link | None], name: str = "") -> None:
        self.backlog = Backlog()
        self._link = link
        self._name = name
        self._number = time.time_ns()
        self._loop = asyncio.get_running_loop()
        self._due: asyncio.Handle | None = None
        self._sent_at = 0.0

    def push(self, event: Event) -> None:
        self.backlog.push(event)
        if self._due is None:
            self._flush_soon()

    def missed(self, topic: str, count: int) -> None:
        """Events that were lost on their way here: told with the next that goes out."""
        self.backlog.missed(topic, count)

    def close(self) -> None:
        """Send no more."""
        if self._due:
            self._due.cancel()
        self.backlog.drop()

    def _flush_soon(self) -> None:
        left = self._sent_at + _PAUSE - self._loop.time()
        self._due = self._loop.call_later(left, self._flush) if left > 0 else self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._due = None
        link = self._link()
        if link is None or not link.is_open:
            self.backlog.drop()
            return
        self._sent_at = self._loop.time()
        if link.buffered() <= _ROOM:
            self.send_batch(link)
        if self.backlog:
            self._due = self._loop.call_later(_PAUSE, self._flush)

    def send_batch(self, link: Link) -> None:
        """What waits, as much as one batch holds; an empty one tells that somebody is here."""
        self._number += 1
        batch = self.backlog.take(_BATCH_EVENTS, _BATCH_BYTES)
        link.event(Op.EVENTS, encode_batch(self._number, batch), name=self._name)
