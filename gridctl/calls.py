"""The calls of one client that are under way: sent over its links, moved on when refused, given up when late."""

import asyncio
import secrets
import time
from collections.abc import Callable

import msgspec

from gridctl.links import Lane, Links
from gridctl.outcomes import lost, outcome_of
from gridnode import messages, wire
from gridnode.errors import BodyInvalid, CallTimeout, GridError, LinkClosed, TaskNotFound, UsageError
from gridnode.messages import CallMeta
from gridnode.model import Outcome
from gridnode.wire import Frame, Op

__all__ = ["Call", "Calls", "Done"]

ANSWER_GRACE = 2.0
"""Seconds past its deadline in which a node may still say so itself."""
LONGEST = 3600.0
"""Seconds a node lets a call take at most."""
PATIENCE = 3.0
"""Seconds a call waits for a link to come back."""
SPREAD_FROM = 8
"""Calls under way at once that are worth more links than one."""
_TICK = 0.5
_SILENT = 3.0
_VANISHED = 10.0
_encode_meta = msgspec.json.Encoder().encode
_now = time.perf_counter

Done = Callable[[Outcome], None]
"""Called once with a call's Outcome, from the event loop; must not raise."""


class Calls:
    """All calls of a client. Their callbacks run on the event loop, once each, and must not raise."""

    def __init__(self, links: Links) -> None:
        self._links = links
        self._links.on_open = self._retry_waiting
        self._loop = asyncio.get_running_loop()
        self._prefix = secrets.token_hex(10)
        self._number = 0
        self._timer: asyncio.TimerHandle | None = None
        self._ticked = 0.0
        self.under_way: set[Call] = set()
        self.waiting: dict[Call, None] = {}

    def start(
        self,
        task: str,
        body: bytes,
        done: Done,
        *,
        timeout: float | None = None,
        node: str = "",
        key: str = "",
    ) -> "Call":
        """Send it now; `done` gets its Outcome later, never at once. UsageError, TaskNotFound: it cannot be sent."""
        if timeout is not None and not 0 < timeout < 0xFFFFFFFF / 1000:
            raise UsageError(f"a timeout of {timeout:g} s makes no sense", hint="more than 0 seconds")
        if len(task) > wire.MAX_NAME // 4 and len(task.encode()) > wire.MAX_NAME:
            raise TaskNotFound(f"no task is named {task[:32]!r}...: names have at most {wire.MAX_NAME} bytes")
        call = Call(self, task, body, done, self._meta(node, key), timeout)
        self.under_way.add(call)
        if self._timer is None:
            self._ticked = _now()
            self._timer = self._loop.call_later(_TICK, self._tick)
        elif len(self.under_way) == SPREAD_FROM:
            self._links.spread()
        call.go()
        return call

    def lane(self, call: "Call") -> Lane | None:
        """Where to send it next."""
        return self._links.best(call.tried)

    def wait(self, call: "Call") -> None:
        """Until a link is there; what waits too long ends in a tick."""
        if self._links.hopeless:
            self._loop.call_soon(call.end, Outcome(error=self._links.error, started=False, attempts=0))
        else:
            self.waiting[call] = None

    def over(self, call: "Call") -> None:
        self.under_way.discard(call)
        if self.waiting:
            self.waiting.pop(call, None)

    def later(self, call: "Call", outcome: Outcome) -> None:
        """End it in the next turn of the loop."""
        self._loop.call_soon(call.end, outcome)

    def close(self) -> None:
        """No call is answered any more."""
        for call in list(self.waiting):
            call.end(Outcome(error=LinkClosed("this connection was closed"), started=False, attempts=0))
        if self._timer:
            self._timer.cancel()
            self._timer = None

    # -- inside -----------------------------------------------------------------------------------------------------

    def _meta(self, node: str, key: str) -> bytes:
        self._number += 1
        name = f"{self._prefix}{self._number:012x}"
        spread = len(self._links.lanes)
        if not node and not key:
            return f'{{"id":"{name}","spread":{spread}}}'.encode()
        return _encode_meta(CallMeta(name, 1, node, key=_checked(key), spread=spread))

    def _retry_waiting(self) -> None:
        waiting, self.waiting = self.waiting, {}
        for call in waiting:
            call.go()

    def _tick(self) -> None:
        now = _now()
        paused = now - self._ticked > 4 * _TICK
        self._ticked = now
        for call in list(self.under_way):
            if now >= call.give_up:
                call.late()
            elif call in self.waiting and now >= call.started + PATIENCE:
                call.end(Outcome(error=self._links.error, started=False, attempts=0))
        if not paused:  # else nobody is silent: what came meanwhile is still to be read
            self._listen()
        self._timer = self._loop.call_later(_TICK, self._tick) if self.under_way else None

    def _listen(self) -> None:
        """A node that is frozen closes nothing: ask whether it is there, and give it up."""
        for lane in list(self._links.lanes):
            silent = self._loop.time() - lane.link.last_heard
            if lane.calls and silent > _VANISHED:
                lane.link.abort(LinkClosed(f"silent for {_VANISHED:g} s"))
            elif lane.calls and silent > _SILENT:
                lane.link.ping()


class Call:
    """One call. give_up: when no answer is expected any more; tried: links whose node refused it."""

    __slots__ = (
        "_body",
        "_call_id",
        "_calls",
        "_done",
        "_lane",
        "_meta",
        "_task",
        "give_up",
        "started",
        "timeout",
        "tried",
    )

    def __init__(self, calls: Calls, task: str, body: bytes, done: Done, meta: bytes, timeout: float | None) -> None:
        self._calls = calls
        self._task = task
        self._body = body
        self._meta = meta
        self._done: Done | None = done
        self._lane: Lane | None = None
        self._call_id = 0
        self.timeout = timeout
        self.started = _now()
        self.give_up = self.started + (timeout or LONGEST) + ANSWER_GRACE
        self.tried: tuple[Lane, ...] = ()

    def go(self) -> None:
        """Send it over the best link; what was never sent tries the next one, and waits while there is none."""
        lane = self._calls.lane(self)
        if lane is None:
            self._calls.wait(self)
            return
        try:
            self._call_id = lane.link.call(
                Op.INVOKE, self._task, self._body, self._replied, meta=self._meta, deadline_ms=self._left()
            )
        except GridError as exc:
            self._refused(lane, Outcome(error=exc, started=False, attempts=len(self.tried) + 1))
            return
        lane.calls += 1
        self._lane = lane

    def end(self, outcome: Outcome) -> None:
        """It is over; only the first end counts."""
        done, self._done = self._done, None
        if done:
            self._calls.over(self)
            done(outcome)

    def late(self) -> None:
        """No answer came, not even that it is late."""
        error = CallTimeout(f"{self._task}: no answer from the node within {self.timeout or LONGEST:g} s")
        self._leave()
        self.end(Outcome(error=error, duration=_now() - self.started))

    def cancel(self) -> None:
        """Give it up: the node is told, its Done is not called any more; after its end, nothing."""
        if self._done:
            self._done = None
            self._calls.over(self)
            self._leave()

    # -- inside -----------------------------------------------------------------------------------------------------

    def _left(self) -> int:
        if self.timeout is None:
            return 0
        return max(1, int((self.timeout - (_now() - self.started)) * 1000))

    def _leave(self) -> None:
        lane, self._lane = self._lane, None
        if lane:
            lane.calls -= 1
            lane.link.cancel(self._call_id)

    def _replied(self, reply: Frame | GridError) -> None:
        lane, self._lane = self._lane, None
        if lane is None:
            return
        lane.calls -= 1
        tried = len(self.tried)
        duration = _now() - self.started
        if isinstance(reply, GridError):
            self.end(lost(reply, tried, duration))
            return
        outcome = outcome_of(reply, tried, duration)
        if outcome.started:
            self.end(outcome)
        else:
            self._refused(lane, outcome)

    def _refused(self, lane: Lane, outcome: Outcome) -> None:
        """It ran nowhere: another link, while there is one and time."""
        self.tried = (*self.tried, lane)
        error = outcome.error
        if error and error.retryable and self._calls.lane(self) and _now() < self.give_up - ANSWER_GRACE:
            self.go()
        elif isinstance(error, LinkClosed):
            self.tried = ()
            self._calls.wait(self)
        else:
            self._calls.later(self, outcome)


def _checked(key: str) -> str:
    try:
        return messages.check_key(key) if key else ""
    except BodyInvalid as exc:
        raise UsageError(exc.message) from exc
