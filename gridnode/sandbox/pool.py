"""The warm instances of this node's active release: prepares the next one aside, then switches at once."""

import asyncio
import secrets
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import structlog

from gridnode.errors import GridError, NotReady, ReleaseFailed, TaskFailure, TaskNotFound
from gridnode.link import Cancel, LinkLimits
from gridnode.messages import MAX_TASKS
from gridnode.model import Done, InstanceId, Invocation, Load, NodeId, Outcome, Release, TaskName, TaskSpec
from gridnode.sandbox import Sandbox, SandboxSpec
from gridnode.sandbox.instance import Instance
from gridnode.sandbox.task_pool import PoolLimits, TaskPool

log = structlog.get_logger()


class Prepared:
    """A release whose instances all run and are healthy, not yet serving."""

    def __init__(self, release: Release, pools: dict[str, TaskPool]) -> None:
        self.release = release
        self.pools = pools
        self.routes = {name: pool for pool in pools.values() for name in pool.handlers}


class Pool:
    """This node's Invoker. image: of the Python runtime; run_dir: the host's path for sockets, short."""

    def __init__(
        self, node: NodeId, name: str, grid: str, image: str, run_dir: Path, sandbox: Sandbox, limits: PoolLimits
    ) -> None:
        self._node = node
        self._name = name
        self._grid = grid
        self._image = image
        self._run_dir = run_dir
        self._sandbox = sandbox
        self._limits = limits
        self._serving: Prepared | None = None
        self._starts = asyncio.Semaphore(limits.starts_at_once)
        self._drains: dict[asyncio.Task[None], Prepared] = {}

    @property
    def release(self) -> Release | None:
        return self._serving.release if self._serving else None

    @property
    def tasks(self) -> tuple[TaskName, ...]:
        return tuple(sorted(self._serving.routes)) if self._serving else ()

    @property
    def load(self) -> Load:
        if not self._serving:
            return Load()
        pools = self._serving.pools.values()
        return Load(sum(pool.in_flight for pool in pools), len(pools))

    def invoke(self, call: Invocation, done: Done) -> Cancel:
        """Run the call on the instance that serves its task."""
        if not self._serving:
            done(Outcome(error=NotReady("no release is active on this node yet"), node=self._node, started=False))
            return _nothing
        pool = self._serving.routes.get(call.task)
        if pool is None:
            done(Outcome(error=TaskNotFound(f"no task {call.task!r}"), node=self._node, started=False))
            return _nothing
        return pool.invoke(call, done)

    async def prepare(self, release: Release, directory: Path) -> Prepared:
        """Start every instance of the release; ReleaseFailed, with all that failed, leaves none behind."""
        pools = {spec.file: TaskPool(self._maker(release, spec, directory), self._limits) for spec in release.tasks}
        prepared = False
        try:
            results = await asyncio.gather(*(self._start(file, pool) for file, pool in pools.items()))
            failures = tuple(failure for failure in results if failure)
            if failures:
                raise ReleaseFailed("; ".join(failure.message for failure in failures), failures)
            ready = Prepared(release, pools)
            if len(ready.routes) > MAX_TASKS:
                raise ReleaseFailed(f"the release has {len(ready.routes)} tasks, at most {MAX_TASKS} can be announced")
            prepared = True
            return ready
        finally:
            if not prepared:
                await asyncio.shield(_stop_all(pools.values()))

    def activate(self, prepared: Prepared) -> None:
        """Serve from `prepared` from this moment on; the instances before it drain and stop."""
        before, self._serving = self._serving, prepared
        if before:
            drain = asyncio.create_task(self._retire(before), name="drain")
            self._drains[drain] = before
            drain.add_done_callback(self._drains.pop)

    async def drained(self) -> None:
        """Wait until the instances of earlier releases have stopped."""
        if self._drains:
            await asyncio.wait(self._drains)

    async def close(self) -> None:
        """Stop every instance, those that drain too."""
        for drain, before in list(self._drains.items()):
            drain.cancel()
            await _stop_all(before.pools.values())
        if self._serving:
            await _stop_all(self._serving.pools.values())

    async def reap(self) -> None:
        """Remove sandboxes, and their sockets, that an earlier life of this node left behind."""
        for instance in await self._sandbox.running():
            log.info("removing a sandbox of an earlier life", instance=instance)
            await self._sandbox.stop(instance, 0)
        for directory in self._run_dir.glob("*"):
            await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)

    async def _start(self, file: str, pool: TaskPool) -> TaskFailure | None:
        try:
            async with self._starts:
                await pool.start()
        except GridError as exc:
            return TaskFailure(file, exc.message, exc.trace)
        return None

    async def _retire(self, before: Prepared) -> None:
        await asyncio.gather(*(pool.drained() for pool in before.pools.values()))
        await _stop_all(before.pools.values())

    def _maker(
        self, release: Release, spec: TaskSpec, directory: Path
    ) -> Callable[[Callable[[Instance], None]], Instance]:
        def make(on_ready: Callable[[Instance], None]) -> Instance:
            instance = InstanceId(secrets.token_hex(4))
            sandbox_spec = SandboxSpec(
                instance=instance,
                node=self._node,
                node_name=self._name,
                grid=self._grid,
                release=release.root,
                task=spec.name,
                file=spec.file,
                runtime=spec.runtime,
                image=self._image,
                release_dir=str(directory),
                socket_dir=str(self._run_dir / instance),
                memory=spec.memory,
                cpu=spec.cpu,
            )
            return Instance(sandbox_spec, self._sandbox, LinkLimits(), on_ready)

        return make


async def _stop_all(pools: Iterable[TaskPool]) -> None:
    for result in await asyncio.gather(*(pool.stop() for pool in pools), return_exceptions=True):
        if isinstance(result, Exception):
            log.warning("could not stop an instance", error=str(result))


def _nothing() -> None:
    return
