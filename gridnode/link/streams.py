"""The streams on one link: items of calls that we made, items of calls that the other side made, and their credit.

The credit of each is counted on both sides, and who sends past it loses the link; nothing is queued here.
"""

import logging
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from gridnode import wire
from gridnode.flow import Credit, Stream, Window
from gridnode.wire import Frame, Kind

__all__ = ["Streams", "safely"]

log = logging.getLogger(__name__)

MAX_LEFT = 1024
"""Streams given up of which items may be on their way still."""


def safely(function: Callable[..., None], *args: object) -> None:
    """Run one per-call callback: were it to raise inside buffer_updated, uvloop would close the whole link."""
    try:
        function(*args)
    except Exception:
        log.exception("link callback failed")


class _Read(NamedTuple):
    window: Window
    stream: Stream


class _Sent(NamedTuple):
    window: Window
    credited: Callable[[Credit], None]


class Streams:
    """send: queues a frame. reading, sending: by the call's id on its caller's side."""

    __slots__ = ("_left", "_send", "reading", "sending")

    def __init__(self, send: Callable[[Frame], None]) -> None:
        self._send = send
        self.reading: dict[int, _Read] = {}
        self.sending: dict[int, _Sent] = {}
        self._left: dict[int, Window] = {}

    # -- of calls that we made --------------------------------------------------------------------------------------

    def read(self, call_id: int, stream: Stream) -> None:
        """Hand the items of a call just sent to `stream`, which allows more through us."""
        self.reading[call_id] = _Read(Window(), stream)
        stream.source = partial(self._allow, call_id)

    def _allow(self, call_id: int, credit: Credit) -> None:
        found = self.reading.get(call_id)
        if found:
            found.window.add(credit)
            self._send(Frame(Kind.CREDIT, call_id, body=wire.encode_credit(credit)))

    def take(self, frame: Frame) -> bool:
        """A Part; whether it belongs to a stream. FrameInvalid past what was allowed."""
        found = self.reading.get(frame.call_id)
        if found is None:
            window = self._left.get(frame.call_id)
            if window:
                window.spend(len(frame.body))
            return window is not None
        found.window.spend(len(frame.body))
        safely(found.stream.take, frame.body)
        return True

    def ended(self, call_id: int) -> None:
        """Its Reply has come: an item after it belongs to nothing."""
        self.reading.pop(call_id, None)

    def leave(self, call_id: int) -> None:
        """We gave the call up, and no Reply will say when the other side has stopped."""
        found = self.reading.pop(call_id, None)
        if found:
            self._left[call_id] = found.window
            if len(self._left) > MAX_LEFT:
                del self._left[next(iter(self._left))]

    # -- of calls that the other side made --------------------------------------------------------------------------

    def serve(self, call_id: int, credited: Callable[[Credit], None]) -> None:
        """The call streams from now on; `credited` is told what its reader allows besides the first window."""
        self.sending[call_id] = _Sent(Window(), credited)

    def may_send(self, call_id: int) -> bool:
        """Whether the reader takes one more item."""
        found = self.sending.get(call_id)
        return found is not None and found.window.is_open

    def spend(self, call_id: int, size: int) -> bool:
        """An item is about to be sent; whether anybody reads. FrameInvalid past what the reader allows."""
        found = self.sending.get(call_id)
        if found:
            found.window.spend(size)
        return found is not None

    def credit(self, frame: Frame) -> bool:
        """A Credit; whether it belongs to a stream. FrameInvalid when it is malformed or too much."""
        credit = wire.decode_credit(frame.body)
        found = self.sending.get(frame.call_id)
        if found:
            found.window.add(credit)
            safely(found.credited, credit)
        return found is not None

    def stop(self, call_id: int) -> None:
        """The call is answered, or nobody waits for it any more."""
        self.sending.pop(call_id, None)

    def clear(self) -> None:
        """The link is gone."""
        self.reading.clear()
        self.sending.clear()
        self._left.clear()
