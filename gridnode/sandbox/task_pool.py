"""One task file's warm instance and the calls in and before it; the instance is restarted whenever it ends."""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from gridnode.errors import CallTimeout, GridError, NoCapacity, NotReady, TaskNotFound
from gridnode.link import Cancel
from gridnode.model import Done, Invocation, Outcome, TaskName
from gridnode.sandbox.instance import Handler, Instance

log = structlog.get_logger()

_STABLE = 10.0
_ASK_AGAIN = 1.0


@dataclass(frozen=True, slots=True)
class PoolLimits:
    """Seconds; max_queued: calls waiting per task file; starts_at_once: sandboxes started side by side."""

    max_queued: int = 256
    cancel_grace: float = 1.0
    stop_grace: float = 2.0
    drain_timeout: float = 30.0
    restart_first: float = 0.1
    restart_last: float = 15.0
    start_timeout: float = 60.0
    starts_at_once: int = 4


class _Call:
    """A call that waits for, or is inside, the instance; settles exactly once."""

    __slots__ = ("call", "cancel", "done", "running", "settled", "timer")

    def __init__(self, call: Invocation, done: Done) -> None:
        self.call = call
        self.done = done
        self.running = False
        self.settled = False
        self.cancel: Cancel | None = None
        self.timer: asyncio.TimerHandle | None = None

    def settle(self, outcome: Outcome) -> None:
        if not self.settled:
            self.settled = True
            if self.timer:
                self.timer.cancel()
            self.done(outcome)


class TaskPool:
    """The instance of one task file. make: a fresh Instance that reports to `on_ready`."""

    def __init__(self, make: Callable[[Callable[[Instance], None]], Instance], limits: PoolLimits) -> None:
        self._make = make
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self.handlers: dict[TaskName, Handler] = {}
        self._instance: Instance | None = None
        self._queue: deque[_Call] = deque()
        self._running = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._supervisor: asyncio.Task[None] | None = None
        self._killers: set[asyncio.Task[None]] = set()

    @property
    def in_flight(self) -> int:
        return self._running + len(self._queue)

    async def start(self) -> None:
        """Start the instance and wait until it is ready; raises InstanceFailed or EngineUnavailable."""
        self._instance = await self._start_one()
        self.handlers = self._instance.handlers
        self._supervisor = asyncio.create_task(self._supervise(), name="supervise")

    async def drained(self) -> None:
        """Wait until the calls inside have finished, for at most drain_timeout."""
        try:
            async with asyncio.timeout(self._limits.drain_timeout):
                await self._idle.wait()
        except TimeoutError:
            log.warning("instance still busy at the end of its drain", calls=self.in_flight)

    async def stop(self) -> None:
        """Stop the instance: calls inside end as crashed, those that wait as never started."""
        if self._supervisor:
            self._supervisor.cancel()
            await asyncio.wait({self._supervisor})
        for entry in list(self._queue):
            self._give_up(entry, NotReady("the instance is being stopped"))
        if self._killers:
            await asyncio.wait(self._killers)
        if self._instance:
            await self._instance.stop(self._limits.stop_grace)

    # -- calls ------------------------------------------------------------------------------------------------------

    def invoke(self, call: Invocation, done: Done) -> Cancel:
        """Run or queue the call; NoCapacity at once when the queue is full, CallTimeout at its deadline."""
        entry = _Call(call, done)
        if not self._queue and self._admits(call.task):
            entry.timer = self._loop.call_at(call.deadline, self._timed_out, entry)
            self._run(entry)
        elif len(self._queue) >= self._limits.max_queued:
            error = NoCapacity(f"{call.task}: {len(self._queue)} calls are waiting")
            entry.settle(Outcome(error=error, started=False))
        else:
            entry.timer = self._loop.call_at(call.deadline, self._timed_out, entry)
            self._queue.append(entry)
            self._idle.clear()
        return lambda: self._give_up(entry, NotReady("cancelled by the caller"))

    def _admits(self, task: TaskName) -> bool:
        instance = self._instance
        if instance is None or not instance.is_ready:
            return False
        handler = instance.handlers.get(task)
        return handler is None or self._running < handler.concurrency

    def _run(self, entry: _Call) -> None:
        instance = self._instance
        if instance is None or entry.call.task not in instance.handlers:
            entry.settle(Outcome(error=TaskNotFound(f"no task {entry.call.task!r}"), started=False))
            return
        entry.running = True
        self._running += 1
        self._idle.clear()
        entry.cancel = instance.invoke(entry.call, lambda outcome: self._finished(entry, outcome))

    def _finished(self, entry: _Call, outcome: Outcome) -> None:
        entry.running = False
        self._running -= 1
        entry.settle(outcome)
        self._pump()

    def _pump(self) -> None:
        while self._queue and self._admits(self._queue[0].call.task):
            self._run(self._queue.popleft())
        if not self.in_flight:
            self._idle.set()

    def _timed_out(self, entry: _Call) -> None:
        where = "in the task" if entry.running else "in the queue"
        self._give_up(entry, CallTimeout(f"{entry.call.task}: no result before the deadline (it was {where})"))

    def _give_up(self, entry: _Call, error: GridError) -> None:
        """Answer now; what runs is told to stop, and its instance is killed unless it does within cancel_grace."""
        if entry.settled:
            return
        if entry.running:
            if entry.cancel:
                entry.cancel()
            self._loop.call_later(self._limits.cancel_grace, self._kill_if_running, entry, self._instance)
        else:
            self._queue.remove(entry)
        entry.settle(Outcome(error=error, started=entry.running))
        self._pump()

    def _kill_if_running(self, entry: _Call, instance: Instance | None) -> None:
        if entry.running and instance and instance is self._instance:
            log.warning("killing an instance that does not stop", task=entry.call.task, instance=instance.id)
            killer = asyncio.create_task(self._kill(instance))
            self._killers.add(killer)
            killer.add_done_callback(self._killers.discard)

    # -- life -------------------------------------------------------------------------------------------------------

    async def _start_one(self) -> Instance:
        instance = self._make(self._ready)
        try:
            await instance.start(self._limits.start_timeout)
        except BaseException:
            await asyncio.shield(self._kill(instance))
            raise
        return instance

    def _ready(self, instance: Instance) -> None:
        if instance is self._instance:
            self._pump()

    async def _kill(self, instance: Instance) -> None:
        try:
            await instance.stop(0)
        except GridError as exc:
            log.warning("could not stop an instance", instance=instance.id, error=exc.message)

    async def _supervise(self) -> None:
        """Start another instance whenever one ended, ever more slowly while they do not last."""
        delay = self._limits.restart_first
        while True:
            if self._instance:
                started = self._loop.time()
                await self._until_ended(self._instance)
                self._instance = None
                if self._loop.time() - started > _STABLE:
                    delay = self._limits.restart_first
            await asyncio.sleep(delay)
            delay = min(delay * 2, self._limits.restart_last)
            try:
                self._instance = await self._start_one()
                self._pump()
            except GridError as exc:
                log.warning("instance did not start", error=exc.message)

    async def _until_ended(self, instance: Instance) -> None:
        """Wait for it to end and remove it; while its link stands, an engine that does not answer means nothing."""
        while True:
            try:
                reason = await instance.ended()
                break
            except GridError as exc:
                reason = exc.message
            if not instance.is_ready:
                break
            await asyncio.sleep(_ASK_AGAIN)
        log.warning("instance ended", file=instance.spec.file, instance=instance.id, reason=reason)
        await self._kill(instance)
