"""Routes each call to one node, one hop: places it, moves it on where that does no harm, and keeps its deadline."""

import asyncio
import difflib
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from gridnode.errors import GridError, NoCapacity, NodeNotFound, NoNode, NotReady, TaskNotFound
from gridnode.journey import Journey, Target
from gridnode.link import Cancel, nothing_to_cancel
from gridnode.model import Done, Invocation, NodeId, Outcome, TaskName
from gridnode.placement import Candidate, Gauge, meet, rank
from gridnode.room import Room

__all__ = ["Router", "RouterLimits", "Target"]

_GRACE = 0.25
"""Seconds past its deadline that a call's node has to say itself where the call was."""
_LOOK_ROUND = 16
"""Of so many calls of a caller that spreads them itself one is placed as any other: how long do they take elsewhere?"""


@dataclass(frozen=True, slots=True)
class RouterLimits:
    """Calls under way that came in through this node, and bytes of their bodies. attempts: nodes that one call tries.

    runs: how often one call of an idempotent task may start.
    """

    max_calls: int = 8192
    max_size: int = 256 * 1024 * 1024
    attempts: int = 8
    runs: int = 3


class Router:
    """targets: the nodes that can be called now; asked again only after `refresh`.

    is_idempotent: whether a call of the task may run twice, by the release of that sequence. own: this node.
    """

    def __init__(
        self,
        targets: Callable[[], Iterable[Target]],
        limits: RouterLimits = RouterLimits(),
        is_idempotent: Callable[[TaskName, int], bool] = lambda task, sequence: False,
        own: NodeId | None = None,
    ) -> None:
        self._own = own
        self.limits = limits
        self.is_idempotent = is_idempotent
        self._targets_now = targets
        self._targets: dict[NodeId, Target] = {}
        self._by_task: dict[TaskName, list[Target]] = {}
        self._gauges: dict[NodeId, Gauge] = {}
        self._known: dict[TaskName, dict[NodeId, Candidate]] = {}
        self._open: dict[TaskName, list[Candidate]] = {}
        self._turns: dict[TaskName, int] = {}
        self._room = Room(limits.max_calls, limits.max_size)
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

    def check(self, task: TaskName) -> None:
        """Raises TaskNotFound, or NoNode, for a task that no node serves."""
        self._update()
        if task not in self._by_task:
            raise self._no_such_task(task)

    @property
    def tasks(self) -> list[TaskName]:
        self._update()
        return sorted(self._by_task)

    def route(self, call: Invocation, done: Done, node: str = "", spread: int = 0) -> Cancel:
        """Run the call somewhere, or on `node` (id, its unique prefix, or name); one Outcome, unless cancelled.

        spread: over how many nodes the caller spreads its calls itself.
        """
        self._update()
        try:
            order = self._order(call, node, spread)
            if not self._room.take(len(call.body)):
                raise NoCapacity(f"{call.task}: {self._room}", hint="wait a moment, or ask another node")
        except GridError as exc:
            done(Outcome(error=exc, started=False, attempts=0))
            return nothing_to_cancel
        self._idle.clear()
        journey = Journey(self, call, done, order)
        journey.timer = self._loop.call_at(call.deadline + _GRACE, journey.timed_out)
        journey.go_on()
        return journey.cancel

    # -- what journeys ask ------------------------------------------------------------------------------------------

    def now(self) -> float:
        return self._loop.time()

    def target(self, node: NodeId) -> Target | None:
        """The node, if it can still be called."""
        self._update()
        return self._targets.get(node)

    def over(self, call: Invocation) -> None:
        """A journey has ended."""
        self._room.give(len(call.body))
        if not self._room.calls:
            self._idle.set()

    # -- inside -----------------------------------------------------------------------------------------------------

    def _update(self) -> None:
        if not self._stale:
            return
        self._stale = False
        now = self._loop.time()
        self._targets = {target.node: target for target in self._targets_now()}
        self._by_task = {}
        for target in sorted(self._targets.values(), key=lambda target: target.node):
            gauge = self._gauges.get(target.node)
            if gauge is None:
                self._gauges[target.node] = Gauge(target.node, target.load, now)
            else:
                gauge.report(target.load, now)
            for task in target.tasks:
                self._by_task.setdefault(task, []).append(target)
        self._forget()

    def _forget(self) -> None:
        """Nothing is kept of nodes and tasks that are gone."""
        self._open = {}
        self._gauges = {node: one for node, one in self._gauges.items() if node in self._targets or one.mine}
        self._turns = {task: turn for task, turn in self._turns.items() if task in self._by_task}
        self._known = {task: known for task, known in self._known.items() if task in self._by_task}

    def _order(self, call: Invocation, node: str, spread: int) -> list[Candidate]:
        """Where to try the call, in this order."""
        if node:
            return [Candidate(self._gauges[self._find(node)])]
        candidates = self._open.get(call.task) or self._gather(call.task)
        if call.key:
            by_node = {candidate.node: candidate for candidate in candidates}
            return [by_node[node] for node in meet(by_node, call.key)]
        turn = self._turns.get(call.task, 0)
        self._turns[call.task] = turn + 1
        near = self._own_place(candidates) if spread >= len(candidates) and turn % _LOOK_ROUND else None
        return rank(candidates, turn, random.getrandbits(16), self._loop.time(), near)

    def _own_place(self, candidates: list[Candidate]) -> int | None:
        return next((at for at, candidate in enumerate(candidates) if candidate.node == self._own), None)

    def _gather(self, task: TaskName) -> list[Candidate]:
        """The nodes that serve the task and take calls; worked out once after each change."""
        serving = self._by_task.get(task)
        if not serving:
            raise self._no_such_task(task)
        nodes = [target.node for target in serving if not target.draining]
        if not nodes:
            raise NotReady(
                f"every node that serves {task} is draining", hint="`gridctl ls` shows which; `gridctl undrain NODE`"
            )
        before = self._known.get(task, {})
        self._known[task] = {node: self._candidate(before.get(node), self._gauges[node]) for node in nodes}
        found = self._open[task] = list(self._known[task].values())
        return found

    @staticmethod
    def _candidate(before: Candidate | None, gauge: Gauge) -> Candidate:
        """The same as before, with what is known of it, unless the node was away meanwhile."""
        return before if before and before.gauge is gauge else Candidate(gauge)

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
