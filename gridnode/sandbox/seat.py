"""One instance as calls see it, and one call on its way through it."""

import asyncio
import time

from gridnode.link import Cancel
from gridnode.model import Done, Invocation, Outcome, TaskName
from gridnode.sandbox.instance import Handler, Instance

_MAX_WINDOW = 16
_WINDOW_TIME = 0.002
"""Seconds of work that may lie ahead in an instance which runs one call at a time, so that it need not wait for us."""
_SLOW = 1.0
_SMOOTH = 0.2


class Call:
    """A call that waits for, or is inside, an instance; settles exactly once."""

    __slots__ = ("call", "cancel", "done", "number", "seat", "sent", "settled", "timer")

    def __init__(self, call: Invocation, done: Done, number: int) -> None:
        self.call = call
        self.done = done
        self.number = number
        self.sent = 0.0
        self.settled = False
        self.seat: Seat | None = None
        self.cancel: Cancel | None = None
        self.timer: asyncio.TimerHandle | None = None

    def settle(self, outcome: Outcome) -> None:
        if not self.settled:
            self.settled = True
            if self.timer:
                self.timer.cancel()
            self.done(outcome)


class Seat:
    """An instance and the calls inside it, oldest first. pace: seconds a call takes it, smoothed; end: how it ended."""

    __slots__ = (
        "_in_order",
        "_judged",
        "answered",
        "crashed",
        "emptied",
        "end",
        "inside",
        "instance",
        "pace",
        "retiring",
        "streams",
    )

    def __init__(self, instance: Instance) -> None:
        self.instance = instance
        self.inside: dict[Call, None] = {}
        self.pace = _SLOW
        self.answered = 0.0
        self.crashed = False
        self.retiring = False
        self.streams = 0
        self.emptied: asyncio.Future[None] | None = None
        self.end = ""
        self._judged: dict[TaskName, Handler] | None = None
        self._in_order = True

    def admits(self, task: TaskName) -> bool:
        """A handler that takes one call at a time gets the next few early only while they are short."""
        if self.retiring or not self.instance.is_ready:
            return False
        handler = self.instance.handlers.get(task)
        if handler is None:
            return True
        if handler.concurrency == 1 and self.inside and (self.streams or self.instance.is_calling):
            return False  # what waits behind a call that waits, for its reader or for what could be this very one
        if handler.concurrency > 1:
            return len(self.inside) < handler.concurrency
        early = not self.inside or (self.pace < _WINDOW_TIME and self.runs_in_order)
        return early and len(self.inside) < max(1, min(_MAX_WINDOW, int(_WINDOW_TIME / self.pace)))

    @property
    def known_pace(self) -> float:
        """Seconds from answer to answer; 0 before the first."""
        return 0.0 if self.pace == _SLOW else self.pace

    @property
    def runs_in_order(self) -> bool:
        """Whether each call ends before the next starts; no longer where one handler runs calls side by side."""
        handlers = self.instance.handlers
        if handlers is not self._judged:  # asked twice a call; they change only with a new hello
            self._judged, self._in_order = handlers, all(one.concurrency == 1 for one in handlers.values())
        return self._in_order

    def has_started(self, entry: Call) -> bool:
        """Whether the call may have run, in part: of calls that run in order only the oldest, of a crash the first."""
        return (not self.crashed and next(iter(self.inside), None) is entry) or not self.runs_in_order

    def enter(self, entry: Call) -> None:
        """The call is sent in."""
        entry.seat, entry.sent = self, time.perf_counter()
        self.inside[entry] = None
        if entry.call.stream:
            self.streams += 1

    def leave(self, entry: Call) -> None:
        """The call is over in here."""
        self.inside.pop(entry, None)
        if entry.call.stream:
            self.streams -= 1
        entry.seat = None
        if not self.inside and self.emptied and not self.emptied.done():
            self.emptied.set_result(None)

    async def empty(self, patience: float) -> bool:
        """Wait until no call is inside, for at most `patience` seconds; whether it is so."""
        if self.inside:
            self.emptied = asyncio.get_running_loop().create_future()
            await asyncio.wait({self.emptied}, timeout=patience)
        return not self.inside

    def took(self, entry: Call) -> None:
        """Learn from an answer how long a call takes; a stream takes as long as its reader."""
        now = time.perf_counter()
        if entry.call.stream:
            self.answered = now
            return
        took = now - max(self.answered, entry.sent)
        self.answered = now
        self.pace = took if self.pace == _SLOW else self.pace + _SMOOTH * (took - self.pace)
