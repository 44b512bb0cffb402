"""One task file's instances on this node: started, watched, restarted, retired as their roster says."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from gridnode.errors import EngineUnavailable, GridError, NotReady
from gridnode.link import Cancel, nothing_to_cancel
from gridnode.model import Done, InstanceId, Invocation, Outcome, Process, Root, TaskName, TaskSpec
from gridnode.sandbox.calls import Calls
from gridnode.sandbox.health import Health, HealthPolicy
from gridnode.sandbox.instance import End, Handler, Instance
from gridnode.sandbox.roster import (
    Effect,
    Ended,
    Event,
    GaveUp,
    Ready,
    Restarted,
    RestartPolicy,
    Retire,
    Roster,
    Scaled,
    Slot,
    SlotState,
    Start,
    StartFailed,
    Tick,
)
from gridnode.sandbox.seat import Seat
from gridnode.sandbox.waiting import Waiting

log = structlog.get_logger()

_ASK_AGAIN = 5.0
_ASK_ENGINE = 2.0
_MAX_WHY = 4096
_LATE = "was killed: a call in it went on past its deadline"
_BUSY = "was stopped: it was still busy at the end of its drain"

Make = Callable[[Callable[[Instance], None], InstanceId | None], Instance]
"""An instance that reports to the function given: a fresh one, or one that runs already."""


@dataclass(frozen=True, slots=True)
class PoolLimits:
    """Seconds; max_queued: calls waiting per task file; max_queued_size: bytes of their arguments.

    starts_at_once: sandboxes started side by side.
    """

    max_queued: int = 256
    max_queued_size: int = 64 * 1024 * 1024
    cancel_grace: float = 1.0
    stop_grace: float = 2.0
    drain_timeout: float = 30.0
    start_timeout: float = 60.0
    adopt_timeout: float = 3.0
    starts_at_once: int = 4
    restarts: RestartPolicy = field(default_factory=RestartPolicy)
    health: HealthPolicy = field(default_factory=HealthPolicy)


class TaskPool:
    """One task file's instances. make: one that is to run; on_change: handlers are known.

    owe: takes an instance that could not be removed.
    """

    def __init__(
        self,
        spec: TaskSpec,
        make: Make,
        limits: PoolLimits,
        wanted: int = 1,
        on_change: Callable[[], None] = lambda: None,
        owe: Callable[[InstanceId], None] = lambda _: None,
    ) -> None:
        self.spec = spec
        self.handlers: dict[TaskName, Handler] = {}
        self._make = make
        self._limits = limits
        self._wanted = wanted
        self._on_change = on_change
        self._owe = owe
        self._loop = asyncio.get_running_loop()
        self._roster = Roster(limits.restarts)
        self._calls = Calls(Waiting(limits.max_queued, limits.max_queued_size), limits.cancel_grace, self._kill)
        self._adopted: list[Instance] = []
        self._jobs: set[asyncio.Task[None]] = set()
        self._tick: asyncio.TimerHandle | None = None
        self._stopping = False

    @property
    def in_flight(self) -> int:
        return self._calls.in_flight

    @property
    def slots(self) -> list[Slot]:
        """The wanted instances and how they are."""
        return self._roster.slots

    @property
    def is_whole(self) -> bool:
        """Whether every instance wanted serves."""
        return all(slot.state is SlotState.READY for slot in self.slots)

    @property
    def roots(self) -> set[Root]:
        """Of the releases whose directories its instances read."""
        return {Root(seat.instance.spec.release) for seat in self._calls.seats.values()}

    @property
    def files(self) -> set[Path]:
        """Directories of the grid's that its instances read."""
        return {Path(path) for seat in self._calls.seats.values() for path in seat.instance.spec.files.values()}

    def go_on_with(self, make: Make) -> None:
        """Serve as part of another release: instances to come are made so."""
        self._make = make

    def processes(self) -> Iterator[Process]:
        """Every slot, then the instances that are to go."""
        now, seats = self._loop.time(), self._calls.seats
        for slot in self.slots:
            seat = seats.get(slot.instance) if slot.instance else None
            calls = len(seat.inside) if seat else 0
            state, age = slot.state.value, now - slot.since
            yield Process(
                self.spec.name, self.spec.file, state, slot.instance, age, slot.restarts, calls, slot.why[-_MAX_WHY:]
            )
        for seat in seats.values():
            if seat.retiring:
                yield Process(self.spec.name, self.spec.file, "draining", seat.instance.id, calls=len(seat.inside))

    def invoke(self, call: Invocation, done: Done) -> Cancel:
        """Run or queue the call; NoCapacity at once when the queue is full, CallTimeout at its deadline."""
        if self._wanted == 0 or all(slot.state is SlotState.ERRORED for slot in self.slots):
            done(Outcome(error=self._not_serving(call.task), started=False))
            return nothing_to_cancel
        return self._calls.invoke(call, done)

    def _not_serving(self, task: TaskName) -> NotReady:
        name = self.spec.name
        if self._wanted == 0:
            return NotReady(f"{task} is stopped", hint=f"gridctl start {name}")
        why = self.slots[0].why.strip().rpartition("\n")[2]
        return NotReady(
            f"{task} is errored on this node: {why}", hint=f"gridctl describe {name}; gridctl restart {name}"
        )

    # -- life -------------------------------------------------------------------------------------------------------

    async def adopt(self, found: Sequence[InstanceId]) -> None:
        """Take over instances that run already, at most as many as are wanted; before `start`."""
        adopted = await asyncio.gather(*(self._adopt_one(instance) for instance in found))
        self._adopted = [instance for instance in adopted if instance]

    async def start(self) -> None:
        """Start all wanted instances but those adopted; raises the first that failed."""
        starts = self._roster.handle(Scaled(self._wanted), self._loop.time())
        ready, self._adopted = self._adopted[: len(starts)], []
        jobs = [asyncio.create_task(self._start_one()) for _ in starts[len(ready) :]]
        try:
            if jobs:
                await asyncio.wait(jobs, return_when=asyncio.FIRST_EXCEPTION)
            for job in jobs:
                if job.done():
                    job.result()  # the one that failed, before those that are still starting
            ready += [job.result() for job in jobs]
        except BaseException:
            await self._undo(jobs, ready)
            raise
        for slot, instance in enumerate(ready):
            self._take_seat(slot, instance)

    async def _undo(self, jobs: list[asyncio.Task[Instance]], ready: list[Instance]) -> None:
        """Leave nothing behind of a start of which one instance failed, or which was cancelled."""
        unfinished = [job for job in jobs if not job.done()]
        for job in unfinished:
            job.cancel()
        if unfinished:
            await asyncio.wait(unfinished)
        started = [job.result() for job in jobs if not job.cancelled() and not job.exception()]
        for instance in [*ready, *started]:
            await asyncio.shield(self._remove(instance))

    def scale(self, wanted: int) -> None:
        """Have so many instances, none stops the task; those that go finish the calls inside them."""
        if wanted != self._wanted:
            self._wanted = wanted
            self._happened(Scaled(wanted))

    def restart(self) -> None:
        """Replace every instance, one after the other, each once its successor is ready."""
        self._happened(Restarted())

    async def drained(self) -> None:
        """Wait until the calls inside have finished, for at most drain_timeout."""
        if not await self._calls.drained(self._limits.drain_timeout):
            log.warning("instance still busy at the end of its drain", calls=self.in_flight)

    async def leave(self) -> None:
        """Let go of all instances, which go on for the next life of this node."""
        await self._close()
        for seat in self._calls.seats.values():
            seat.instance.leave()

    async def stop(self) -> None:
        """Stop all instances: calls inside end as crashed, those that wait as never started."""
        await self._close()
        removals = [self._remove(seat.instance, self._limits.stop_grace) for seat in self._calls.seats.values()]
        await asyncio.gather(*removals)

    async def _close(self) -> None:
        self._stopping = True
        if self._tick:
            self._tick.cancel()
        self._calls.close()
        for job in self._jobs:
            job.cancel()
        if self._jobs:
            await asyncio.wait(self._jobs)

    def _happened(self, event: Event) -> None:
        """Tell the roster, and do what it says."""
        if self._stopping:
            return
        for effect in self._roster.handle(event, self._loop.time()):
            self._carry_out(effect)
        if self._tick:
            self._tick.cancel()
        due = self._roster.next_due()
        self._tick = self._loop.call_at(due, self._happened, Tick()) if due is not None else None

    def _carry_out(self, effect: Effect) -> None:
        match effect:
            case Start(slot):
                self._spawn(self._fill(slot), "start")
            case Retire(instance):
                seat = self._calls.seats[instance]
                seat.retiring = True
                self._spawn(self._retire(seat), "retire")
            case GaveUp(why):
                log.error("task is errored", task=self.spec.name, why=why)
                if all(slot.state is SlotState.ERRORED for slot in self.slots):
                    self._calls.refuse_waiting(self._not_serving(TaskName(self.spec.name)))

    def _spawn(self, work: Coroutine[None, None, None], name: str) -> None:
        job = asyncio.create_task(work, name=name)
        self._jobs.add(job)
        job.add_done_callback(self._jobs.discard)

    async def _fill(self, slot: int) -> None:
        try:
            instance = await self._start_when_possible()
        except GridError as exc:
            log.warning("instance did not start", error=exc.message)
            self._happened(StartFailed(slot, _told(exc.trace or "", exc.message)))
        except Exception as exc:
            log.exception("instance did not start")
            self._happened(StartFailed(slot, f"internal error: {type(exc).__name__}"))
        else:
            self._take_seat(slot, instance)

    async def _start_when_possible(self) -> Instance:
        """An engine that does not answer is no fault of the task: wait for it, however long."""
        while True:
            try:
                return await self._start_one()
            except EngineUnavailable as exc:
                log.warning("an instance waits for the engine", file=self.spec.file, error=exc.message)
            await asyncio.sleep(_ASK_ENGINE)

    async def _adopt_one(self, found: InstanceId) -> Instance | None:
        """The instance of an earlier life, or None when it does not come back; it is then removed."""
        instance = self._make(self._calls.connected, found)
        try:
            await instance.adopt(self._limits.adopt_timeout)
        except GridError as exc:
            log.warning("instance not adopted", instance=found, error=exc.message)
            self._spawn(self._remove(instance), "remove")
            return None
        except BaseException:
            instance.leave()
            raise
        log.info("instance adopted", file=self.spec.file, instance=found)
        return instance

    async def _start_one(self) -> Instance:
        instance = self._make(self._calls.connected, None)
        try:
            await instance.start(self._limits.start_timeout)
            if self.spec.health:
                await Health(instance, self.spec.health, self._limits.health).prove()
        except BaseException:
            await asyncio.shield(self._remove(instance))
            raise
        return instance

    def _take_seat(self, slot: int, instance: Instance) -> None:
        self._spawn(self._watch(instance), "watch")
        self._calls.add(instance)
        if self.spec.health:
            self._spawn(self._check(self._calls.seats[instance.id]), "health")
        self._happened(Ready(slot, instance.id))
        if self.handlers != instance.handlers:
            self.handlers = instance.handlers
            self._on_change()

    async def _watch(self, instance: Instance) -> None:
        """Wait for it to end and remove it; while its link stands, an engine that does not answer means nothing."""
        while True:
            try:
                end = await instance.ended()
                break
            except GridError as exc:
                end = End(f"was lost: {exc.message}")
            if not instance.is_ready:
                break
            await asyncio.sleep(_ASK_AGAIN)
        log.warning("instance ended", file=instance.spec.file, instance=instance.id, reason=end.reason)
        self._calls.ended(instance, end.reason)
        await self._remove(instance)
        self._calls.remove(instance)
        self._happened(Ended(instance.id, _told(end.log, end.reason)))

    async def _check(self, seat: Seat) -> None:
        """Ask now and then whether it is well, and end it when it is not. One that is busy with a call is not asked."""
        health = Health(seat.instance, self.spec.health, self._limits.health)
        while True:
            await asyncio.sleep(self._limits.health.every)
            if seat.retiring or self._calls.seats.get(seat.instance.id) is not seat:
                return
            if not seat.instance.is_ready or (seat.inside and seat.runs_in_order):
                continue
            why = await health.check()
            if why and not seat.retiring and not seat.end:
                log.warning("replacing an instance", file=self.spec.file, instance=seat.instance.id, reason=why)
                await self._remove(seat.instance, self._limits.stop_grace, why)
                return

    async def _retire(self, seat: Seat) -> None:
        """Let it finish the calls inside, for at most drain_timeout; that it then ends is for _watch to see."""
        await seat.empty(self._limits.drain_timeout)
        await self._remove(seat.instance, self._limits.stop_grace, _BUSY)

    def _kill(self, seat: Seat) -> None:
        self._spawn(self._remove(seat.instance, why=_LATE), "kill")

    async def _remove(self, instance: Instance, grace: float = 0, why: str = "") -> None:
        try:
            await instance.stop(grace, why)
        except GridError as exc:
            log.warning("could not stop an instance", instance=instance.id, error=exc.message)
            self._owe(instance.id)


def _told(log: str, reason: str) -> str:
    """The last lines an instance wrote, then why it ended."""
    return f"{log.rstrip()}\n{reason}".lstrip()
