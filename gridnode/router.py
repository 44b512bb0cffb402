"""Routes each call to one node, one hop: places it, moves it on when it was refused, and keeps its deadline."""

import asyncio
import difflib
import random
import time
from collections.abc import Callable, Iterable

from gridnode.errors import CallTimeout, GridError, NodeNotFound, NoNode, NotReady, TaskNotFound
from gridnode.link import Cancel, Invoker, nothing_to_cancel
from gridnode.model import Done, Invocation, NodeId, NodeRecord, Outcome, TaskName
from gridnode.placement import Candidate, rank

_GRACE = 0.25
_MAX_ATTEMPTS = 8


class Target:
    """A node that can be called now: this one, or a linked peer that is alive."""

    __slots__ = ("draining", "invoker", "load", "name", "node", "tasks")

    def __init__(self, record: NodeRecord, invoker: Invoker) -> None:
        self.node = record.id
        self.name = record.name
        self.load = record.load
        self.tasks = record.tasks
        self.draining = record.draining
        self.invoker = invoker


class Router:
    """targets: the nodes that can be called now; asked again only after `refresh`."""

    def __init__(self, targets: Callable[[], Iterable[Target]]) -> None:
        self._targets_now = targets
        self._targets: dict[NodeId, Target] = {}
        self._by_task: dict[TaskName, list[Target]] = {}
        self._in_flight: dict[NodeId, int] = {}
        self._turns: dict[TaskName, int] = {}
        self._idle = asyncio.Event()
        self._idle.set()
        self._stale = True
        self._loop = asyncio.get_running_loop()

    def refresh(self) -> None:
        """Membership, loads or releases have changed."""
        self._stale = True

    async def drained(self) -> None:
        """Wait until no call is under way."""
        await self._idle.wait()

    @property
    def tasks(self) -> list[TaskName]:
        self._update()
        return sorted(self._by_task)

    def route(self, call: Invocation, done: Done, node: str = "") -> Cancel:
        """Run the call somewhere, or on `node` (id, its unique prefix, or name); one Outcome, unless cancelled."""
        self._update()
        journey = _Journey(self, call, done)
        try:
            journey.order = [self._find(node)] if node else self._order(call.task)
        except GridError as exc:
            done(Outcome(error=exc, started=False, attempts=0))
            return nothing_to_cancel
        journey.timer = self._loop.call_at(call.deadline + _GRACE, journey.timed_out)
        journey.go_on()
        return journey.cancel

    def _update(self) -> None:
        if self._stale:
            self._stale = False
            self._targets = {target.node: target for target in self._targets_now()}
            self._by_task = {}
            for target in sorted(self._targets.values(), key=lambda target: target.node):
                for task in target.tasks:
                    self._by_task.setdefault(task, []).append(target)
            self._turns = {task: turn for task, turn in self._turns.items() if task in self._by_task}

    def _order(self, task: TaskName) -> list[NodeId]:
        serving = self._by_task.get(task)
        if not serving:
            raise self._no_such_task(task)
        targets = [target for target in serving if not target.draining]
        if not targets:
            raise NotReady(f"every node that serves {task} is going down")
        turn = self._turns.get(task, 0)
        self._turns[task] = turn + 1
        return rank([self._candidate(target) for target in targets], turn, random.getrandbits(16))

    def _candidate(self, target: Target) -> Candidate:
        load = target.load
        in_flight = max(self._in_flight.get(target.node, 0), load.in_flight)
        return Candidate(target.node, in_flight, max(1, load.capacity))

    def _no_such_task(self, task: TaskName) -> GridError:
        if not self._by_task:
            return NoNode(
                "no node of the grid serves any task yet",
                hint="`gridctl deploy` puts a project there; `gridctl ls` shows the nodes",
            )
        near = difflib.get_close_matches(task, self._by_task, n=3, cutoff=0.5)
        meant = (
            f"; did you mean {', '.join(near)}?" if near else f"; there are: {', '.join(sorted(self._by_task)[:10])}"
        )
        return TaskNotFound(f"no task {task!r}{meant}")

    def _find(self, wanted: str) -> NodeId:
        found = [target.node for target in self._targets.values() if wanted in (target.name, target.node)]
        found = found or [node for node in self._targets if node.startswith(wanted)]
        if len(found) == 1:
            return found[0]
        names = ", ".join(sorted(target.name for target in self._targets.values()))
        problem = "is more than one node" if found else "is no node that can be called now"
        raise NodeNotFound(f"{wanted!r} {problem}; there are: {names}")

    def now(self) -> float:
        return self._loop.time()

    def count(self, node: NodeId, change: int) -> None:
        left = self._in_flight.get(node, 0) + change
        if left > 0:
            self._in_flight[node] = left
            self._idle.clear()
        else:
            self._in_flight.pop(node, None)
            if not self._in_flight:
                self._idle.set()

    def name(self, node: NodeId | None) -> str:
        target = self._targets.get(node) if node else None
        return target.name if target else ""

    def invoker(self, node: NodeId) -> Invoker | None:
        target = self._targets.get(node)
        return target.invoker if target else None


class _Journey:
    """One call on its way: tries nodes in order while it is sure that it has not started anywhere."""

    __slots__ = (
        "_attempts",
        "_cancel",
        "_done",
        "_last",
        "_node",
        "_router",
        "_settled",
        "_started_at",
        "call",
        "order",
        "timer",
    )

    def __init__(self, router: Router, call: Invocation, done: Done) -> None:
        self.call = call
        self.order: list[NodeId] = []
        self.timer: asyncio.TimerHandle | None = None
        self._router = router
        self._done = done
        self._node: NodeId | None = None
        self._last: NodeId | None = None
        self._cancel: Cancel | None = None
        self._attempts = 0
        self._settled = False
        self._started_at = time.perf_counter()  # the loop's clock counts whole milliseconds

    def go_on(self, last: Outcome | None = None) -> None:
        """Try the next node; with none left, settle with the last refusal."""
        while self.order and self._attempts < _MAX_ATTEMPTS:
            node = self.order.pop(0)
            invoker = self._router.invoker(node)
            if invoker:
                self._attempts += 1
                self._node = self._last = node
                self._router.count(node, 1)
                cancel = invoker.invoke(self.call, self._answered)
                if self._node == node:
                    self._cancel = cancel
                return
        self._settle(last or Outcome(error=NoNode("the node is gone"), started=False))

    def _answered(self, outcome: Outcome) -> None:
        if self._settled:
            return
        self._leave_node()
        if outcome.error and outcome.error.retryable and not outcome.started and self.order:
            self.go_on(outcome)
        else:
            self._settle(outcome)

    def timed_out(self) -> None:
        if not self._settled:
            self._stop()
            error = CallTimeout(f"{self.call.task}: no result before the deadline")
            self._done(self._complete(Outcome(error=error)))

    def cancel(self) -> None:
        """Nobody waits any more; no Outcome follows."""
        if not self._settled:
            self._stop()

    def _stop(self) -> None:
        self._settled = True
        if self.timer:
            self.timer.cancel()
        self._leave_node()
        if self._cancel:
            self._cancel()

    def _leave_node(self) -> None:
        if self._node:
            self._router.count(self._node, -1)
            self._node = None

    def _settle(self, outcome: Outcome) -> None:
        self._settled = True
        if self.timer:
            self.timer.cancel()
        self._done(self._complete(outcome))

    def _complete(self, outcome: Outcome) -> Outcome:
        """The outcome as its caller sees it: with the node that had the call last, all attempts and the time."""
        name = self._router.name(self._last)
        duration = time.perf_counter() - self._started_at
        return Outcome(
            outcome.body,
            outcome.error,
            self._last,
            name,
            outcome.instance,
            outcome.started,
            self._attempts,
            duration,
        )
