"""The warm instances of this node's active release: prepares the next one aside, then switches at once."""

import asyncio
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import structlog
from msgspec import structs

from gridnode.errors import EngineUnavailable, GridError, NotReady, ReleaseFailed, TaskFailure, TaskNotFound
from gridnode.link import Cancel, LinkLimits, nothing_to_cancel
from gridnode.messages import MAX_TASKS
from gridnode.model import (
    Done,
    InstanceId,
    Invocation,
    Load,
    Order,
    Outcome,
    Process,
    Release,
    Root,
    TaskName,
    TaskSpec,
)
from gridnode.sandbox import Held, Sandbox
from gridnode.sandbox.instance import Instance
from gridnode.sandbox.nested import Onward
from gridnode.sandbox.place import Place
from gridnode.sandbox.spec import shape
from gridnode.sandbox.sweep import Sweep
from gridnode.sandbox.task_pool import Make, PoolLimits, TaskPool

log = structlog.get_logger()

_INSTANCE_LIMITS = LinkLimits(max_hello=64 * 1024, max_inbound=128)


class Prepared:
    """A release whose instances all run and are healthy, not yet serving. pools: by task file's name.

    carried: of those that serve already, and go on, how their next instances are made.
    """

    def __init__(self, release: Release, pools: dict[str, TaskPool], carried: Mapping[str, Make] | None = None) -> None:
        self.release = release
        self.pools = pools
        self.carried = carried or {}
        self.routes: dict[TaskName, TaskPool] = {}
        self.refresh()

    def refresh(self) -> None:
        """Handlers have become known. A task that never ran here, for it is stopped, is known by its file's name."""
        own = {TaskName(name): pool for name, pool in self.pools.items() if not pool.handlers}
        self.routes = own | {name: pool for pool in self.pools.values() for name in pool.handlers}


class Pool:
    """This node's Invoker. place: what every sandbox of this node has in common; labels: what a task may ask for.

    onward: where the calls go that tasks make.
    """

    def __init__(
        self,
        place: Place,
        labels: Mapping[str, str],
        sandbox: Sandbox,
        limits: PoolLimits,
        on_change: Callable[[], None],
        onward: Onward | None = None,
    ) -> None:
        self._place = place
        self._onward = onward
        self._labels = labels
        self._sandbox = sandbox
        self._limits = limits
        self._on_change = on_change
        self._orders: dict[str, Order] = {}
        self._serving: Prepared | None = None
        self._sweep = Sweep(sandbox, place.grid)
        self._starts = asyncio.Semaphore(limits.starts_at_once)
        self._drains: dict[asyncio.Task[None], Prepared] = {}
        self._found: dict[InstanceId, Held] = {}
        self._adopting: dict[InstanceId, str] = {}
        self._refuses = ""
        self._held = False

    @property
    def release(self) -> Release | None:
        return self._serving.release if self._serving else None

    @property
    def image(self) -> str:
        """Of Python tasks that name none."""
        return self._place.image

    @property
    def tasks(self) -> tuple[TaskName, ...]:
        return tuple(sorted(self._serving.routes)) if self._serving else ()

    @property
    def load(self) -> Load:
        if not self._serving:
            return Load()
        pools = self._serving.pools.values()
        return Load(sum(pool.in_flight for pool in pools), sum(len(pool.slots) for pool in pools))

    def invoke(self, call: Invocation, done: Done) -> Cancel:
        """Run the call on the instance that serves its task."""
        if self._refuses or self._held:
            hint = None if self._refuses else f"`gridctl undrain {self._place.name}` has it take calls again"
            error = NotReady(f"{self._place.name} {self._refuses or 'is drained'}", hint=hint)
            done(Outcome(error=error, node=self._place.node, started=False))
            return nothing_to_cancel
        if not self._serving:
            done(Outcome(error=NotReady("no release is active on this node yet"), node=self._place.node, started=False))
            return nothing_to_cancel
        pool = self._serving.routes.get(call.task)
        if pool is None:
            done(Outcome(error=TaskNotFound(f"no task {call.task!r}"), node=self._place.node, started=False))
            return nothing_to_cancel
        return pool.invoke(call, done)

    async def prepare(self, release: Release, directory: Path) -> Prepared:
        """Start every instance of the release that belongs here; ReleaseFailed, with all that failed, leaves none.

        A task of which nothing changed goes on in the instances it has.
        """
        here = [spec for spec in release.tasks if spec.on.items() <= self._labels.items()]
        going_on = {spec.name: pool for spec in here if (pool := self._unchanged(spec))}
        specs = [spec for spec in here if spec.name not in going_on]
        pools = {spec.name: self._task_pool(release, spec, directory) for spec in specs}
        prepared = False
        try:
            starts = (self._start(pools[spec.name], self._adoptable(release, spec, directory)) for spec in specs)
            results = await asyncio.gather(*starts)
            for result in results:
                if isinstance(result, EngineUnavailable):  # no fault of the release: it can be tried again
                    raise result
            failures = tuple(result for result in results if isinstance(result, TaskFailure))
            if failures:
                raise ReleaseFailed("; ".join(failure.message for failure in failures), failures)
            carried = {name: self._maker(release, pool.spec, directory) for name, pool in going_on.items()}
            ready = Prepared(release, pools | going_on, carried)
            if len(ready.routes) > MAX_TASKS:
                raise ReleaseFailed(f"the release has {len(ready.routes)} tasks, at most {MAX_TASKS} can be announced")
            prepared = True
            return ready
        finally:
            if not prepared:
                await asyncio.shield(_stop_all(pools.values()))

    def order(self, orders: dict[str, Order]) -> None:
        """Have the tasks as their operator wants them, now and in releases to come; by task file's name."""
        before, self._orders = self._orders, orders
        for name, pool in self._serving.pools.items() if self._serving else ():
            new, old = orders.get(name, Order()), before.get(name, Order())
            pool.scale(self._wanted(pool.spec))
            if new.restarts > old.restarts:
                pool.restart()

    def processes(self) -> list[Process]:
        """Every instance on this node, those of releases that drain too."""
        return [process for one in self._all() for pool in one.pools.values() for process in pool.processes()]

    @property
    def roots(self) -> set[Root]:
        """Of the releases whose directories this node's instances read."""
        return {root for one in self._all() for pool in one.pools.values() for root in pool.roots}

    @property
    def files(self) -> set[Path]:
        """Directories of the grid's that instances of this node read."""
        return {path for one in self._all() for pool in one.pools.values() for path in pool.files}

    def renew(self, files: str) -> None:
        """There is another version of these: instances that read them are replaced, one after the other."""
        for pool in self._serving.pools.values() if self._serving else ():
            if files in pool.spec.files:
                pool.restart()

    def _all(self) -> list[Prepared]:
        return [*([self._serving] if self._serving else []), *self._drains.values()]

    def _wanted(self, spec: TaskSpec) -> int:
        order = self._orders.get(spec.name, Order())
        wanted = spec.instances if order.instances is None else order.instances
        return 0 if order.stopped else wanted or os.cpu_count() or 1

    def _unchanged(self, spec: TaskSpec) -> TaskPool | None:
        """The pool that serves this task now, if all it may read and its settings are the same, and it is well."""
        pool = self._serving.pools.get(spec.name) if self._serving else None
        return pool if pool and spec.code and pool.spec == spec and pool.is_whole else None

    def _task_pool(self, release: Release, spec: TaskSpec, directory: Path) -> TaskPool:
        policy = self._limits.restarts
        restarts = replace(policy, max_restarts=spec.max_restarts, min_uptime=spec.min_uptime)
        limits = replace(self._limits, restarts=restarts)
        make, owe = self._maker(release, spec, directory), self._sweep.owe
        wanted = self._wanted(spec)
        pool = TaskPool(spec, make, limits, wanted, self._handlers_known, owe)
        before = self._serving.pools.get(spec.name) if self._serving else None
        if before and not wanted:  # whoever calls it is told that it is stopped, by the names it had
            pool.handlers = before.handlers
        return pool

    def _handlers_known(self) -> None:
        if self._serving:
            self._serving.refresh()
        self._on_change()

    def activate(self, prepared: Prepared) -> None:
        """Serve from `prepared` from this moment on, as ordered meanwhile; the instances before it drain and stop."""
        before, self._serving = self._serving, prepared
        for name, make in prepared.carried.items():
            prepared.pools[name].go_on_with(make)
        for pool in prepared.pools.values():
            pool.scale(self._wanted(pool.spec))
        if before:
            gone = {name: pool for name, pool in before.pools.items() if prepared.pools.get(name) is not pool}
            leaving = Prepared(before.release, gone)
            drain = asyncio.create_task(self._retire(leaving), name="drain")
            self._drains[drain] = leaving
            drain.add_done_callback(self._drains.pop)

    async def drained(self) -> None:
        """Wait until the instances of earlier releases have stopped."""
        if self._drains:
            await asyncio.wait(self._drains)

    def drain(self) -> None:
        """Let no more calls in, for good: they are for other nodes."""
        self._refuses = "is going down"

    def hold(self, held: bool) -> None:
        """Let no calls in for as long as an operator wants none here; those inside finish."""
        self._held = held

    @property
    def is_draining(self) -> bool:
        """Whether it takes no new calls."""
        return bool(self._refuses) or self._held

    async def finished(self) -> None:
        """Wait until no call is inside, for at most drain_timeout."""
        await asyncio.gather(*(pool.drained() for one in self._all() for pool in one.pools.values()))

    async def leave(self) -> None:
        """Let go of every instance: they go on for the next life of this node."""
        for drain in list(self._drains):
            drain.cancel()
        await asyncio.gather(*(pool.leave() for one in self._all() for pool in one.pools.values()))

    async def close(self) -> None:
        """Stop every instance, those that drain too."""
        for drain, before in list(self._drains.items()):
            drain.cancel()
            await _stop_all(before.pools.values())
        if self._serving:
            await _stop_all(self._serving.pools.values())

    async def find(self) -> None:
        """Take stock of what an earlier life of this node left: what runs may be adopted until `reap`."""
        self._found = {one.instance: one for one in await self._sandbox.held()}
        running = {one.instance for one in self._found.values() if one.running}
        for directory in self._place.run_dir.glob("*"):
            if directory.name not in running:
                await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)

    async def reap(self) -> None:
        """Remove what was found and not adopted, and its sockets."""
        found, self._found = self._found, {}
        await asyncio.gather(*map(self._reap, found))

    async def _reap(self, instance: InstanceId) -> None:
        log.info("removing a sandbox of an earlier life", instance=instance)
        try:
            await self._sandbox.stop(instance, 0)
        except GridError as exc:
            log.warning("could not remove a sandbox of an earlier life", instance=instance, error=exc.message)
            self._sweep.owe(instance)
        await asyncio.to_thread(shutil.rmtree, self._place.run_dir / instance, ignore_errors=True)

    async def sweep(self) -> None:
        """Until cancelled: remove what ended long ago, also of dead nodes, and what could not be removed at once."""
        await self._sweep.run()

    def _adoptable(self, release: Release, spec: TaskSpec, directory: Path) -> list[InstanceId]:
        """Sandboxes of an earlier life that are what this task would have started now, as many as are wanted."""
        like = shape(self._place.spec(InstanceId(""), release, spec, directory))
        alike = [one.instance for one in self._found.values() if one.running and one.shape == like]
        chosen = alike[: self._wanted(spec)]
        for instance in chosen:
            self._adopting[instance] = self._found.pop(instance).release
        return chosen

    async def _start(self, pool: TaskPool, found: list[InstanceId]) -> TaskFailure | EngineUnavailable | None:
        try:
            await pool.adopt(found)
            async with self._starts:
                await pool.start()
        except EngineUnavailable as exc:
            return exc
        except GridError as exc:
            said = f"{exc.message} ({exc.hint})" if exc.hint else exc.message
            return TaskFailure(pool.spec.file, said, exc.trace)
        return None

    async def _retire(self, before: Prepared) -> None:
        await asyncio.gather(*(pool.drained() for pool in before.pools.values()))
        await _stop_all(before.pools.values())

    def _maker(self, release: Release, spec: TaskSpec, directory: Path) -> Make:
        def make(on_ready: Callable[[Instance], None], found: InstanceId | None) -> Instance:
            instance = found or InstanceId(secrets.token_hex(4))
            sandbox_spec = self._place.spec(instance, release, spec, directory)
            if found:  # it may have been started by an earlier release that was the same for it
                sandbox_spec = structs.replace(sandbox_spec, release=self._adopting.pop(found, release.root))
            self._place.furnish(sandbox_spec, spec)
            return Instance(sandbox_spec, self._sandbox, _INSTANCE_LIMITS, on_ready, self._onward)

        return make


async def _stop_all(pools: Iterable[TaskPool]) -> None:
    for result in await asyncio.gather(*(pool.stop() for pool in pools), return_exceptions=True):
        if isinstance(result, Exception):
            log.warning("could not stop an instance", error=str(result))
