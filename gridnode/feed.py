"""Hands events to the tasks that ask for them: an invocation for each, a bounded number at a time."""

import asyncio
import secrets
from collections.abc import Callable, Mapping

import msgspec
import structlog

from gridnode.link import Cancel
from gridnode.messages import CallMeta
from gridnode.model import Deliver, Done, Invocation, InvocationId, Outcome, TaskName, TaskSpec
from gridnode.topics import Backlog, Batch, Event, as_json

__all__ = ["Feed", "belongs_to"]

log = structlog.get_logger()

MAX_RUNNING = 32
"""Events of one task that are in it, or wait for an instance, at once."""

Run = Callable[[Invocation, Done], Cancel]
"""Runs a call: anywhere in the grid, or here."""


def belongs_to(spec: TaskSpec, labels: Mapping[str, str]) -> bool:
    """Whether this node hands events on to the task: one for each node only where the node serves it."""
    return spec.deliver is Deliver.ONE or spec.on.items() <= labels.items()


class Feed:
    """One task's events. At most once: what the task does not take, or fails at, is counted and said, no more."""

    def __init__(self, spec: TaskSpec, run: Run, max_events: int = 1024) -> None:
        self.failed = 0
        self.backlog = Backlog(max_events)
        self.spec = spec
        self._run = run
        self._loop = asyncio.get_running_loop()
        self._running = 0

    def push(self, event: Event) -> None:
        self.backlog.push(event)
        self._pump()

    def missed(self, topic: str, count: int) -> None:
        """Events that were lost on their way here: told with the next."""
        self.backlog.missed(topic, count)

    def _pump(self) -> None:
        while self._running < MAX_RUNNING and self.backlog:
            batch = self.backlog.take(1, 0)
            self._running += 1
            self._run(self._invocation(batch), self._ended)

    def _invocation(self, batch: Batch) -> Invocation:
        event = batch.events[0]
        meta = CallMeta(secrets.token_hex(16), depth=event.depth, topic=event.topic)
        body = as_json(event, sum(batch.dropped.values()))
        deadline = self._loop.time() + self.spec.timeout
        return Invocation(InvocationId(meta.id), TaskName(self.spec.name), body, deadline, msgspec.json.encode(meta))

    def _ended(self, outcome: Outcome) -> None:
        self._running -= 1
        if outcome.error:
            self.failed += 1
            level = log.warning if self.failed & (self.failed - 1) == 0 else log.debug  # the 1st, 2nd, 4th, 8th ...
            level("a task failed at an event", task=self.spec.name, failed=self.failed, error=outcome.error.message)
        if self.backlog:
            self._loop.call_soon(self._pump)
