"""One call on its way through the grid: the nodes it tries, and when it may try another."""

import asyncio
import time
from typing import TYPE_CHECKING, Protocol

import msgspec

from gridnode import messages
from gridnode.errors import BodyInvalid, CallTimeout, GridError, NoCapacity, NodeLost, NoNode, TaskCrashed
from gridnode.link import Cancel, Invoker
from gridnode.model import Done, Invocation, NodeId, NodeRecord, Outcome, ReleaseState, TaskName
from gridnode.placement import Candidate

if TYPE_CHECKING:
    from gridnode.router import RouterLimits

_NONE = -1


class Target:
    """A node that can be called now: this one, or a linked peer that is alive. sequence: of the release it serves.

    While it changes from one release to another nobody can tell which one serves a call: then it is none.
    """

    __slots__ = ("draining", "invoker", "load", "name", "node", "sequence", "tasks")

    def __init__(self, record: NodeRecord, invoker: Invoker) -> None:
        release = record.release
        self.node = record.id
        self.name = record.name
        self.load = record.load
        self.tasks = record.tasks
        self.draining = record.draining
        self.sequence = release.sequence if release and release.state is ReleaseState.ACTIVE else _NONE
        self.invoker = invoker


class Ways(Protocol):
    """What a journey needs of the router."""

    limits: "RouterLimits"

    def now(self) -> float: ...
    def target(self, node: NodeId) -> Target | None: ...
    def over(self, call: Invocation) -> None: ...
    def is_idempotent(self, task: TaskName, sequence: int, /) -> bool: ...


class Journey:
    """Tries nodes in order while the call has started nowhere, or may run twice; at last one Outcome, or a cancel."""

    __slots__ = (
        "_attempts",
        "_began",
        "_call",
        "_cancel",
        "_candidate",
        "_done",
        "_order",
        "_runs",
        "_sent",
        "_settled",
        "_target",
        "_ways",
        "timer",
    )

    def __init__(self, ways: Ways, call: Invocation, done: Done, order: list[Candidate]) -> None:
        self.timer: asyncio.TimerHandle | None = None
        self._ways = ways
        self._call = call
        self._done = done
        self._order = order
        self._candidate: Candidate | None = None
        self._target: Target | None = None
        self._cancel: Cancel | None = None
        self._attempts = 0
        self._runs = 0
        self._settled = False
        self._began = self._sent = time.perf_counter()  # the loop's clock counts whole milliseconds

    def go_on(self, last: Outcome | None = None) -> None:
        """Try the next node; with none left, settle with the last outcome."""
        while self._order:
            candidate = self._order.pop(0)
            target = self._ways.target(candidate.node)
            if target is None:
                continue
            self._attempts += 1
            if self._attempts > 1:
                self._call = _again(self._call, self._attempts)
                self._sent = time.perf_counter()
            self._candidate, self._target = candidate, target
            candidate.gauge.mine += 1
            cancel = target.invoker.invoke(self._call, self._answered)
            if self._candidate is candidate:
                self._cancel = cancel
            return
        self._settle(last or Outcome(error=NoNode("the node is gone"), started=False))

    def _answered(self, outcome: Outcome) -> None:
        if self._settled:
            return
        candidate, self._candidate = self._candidate, None
        if candidate:
            candidate.gauge.mine -= 1
            lost = isinstance(outcome.error, NodeLost | TaskCrashed)
            if outcome.started and not lost and not self._call.stream:  # whose time is that of its reader
                candidate.measured(time.perf_counter() - self._sent, self._ways.now())
        if outcome.error and self._order and self._may_move(outcome.error, outcome.started):
            self.go_on(outcome)
        else:
            self._settle(outcome)

    def _may_move(self, error: GridError, started: bool) -> bool:
        """Whether another node may be asked now."""
        limits, stream = self._ways.limits, self._call.stream
        if self._attempts >= limits.attempts or (stream and stream.started):
            return False
        if not started:  # elsewhere a call with a key would miss what became of the first one
            return error.retryable and not (self._call.key and isinstance(error, NoCapacity))
        self._runs += 1
        return (
            isinstance(error, NodeLost | TaskCrashed)
            and self._runs < limits.runs
            and self._target is not None
            and self._ways.is_idempotent(self._call.task, self._target.sequence)
            and self._ways.now() < self._call.deadline
        )

    def timed_out(self) -> None:
        if not self._settled:
            self._stop()
            error = CallTimeout(f"{self._call.task}: no result before the deadline")
            self._done(self._complete(Outcome(error=error)))

    def cancel(self) -> None:
        """Nobody waits any more; no Outcome follows."""
        if not self._settled:
            self._stop()

    def _stop(self) -> None:
        """Give the call up where it is. That it took this long tells of the node at least if others are quicker."""
        self._end()
        candidate, self._candidate = self._candidate, None
        if candidate:
            candidate.gauge.mine -= 1
            waited = time.perf_counter() - self._sent
            if waited > (candidate.took or 0.0) and not self._call.stream:
                candidate.measured(waited, self._ways.now())
        if self._cancel:
            self._cancel()

    def _settle(self, outcome: Outcome) -> None:
        self._end()
        self._done(self._complete(outcome))

    def _end(self) -> None:
        self._settled = True
        if self.timer:
            self.timer.cancel()
        self._ways.over(self._call)

    def _complete(self, outcome: Outcome) -> Outcome:
        """The outcome as its caller sees it: with the node that had the call last, all attempts and the time."""
        target = self._target
        return Outcome(
            outcome.body,
            outcome.error,
            target.node if target else None,
            target.name if target else "",
            outcome.instance,
            outcome.started,
            self._attempts,
            time.perf_counter() - self._began,
        )


def _again(call: Invocation, attempt: int) -> Invocation:
    """The call as its next attempt tells the task."""
    try:
        meta = messages.decode_call_meta(call.meta)
    except BodyInvalid:
        return call
    meta.attempt = attempt
    return msgspec.structs.replace(call, meta=msgspec.json.encode(meta))
