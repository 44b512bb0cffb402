"""Serves a task file whose handlers are all sync: one call after the other, on the process's own thread."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import threading
import time

from gridnode.runtimes.python import (
    DIAL_PATIENCE,
    REDIAL_PATIENCE,
    REDIAL_PAUSE,
    Fault,
    Handlers,
    answer,
    dial,
    pack_error,
)
from gridnode.runtimes.python_calls import Calling, Served, Unanswered, pack_call
from gridnode.runtimes.python_frames import (
    CALL,
    CANCEL,
    CREDIT,
    FLAG_STREAM,
    OP_INVOKE,
    PART,
    PING,
    PONG,
    REPLY,
    Frame,
    Inbox,
    pack,
)
from gridnode.runtimes.python_stream import Credit

READ_AGAIN = 0.001


def run(path: str, hello: bytes, handlers: Handlers) -> None:
    """Serve until nobody has listened for a long time."""
    patience = DIAL_PATIENCE
    while sock := dial(path, patience):
        with sock, contextlib.suppress(OSError, ValueError):
            sock.sendall(hello)
            Connection(sock, handlers).serve()
        patience = REDIAL_PATIENCE
        time.sleep(REDIAL_PAUSE)


class Connection:
    """One connection, the calls that wait on it, and the one being served."""

    def __init__(self, sock: socket.socket, handlers: Handlers) -> None:
        self._sock, self._handlers = sock, handlers
        self._inbox = Inbox()
        self._waiting: dict[int, Frame] = {}
        self._served: Served | None = None
        self._given_up = False
        self._credit: Credit | None = None
        self._read_at = 0.0
        self._ids = itertools.count(1)
        self._asked = 0
        self._reply: Frame | None = None
        self._owner = os.getpid(), threading.get_ident()
        Calling.line = self

    def serve(self) -> None:
        """Answer calls in order, each before the next starts, until the connection ends.

        The node sends short calls early. One that it takes back while another runs must not start: so after a long
        one, what has come meanwhile is read before the next.
        """
        sock, waiting, handlers, now = self._sock, self._waiting, self._handlers, time.monotonic
        read_at = 0.0
        while True:
            if not waiting or now() - read_at > READ_AGAIN:
                if not self._read(wait=not waiting):
                    return
                read_at = now()
            if waiting:
                frame = waiting.pop(next(iter(waiting)))
                self._served, self._given_up = (frame, time.time()), False
                if frame.flags & FLAG_STREAM:
                    self._credit = Credit()
                reply = answer(handlers, frame)
                self._served = None
                sock.sendall(reply)

    def served(self) -> Served | None:
        """The call being served: there is one at most."""
        return self._served

    def is_cancelled(self, call_id: int) -> bool:
        """Reads what has come meanwhile, on the handler's own thread; on others it knows what has been read."""
        if self._served is None or self._served[0].call_id != call_id:
            return True
        if not self._given_up and (os.getpid(), threading.get_ident()) == self._owner:
            try:
                self._given_up = not self._read(wait=False) or self._given_up
            except (OSError, ValueError):
                self._given_up = True
        return self._given_up

    def part(self, call_id: int, item: bytes) -> bool:
        """Waits here, on the handler's own thread, for a reader who has enough."""
        credit = self._credit
        assert credit
        now = time.monotonic()
        if now - self._read_at > READ_AGAIN:
            self._read_at = now
            self._given_up = not self._read(wait=False) or self._given_up
        while not credit.is_open and not self._given_up:
            self._given_up = not self._read(wait=True) or self._given_up
        if self._given_up:
            return False
        credit.spend(len(item))
        self._sock.sendall(pack(PART, call_id, item))
        return True

    def call(self, task: bytes, body: bytes, deadline_ms: int, op: int = OP_INVOKE) -> Frame:
        """Invoke, and keep what else comes for later until the Reply is there."""
        if self._served is None or (os.getpid(), threading.get_ident()) != self._owner:
            name = "invoke" if op == OP_INVOKE else "publish"
            raise RuntimeError(f"grid.{name} works on the thread that runs the handler; `async def` handlers have more")
        parent = self._served[0].call_id
        self._asked, self._reply = next(self._ids), None
        try:
            self._sock.sendall(pack_call(self._asked, task, parent, body, deadline_ms, op))
            while self._reply is None:
                if self._given_up:
                    self._sock.sendall(pack(CANCEL, self._asked))
                    raise Unanswered("nobody waits any more for the call that made this one")
                if not self._read(wait=True):
                    raise Unanswered("the connection to the node was lost during the call")
        except (OSError, ValueError) as exc:
            raise Unanswered(f"the connection to the node was lost during the call: {exc}") from exc
        return self._reply

    async def call_async(self, task: bytes, body: bytes, deadline_ms: int, op: int = OP_INVOKE) -> Frame:
        """The same: on this thread nothing else could go on meanwhile."""
        return self.call(task, body, deadline_ms, op)

    def _read(self, wait: bool) -> bool:
        """Take what has come, or wait for something to come; False at the end."""
        try:
            size = self._sock.recv_into(self._inbox.space(), 0, 0 if wait else socket.MSG_DONTWAIT)
        except BlockingIOError:
            return True
        for frame in self._inbox.received(size):
            self._take(frame)
        return size > 0

    def _take(self, frame: Frame) -> None:
        if frame.kind == CALL:
            self._waiting[frame.call_id] = frame
        elif frame.kind == REPLY and frame.call_id == self._asked:
            self._reply = frame
        elif frame.kind == CANCEL:
            self._cancel(frame.call_id)
        elif frame.kind == CREDIT:
            if self._credit and self._served and self._served[0].call_id == frame.call_id:
                self._credit.add(frame.body)
        elif frame.kind == PING:
            self._sock.sendall(pack(PONG, frame.call_id))

    def _cancel(self, call_id: int) -> None:
        if self._waiting.pop(call_id, None):
            fault = Fault("call", "the call was cancelled before it started")
            self._sock.sendall(pack_error(call_id, fault))
        elif self._served and self._served[0].call_id == call_id:
            self._given_up = True
