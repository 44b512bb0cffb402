"""The framed, multiplexed connection: client→node and node→node over TLS, node→instance over a unix socket."""

import asyncio
import itertools
import logging
import os
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from gridnode import wire
from gridnode.errors import BodyTooLarge, FrameInvalid, GridError, LinkClosed, NoCapacity
from gridnode.flow import Stream
from gridnode.link import Cancel, LinkEnd, LinkLimits, Replied
from gridnode.link.budget import Budget
from gridnode.link.lost import why_lost
from gridnode.link.streams import Streams, safely
from gridnode.model import Address
from gridnode.wire import Frame, Kind, Op

if TYPE_CHECKING:
    from gridnode.identity import PeerIdentity

log = logging.getLogger(__name__)

_BUFFER = 16 * 1024
Identify = Callable[[asyncio.BaseTransport], "PeerIdentity | None"]


class Link(asyncio.BufferedProtocol):
    """One end of a connection. Either side may call; replies, events and cancels share it.

    identify: reads the verified peer from the transport and raises NotAuthenticated; None on unix sockets.
    address: where we dialled it; None when the other side did. read_to_end: the other side closed and all is read.
    """

    def __init__(
        self, end: LinkEnd, limits: LinkLimits, identify: Identify | None = None, address: Address | None = None
    ) -> None:
        self.peer: PeerIdentity | None = None
        self.address = address
        self.read_to_end = False
        self.last_heard = 0.0
        self.error: GridError | None = None
        self._end = end
        self._limits = limits
        self._identify = identify
        self._greeted = False
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray(_BUFFER)
        self._filled = 0
        self._max_length = limits.max_hello
        self._out: list[bytes] = []
        self._out_size = 0
        self._ids = itertools.count(1)
        self._pending: dict[int, Replied] = {}
        self._inbound: dict[int, Cancel | None] = {}
        self._spend = Budget(limits.max_events, self._loop).spend
        self.streams = Streams(self._send)
        self._hello_timer: asyncio.TimerHandle | None = None
        self._spare: socket.socket | None = None
        self._opened: asyncio.Future[None] = self._loop.create_future()
        self._closed: asyncio.Future[None] = self._loop.create_future()

    # -- asyncio's side ---------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self.last_heard = self._loop.time()
        try:
            self.peer = self._identify(transport) if self._identify else None
            self._send(Frame(Kind.HELLO, 0, body=self._end.hello(self)))
        except GridError as exc:
            self.close(exc)
            return
        self._hello_timer = self._loop.call_later(self._limits.hello_timeout, self._hello_late)

    def get_buffer(self, sizehint: int) -> memoryview:
        return memoryview(self._buffer)[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        if self._transport is None or self._transport.is_closing():
            return  # TLS still reads while it closes
        self._filled += nbytes
        try:
            self._consume()
        except GridError as exc:
            self.close(exc)
        except Exception as exc:
            log.exception("link failed")
            self.close(FrameInvalid(f"unexpected: {exc}"))
        if self._filled == len(self._buffer):
            self._filled = 0  # only when closing: what comes then is dropped, but needs room

    def eof_received(self) -> None:
        self.read_to_end = True
        self.close(None)

    def _read_rest(self, spare: socket.socket) -> bool:
        """Take the frames that are still unread; whether that was the end of all the other side sent."""
        self._transport = None
        try:
            while size := spare.recv_into(self.get_buffer(-1), 0, socket.MSG_DONTWAIT):
                self._filled += size
                self._consume()
        except ConnectionResetError:
            return True  # it died with something of ours unread, which is told only after all of its own
        except (OSError, GridError):
            return False
        return True

    def pause_writing(self) -> None: ...

    def resume_writing(self) -> None: ...

    def keep_spare(self) -> None:
        """On a plain socket: read what the other side sent before it died even when a write of ours fails first."""
        if self._transport:
            self._spare = socket.socket(fileno=os.dup(self._transport.get_extra_info("socket").fileno()))

    def connection_lost(self, exc: Exception | None) -> None:
        if self._hello_timer:
            self._hello_timer.cancel()
        if self._spare:
            with self._spare:
                self.read_to_end = self._read_rest(self._spare)
            self._spare = None
        self.error = self.error or why_lost(exc)
        pending, self._pending = self._pending, {}
        inbound, self._inbound = self._inbound, {}
        self.streams.clear()
        for replied in pending.values():
            safely(replied, self.error)
        for cancel in inbound.values():
            if cancel:
                safely(cancel)
        if self._greeted:
            safely(self._end.closed, self, self.error)
        if not self._opened.done():
            self._opened.cancel()
        if not self._closed.done():
            self._closed.set_result(None)

    # -- calls out --------------------------------------------------------------------------------------------------

    def call(
        self,
        op: Op,
        name: str,
        body: bytes,
        replied: Replied,
        *,
        meta: bytes = b"",
        deadline_ms: int = 0,
        stream: Stream | None = None,
    ) -> int:
        """Send a Call; `replied` gets its Reply or an error. Raises LinkClosed, NoCapacity, BodyTooLarge: not sent."""
        if not self.is_open:
            raise self.error or LinkClosed("the link is not open")
        if len(body) > wire.MAX_CALL_BODY:
            raise BodyTooLarge(f"body of {len(body)} bytes, at most {wire.MAX_CALL_BODY} allowed")
        if self.buffered() > self._limits.max_buffered:
            raise NoCapacity("too much is waiting to be sent on this link")
        call_id = next(self._ids)
        self._send(Frame(Kind.CALL, call_id, op, wire.FLAG_STREAM if stream else 0, deadline_ms, name, meta, body))
        self._pending[call_id] = replied
        if stream:
            self.streams.read(call_id, stream)
        return call_id

    def cancel(self, call_id: int) -> None:
        """Forget a call and tell the other side; its Reply, should one come, is dropped."""
        if call_id in self._pending:
            self.ask_to_stop(call_id)
            self._pending.pop(call_id, None)
            if self.streams.reading:
                self.streams.leave(call_id)

    def ask_to_stop(self, call_id: int) -> None:
        """Tell the other side that nobody waits for this call, but still learn when it is over."""
        if call_id in self._pending and self.is_open:
            self._send(Frame(Kind.CANCEL, call_id))

    async def request(self, op: Op, body: bytes = b"", *, name: str = "", timeout: float = 10.0) -> bytes:
        """Call and wait: the Reply's body, or raises its typed error, LinkClosed, or TimeoutError."""
        future: asyncio.Future[Frame | GridError] = self._loop.create_future()

        def replied(reply: Frame | GridError) -> None:
            if not future.done():
                future.set_result(reply)

        call_id = self.call(op, name, body, replied, deadline_ms=int(timeout * 1000))
        try:
            async with asyncio.timeout(timeout):
                reply = await future
        finally:
            self.cancel(call_id)
        return wire.read_reply(reply)

    def event(self, op: Op, body: bytes = b"", *, name: str = "") -> None:
        """Send an Event: at most once, dropped when the link is closed or full."""
        if len(body) > wire.MAX_CALL_BODY:
            log.error("an event of %d bytes is too large to send", len(body))
        elif self.is_open and self.buffered() <= self._limits.max_buffered:
            self._send(Frame(Kind.EVENT, 0, op, 0, 0, name, b"", body))

    def ping(self) -> None:
        if self.is_open:
            self._send(Frame(Kind.PING, 0))

    # -- calls in ---------------------------------------------------------------------------------------------------

    def on_cancel(self, call_id: int, cancel: Cancel) -> None:
        """Have `cancel` called when the other side gives this inbound call up, or the link is lost."""
        if call_id in self._inbound:
            self._inbound[call_id] = cancel

    def part(self, call_id: int, item: bytes) -> None:
        """Send an item of an inbound Call that streams; dropped when nobody waits for it."""
        if self.streams.spend(call_id, len(item)):
            self._respond(Frame(Kind.PART, call_id, body=item))

    def reply(self, call_id: int, body: bytes, meta: bytes = b"", flags: int = 0) -> None:
        """Answer an inbound Call; a call that was cancelled or lost its link is dropped silently."""
        if call_id not in self._inbound:
            return
        if len(body) > wire.MAX_CALL_BODY:
            error = BodyTooLarge(f"result of {len(body)} bytes, at most {wire.MAX_CALL_BODY} allowed")
            body, flags = wire.encode_error(error), wire.FLAG_ERROR
        del self._inbound[call_id]
        if self.streams.sending:
            self.streams.stop(call_id)
        self._respond(Frame(Kind.REPLY, call_id, 0, flags, 0, "", meta, body))

    def reply_error(self, call_id: int, error: GridError, meta: bytes = b"") -> None:
        self.reply(call_id, wire.encode_error(error), meta, wire.FLAG_ERROR)

    # -- closing ----------------------------------------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        """Both hellos are through and nobody has closed."""
        return self._greeted and self._transport is not None and not self._transport.is_closing()

    @property
    def is_closing(self) -> bool:
        return self._transport is not None and self._transport.is_closing()

    @property
    def busy(self) -> bool:
        """Calls are under way in either direction."""
        return bool(self._pending or self._inbound)

    def close(self, error: GridError | None = None) -> None:
        """Close after what is queued has been sent; `error` is what pending calls get."""
        self.error = self.error or error
        if self._transport and not self._transport.is_closing():
            self._flush()
            self._transport.close()

    def abort(self, error: GridError) -> None:
        """Close now: for a peer that has fallen silent, which would never drain our buffer."""
        self.error = self.error or error
        if self._transport:
            self._transport.abort()

    async def wait_open(self) -> None:
        """Wait for the other side's hello, which alone proves that it let us in; raises what closed the link."""
        await asyncio.wait({self._opened})
        if self._opened.cancelled():
            raise self.error or LinkClosed("the link was closed")

    async def wait_closed(self) -> None:
        await asyncio.shield(self._closed)

    # -- inside -----------------------------------------------------------------------------------------------------

    def _consume(self) -> None:
        view, at, filled = memoryview(self._buffer), 0, self._filled
        size = wire.HEADER_SIZE
        while filled - at >= wire.HEADER_SIZE:
            size = wire.needed(view[at : at + 4], self._max_length)
            if filled - at < size:
                break
            frame = wire.decode(view[at : at + size])
            at += size
            size = wire.HEADER_SIZE
            self._dispatch(frame)
            if self._transport and self._transport.is_closing():
                break
        self._make_room(view, at, size)

    def _make_room(self, view: memoryview, at: int, size: int) -> None:
        """Move the unread rest to the front, in a buffer that fits the next frame and shrinks after a large one."""
        rest = self._filled - at
        capacity = max(_BUFFER, size)
        if capacity != len(self._buffer):
            fresh = bytearray(capacity)
            fresh[:rest] = view[at : self._filled]
            self._buffer = fresh
        elif at:
            self._buffer[:rest] = bytes(view[at : self._filled])
        self._filled = rest

    def _dispatch(self, frame: Frame) -> None:
        self.last_heard = self._loop.time()
        kind = frame.kind
        if not self._greeted:
            self._greet(frame)
        elif kind == Kind.REPLY:
            replied = self._pending.pop(frame.call_id, None)
            if self.streams.reading:
                self.streams.ended(frame.call_id)
            if replied:
                safely(replied, frame)
            else:
                self._spend()
        elif kind == Kind.CALL:
            self._take_call(frame)
        elif kind == Kind.CANCEL:
            self._spend()
            cancel = self._inbound.pop(frame.call_id, None)
            self.streams.stop(frame.call_id)
            if cancel:
                safely(cancel)
        elif kind == Kind.PART or kind == Kind.CREDIT:
            if not (self.streams.take(frame) if kind == Kind.PART else self.streams.credit(frame)):
                self._spend()
        else:
            self._take_event(frame)

    def _greet(self, frame: Frame) -> None:
        if frame.kind != Kind.HELLO:
            raise FrameInvalid(f"expected a hello, got a frame of kind {frame.kind}")
        if self._hello_timer:
            self._hello_timer.cancel()
        self._max_length = wire.MAX_LENGTH
        self._greeted = True
        try:
            self._end.opened(self, frame.body)
        except GridError:
            self._greeted = False
            raise
        if not self._opened.done():
            self._opened.set_result(None)

    def _take_call(self, frame: Frame) -> None:
        if frame.call_id in self._inbound:
            raise FrameInvalid(f"call id {frame.call_id} is already in use")
        full = len(self._inbound) >= self._limits.max_inbound
        self._inbound[frame.call_id] = None
        if full:
            self._spend()
            self.reply_error(frame.call_id, NoCapacity("too many calls under way on this link"))
        else:
            try:
                self._end.called(self, frame)
            except GridError as exc:
                self._spend()
                self.reply_error(frame.call_id, exc)
            except Exception as exc:
                log.exception("call failed")
                self.reply_error(frame.call_id, GridError(f"internal error: {type(exc).__name__}"))

    def _take_event(self, frame: Frame) -> None:
        self._spend()
        if frame.kind == Kind.EVENT:
            safely(self._end.heard, self, frame)
        elif frame.kind == Kind.PING:
            self._respond(Frame(Kind.PONG, frame.call_id))
        elif frame.kind != Kind.PONG:
            raise FrameInvalid(f"unknown frame kind {frame.kind}")

    def _hello_late(self) -> None:
        self.abort(LinkClosed(f"no hello within {self._limits.hello_timeout:g} s"))

    def buffered(self) -> int:
        """Bytes that wait to be sent."""
        return self._out_size + (self._transport.get_write_buffer_size() if self._transport else 0)

    def _send(self, frame: Frame) -> None:
        """Queue a frame; all frames of one loop turn leave in one write."""
        encoded = wire.encode(frame)
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(encoded)
        self._out_size += len(encoded)

    def _respond(self, frame: Frame) -> None:
        """Send what the other side asked for, as long as it reads."""
        self._send(frame)
        if self.buffered() > 2 * self._limits.max_buffered:
            self.abort(LinkClosed("the other side does not read its replies"))

    def _flush(self) -> None:
        if self._out and self._transport and not self._transport.is_closing():
            self._transport.write(b"".join(self._out))
        self._out = []
        self._out_size = 0
