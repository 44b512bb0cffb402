"""The calls in and before the instances of one task file."""

import asyncio
import itertools
from collections.abc import Callable

import structlog

from gridnode.errors import CallTimeout, GridError, NoCapacity, NotReady, TaskCrashed, TaskNotFound
from gridnode.link import Cancel, nothing_to_cancel
from gridnode.model import Done, InstanceId, Invocation, Outcome, TaskName
from gridnode.sandbox.forecast import over_after
from gridnode.sandbox.instance import Instance
from gridnode.sandbox.seat import Call, Seat
from gridnode.sandbox.waiting import Waiting

log = structlog.get_logger()

_REASON_WITHIN = 1.0
"""Seconds the caller of a call whose instance was lost waits to be told why."""


class Calls:
    """A bounded queue in front of seats. kill: ends an instance that does not stop a call given up; seconds."""

    def __init__(self, queue: Waiting, cancel_grace: float, kill: Callable[[Seat], None]) -> None:
        self.seats: dict[InstanceId, Seat] = {}
        self._queue = queue
        self._cancel_grace = cancel_grace
        self._kill = kill
        self._loop = asyncio.get_running_loop()
        self._crashed: dict[Call, tuple[Seat, Outcome]] = {}
        self._numbers = itertools.count()
        self._idle = asyncio.Event()
        self._idle.set()
        self._closed = False

    @property
    def in_flight(self) -> int:
        return sum(len(seat.inside) for seat in self.seats.values()) + len(self._queue)

    def add(self, instance: Instance) -> None:
        """An instance that serves from now on."""
        self.seats[instance.id] = Seat(instance)
        self._pump()

    def connected(self, instance: Instance) -> None:
        """Its runtime is connected, again."""
        seat = self.seats.get(instance.id)
        if seat:
            self._answer_crashed(seat)
            seat.crashed = False
            self._pump()

    def ended(self, instance: Instance, reason: str) -> None:
        """It is known how it ended: what the callers of calls inside it are told."""
        seat = self.seats.get(instance.id)
        if seat:
            seat.end = reason
            self._answer_crashed(seat)

    def remove(self, instance: Instance) -> None:
        """An instance that has ended, with no call inside any more."""
        self.seats.pop(instance.id, None)
        self._pump()

    async def drained(self, patience: float) -> bool:
        """Wait until no call is left, for at most `patience` seconds; whether it is so."""
        try:
            async with asyncio.timeout(patience):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True

    def refuse_waiting(self, error: GridError) -> None:
        """End the calls that wait, as never started."""
        for entry in self._queue:
            self._give_up(entry, error)

    def close(self) -> None:
        """End the calls that wait as never started; those inside end with their instances."""
        self._closed = True
        for seat in self.seats.values():
            self._answer_crashed(seat)
        self.refuse_waiting(NotReady("the instance is being stopped"))

    def invoke(self, call: Invocation, done: Done) -> Cancel:
        """Run or queue the call; CallTimeout at its deadline.

        NoCapacity at once when the queue is full, or the call would hardly be over in time.
        """
        entry = Call(call, done, next(self._numbers))
        seat = None if self._queue else self._free_seat(call.task)
        if seat is None and (not self._queue.admits(len(call.body)) or self._is_late(call, len(self._queue))):
            entry.settle(Outcome(error=self._no_room(call), started=False))
            return nothing_to_cancel
        entry.timer = self._loop.call_at(call.deadline, self._timed_out, entry)
        self._idle.clear()
        if seat:
            self._run(entry, seat)
        else:
            self._queue.append(entry)
        return lambda: self._give_up(entry, NotReady("cancelled by the caller"))

    def _is_late(self, call: Invocation, waiting: int) -> bool:
        """Whether it would hardly be over before its deadline, with so many waiting before it."""
        seats = [seat for seat in self.seats.values() if not seat.retiring]
        ahead = waiting + sum(len(seat.inside) for seat in seats)
        return over_after(ahead, [seat.known_pace for seat in seats]) > call.deadline - self._loop.time()

    def _no_room(self, call: Invocation) -> NoCapacity:
        return NoCapacity(f"{call.task}: {self._queue}", hint="wait a moment; `gridctl scale` adds instances")

    def _refuse_late(self) -> None:
        """Calls take longer than was known when the last ones were let in: better told now than at their deadline."""
        while self._queue and self._is_late(self._queue.last.call, len(self._queue) - 1):
            self._give_up(self._queue.last, self._no_room(self._queue.last.call))

    def _free_seat(self, task: TaskName) -> Seat | None:
        """The least busy instance that takes one more call of this task."""
        best = None
        for seat in self.seats.values():
            if seat.admits(task) and (best is None or len(seat.inside) < len(best.inside)):
                best = seat
        return best

    def _run(self, entry: Call, seat: Seat) -> None:
        if entry.call.task not in seat.instance.handlers:
            entry.settle(Outcome(error=TaskNotFound(f"no task {entry.call.task!r}"), started=False))
            return
        seat.enter(entry)
        entry.cancel = seat.instance.invoke(entry.call, lambda outcome: self._finished(entry, seat, outcome))

    def _finished(self, entry: Call, seat: Seat, outcome: Outcome) -> None:
        stream = entry.call.stream
        started = outcome.started or seat.has_started(entry) or (stream is not None and stream.started)
        seat.leave(entry)
        if isinstance(outcome.error, TaskCrashed):
            seat.crashed = True
            if not entry.settled and not started:
                self._put_back(entry)
                return
            if not entry.settled:
                self._crash(entry, seat, outcome)
                return
        elif outcome.started:
            seat.took(entry)
            if self._queue:
                self._refuse_late()
        entry.settle(outcome)
        self._pump()

    def _crash(self, entry: Call, seat: Seat, outcome: Outcome) -> None:
        """The link breaks before the engine says why: answer when it has, or a moment later."""
        self._crashed[entry] = seat, outcome
        if seat.end or self._closed:
            self._answer_crashed(seat)
            return
        if entry.timer:
            entry.timer.cancel()
        entry.timer = self._loop.call_later(_REASON_WITHIN, self._answer_crashed, seat)

    def _answer_crashed(self, seat: Seat) -> None:
        for entry, (where, outcome) in list(self._crashed.items()):
            if where is seat:
                del self._crashed[entry]
                error = TaskCrashed(f"the instance {seat.end} with the call inside it") if seat.end else outcome.error
                entry.settle(Outcome(error=error, instance=outcome.instance))
        self._pump()

    def _put_back(self, entry: Call) -> None:
        """A call that an instance died before: it has not started, and waits again in its old place."""
        self._queue.put_back(entry)
        if self._closed:
            self._give_up(entry, NotReady("the instance is being stopped"))
        else:
            self._pump()

    def _pump(self) -> None:
        while self._queue:
            seat = self._free_seat(self._queue.first.call.task)
            if seat is None:
                return
            self._run(self._queue.pop(), seat)
        if not self._crashed and not any(seat.inside for seat in self.seats.values()):
            self._idle.set()

    def _timed_out(self, entry: Call) -> None:
        where = "in the task" if entry.seat and entry.seat.has_started(entry) else "in the queue"
        self._give_up(entry, CallTimeout(f"{entry.call.task}: no result before the deadline (it was {where})"))

    def _give_up(self, entry: Call, error: GridError) -> None:
        """Answer now; what runs is told to stop, and its instance is killed unless it does within cancel_grace."""
        if entry.settled:
            return
        seat = entry.seat
        started = seat is not None and seat.has_started(entry)
        if entry in self._crashed:
            started = True
            del self._crashed[entry]
        elif seat is None:
            self._queue.remove(entry)
        elif entry.cancel:
            entry.cancel()
            self._loop.call_later(self._cancel_grace, self._kill_if_running, entry)
        entry.settle(Outcome(error=error, started=started))
        self._pump()

    def _kill_if_running(self, entry: Call) -> None:
        """A call given up that is still inside: kill its instance if it runs, else look again when it may."""
        seat = entry.seat
        if seat is None or self._closed:
            return
        if seat.has_started(entry):
            log.warning("killing an instance that does not stop", task=entry.call.task, instance=seat.instance.id)
            self._kill(seat)
        else:
            self._loop.call_later(self._cancel_grace, self._kill_if_running, entry)
