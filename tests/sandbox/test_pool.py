"""The pool on real runtimes, as child processes."""

import asyncio
import json
import os
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gridnode.errors import (
    CallTimeout,
    EngineUnavailable,
    GridError,
    NoCapacity,
    NotReady,
    ReleaseFailed,
    TaskCrashed,
    TaskNotFound,
    TaskRaised,
)
from gridnode.link import Cancel
from gridnode.model import Invocation, InvocationId, Load, NodeId, Order, Outcome, Release, Root, TaskName, TaskSpec
from gridnode.sandbox.place import Place
from gridnode.sandbox.pool import Pool
from gridnode.sandbox.roster import RestartPolicy
from gridnode.sandbox.task_pool import PoolLimits
from tests.fakes.peers import until
from tests.fakes.process_sandbox import ProcessSandbox

LIMITS = PoolLimits(
    max_queued=4, cancel_grace=0.2, drain_timeout=5, restarts=RestartPolicy(first=0.02), start_timeout=15
)

ECHO = """
import os, time

def handler(event):
    return {"got": event, "pid": os.getpid(), "release": RELEASE}

def nap(event):
    time.sleep(event)
    return "rested"

def die(event):
    os._exit(7)

def fail(event):
    raise ValueError("no " + event)
"""
WIDE = """
import asyncio

async def handler(event):
    await asyncio.sleep(event)
    return "awake"

async def stubborn(event):
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            pass
"""


class Ground:
    """A Pool, its sandboxes, and releases to serve."""

    def __init__(self, directory: Path, run_dir: Path, limits: PoolLimits = LIMITS) -> None:
        self.sandbox = ProcessSandbox()
        self.run_dir = run_dir
        place = Place(NodeId("ab" * 20), "n", "g", "none", run_dir)
        self.pool = Pool(place, {"gpu": "true"}, self.sandbox, limits, lambda: None)
        self._directory = directory

    def release(self, number: int = 1, **files: str) -> tuple[Release, Path]:
        directory = self._directory / str(number)
        (directory / "tasks").mkdir(parents=True)
        for name, text in files.items():
            (directory / "tasks" / f"{name}.py").write_text(f"RELEASE = {number}\n{text}")
        tasks = tuple(TaskSpec(name, f"tasks/{name}.py") for name in sorted(files))
        return Release("demo", Root(f"{number:064x}"), number, 0, 0, len(files), tasks), directory

    async def serve(self, number: int = 1, **files: str) -> None:
        self.pool.activate(await self.pool.prepare(*self.release(number, **files)))

    def call(self, task: str, event: object = None, seconds: float = 10.0) -> tuple[list[Outcome], Cancel]:
        outcomes: list[Outcome] = []
        deadline = asyncio.get_running_loop().time() + seconds
        call = Invocation(InvocationId("0" * 32), TaskName(task), json.dumps(event).encode(), deadline)
        return outcomes, self.pool.invoke(call, outcomes.append)

    async def outcome(self, task: str, event: object = None, seconds: float = 10.0) -> Outcome:
        outcomes, _ = self.call(task, event, seconds)
        await until(lambda: outcomes, f"an outcome of {task}")
        return outcomes[0]

    async def result(self, task: str, event: object = None) -> Any:
        outcome = await self.outcome(task, event)
        assert not outcome.error, outcome.error
        return json.loads(outcome.body)

    async def error(self, task: str, event: object = None, seconds: float = 10.0) -> GridError:
        outcome = await self.outcome(task, event, seconds)
        assert outcome.error
        return outcome.error


@pytest.fixture
def run_dir() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="gr-") as name:
        yield Path(name)


@pytest.fixture
async def grounds(tmp_path: Path, run_dir: Path) -> AsyncIterator[Callable[..., Ground]]:
    made: list[Ground] = []

    def make(limits: PoolLimits = LIMITS) -> Ground:
        made.append(Ground(tmp_path, run_dir, limits))
        return made[-1]

    yield make
    for ground in made:
        await ground.pool.close()
        left = await ground.sandbox.running()
        await ground.sandbox.clean()
        assert left == []
        assert os.listdir(run_dir) == []


@pytest.fixture
def ground(grounds: Callable[..., Ground]) -> Ground:
    return grounds()


async def test_nothing_is_served_before_a_release(ground: Ground) -> None:
    assert isinstance(await ground.error("echo"), NotReady)
    assert (ground.pool.tasks, ground.pool.load, ground.pool.release) == ((), Load(), None)


async def test_a_release_serves_its_tasks(ground: Ground) -> None:
    await ground.serve(echo=ECHO, wide=WIDE)
    assert (await ground.result("echo", {"a": 1}))["got"] == {"a": 1}
    assert await ground.result("wide", 0) == "awake"
    names = {"echo", "echo.nap", "echo.die", "echo.fail", "wide", "wide.stubborn"}
    assert set(ground.pool.tasks) == names
    for unknown in ("nothing", "echo.nothing", "", "echo\0"):
        outcome = await ground.outcome(unknown)
        assert isinstance(outcome.error, TaskNotFound)
        assert not outcome.started


async def test_a_task_that_raises(ground: Ground) -> None:
    await ground.serve(echo=ECHO)
    error = await ground.error("echo.fail", "way")
    assert (type(error), error.message) == (TaskRaised, "ValueError: no way")
    assert error.trace
    assert "tasks/echo.py" in error.trace


async def test_sync_tasks_run_one_by_one_and_async_ones_together(ground: Ground) -> None:
    await ground.serve(echo=ECHO, wide=WIDE)
    naps = [ground.call("echo.nap", 0.05)[0] for _ in range(4)]
    wide = [ground.call("wide", 0.05)[0] for _ in range(30)]
    assert ground.pool.load == Load(34, 2)
    start = asyncio.get_running_loop().time()
    await until(lambda: all(wide))
    assert asyncio.get_running_loop().time() - start < 1.0
    await until(lambda: all(naps))
    assert asyncio.get_running_loop().time() - start >= 0.19
    assert ground.pool.load == Load(0, 2)


async def test_a_full_queue(ground: Ground) -> None:
    await ground.serve(echo=ECHO)
    calls = [ground.call("echo.nap", 0.02)[0] for _ in range(7)]
    refused = [call[0].error for call in calls if call]
    assert [type(error) for error in refused] == [NoCapacity, NoCapacity]
    await until(lambda: all(calls))


async def test_a_task_past_its_deadline_is_killed_and_the_others_served(ground: Ground) -> None:
    await ground.serve(echo=ECHO)
    before = (await ground.result("echo"))["pid"]
    late, _ = ground.call("echo.nap", 60, seconds=0.2)
    queued, _ = ground.call("echo")
    await until(lambda: late and queued)
    assert isinstance(late[0].error, CallTimeout)
    assert late[0].started
    assert not queued[0].error
    assert json.loads(queued[0].body)["pid"] != before


async def test_an_async_task_that_swallows_its_cancel_is_killed(ground: Ground) -> None:
    await ground.serve(wide=WIDE)
    late, _ = ground.call("wide.stubborn", None, seconds=0.1)
    await until(lambda: late)
    assert isinstance(late[0].error, CallTimeout)
    await until(lambda: ground.pool.load.in_flight == 0)
    assert await ground.result("wide", 0) == "awake"


async def test_a_cancelled_async_call_leaves_its_neighbours_alone(ground: Ground) -> None:
    await ground.serve(wide=WIDE)
    neighbour, _ = ground.call("wide", 0.5)
    _, cancel = ground.call("wide", 60)
    cancel()
    await until(lambda: neighbour)
    assert neighbour[0].body == b'"awake"'


async def test_a_crash_and_the_restart(ground: Ground) -> None:
    await ground.serve(echo=ECHO, wide=WIDE)
    neighbour, _ = ground.call("wide", 0.3)
    assert isinstance(await ground.error("echo.die"), TaskCrashed)
    assert (await ground.result("echo", 1))["got"] == 1
    await until(lambda: neighbour)
    assert not neighbour[0].error


async def test_a_release_that_cannot_be_imported_fails_whole(ground: Ground) -> None:
    release = ground.release(1, echo=ECHO, bad="import nothing_of_the_sort\n", gone="import os\nos._exit(3)\n")
    with pytest.raises(ReleaseFailed) as caught:
        await ground.pool.prepare(*release)
    failures = {failure.file: failure for failure in caught.value.failures}
    assert set(failures) == {"tasks/bad.py", "tasks/gone.py"}
    assert failures["tasks/bad.py"].trace
    assert "nothing_of_the_sort" in failures["tasks/bad.py"].message
    assert "Traceback" in failures["tasks/bad.py"].trace
    assert "code 3" in failures["tasks/gone.py"].message
    assert await ground.sandbox.running() == []


async def test_a_release_that_fails_leaves_the_old_one_serving(ground: Ground) -> None:
    await ground.serve(1, echo=ECHO)
    with pytest.raises(ReleaseFailed):
        await ground.pool.prepare(*ground.release(2, echo="1/0"))
    assert (await ground.result("echo"))["release"] == 1


async def test_a_prepare_that_is_cancelled_leaves_no_instance(ground: Ground) -> None:
    sleepy = "import time\ntime.sleep(60)\ndef handler(): pass"
    files = {f"t{n}": sleepy for n in range(3)}
    prepare = asyncio.ensure_future(ground.pool.prepare(*ground.release(1, echo=ECHO, **files)))
    await until(lambda: len(ground.sandbox._children) == 4)
    prepare.cancel()
    await asyncio.wait({prepare})
    await until(lambda: not ground.sandbox._children and not os.listdir(ground.run_dir))


async def test_a_start_that_takes_too_long(grounds: Callable[..., Ground]) -> None:
    ground = grounds(PoolLimits(start_timeout=0.3))
    with pytest.raises(ReleaseFailed, match="not ready within"):
        await ground.pool.prepare(*ground.release(1, slow="import time\ntime.sleep(60)"))


async def test_the_switch_lets_calls_inside_the_old_release_finish(ground: Ground) -> None:
    await ground.serve(1, echo=ECHO)
    inside, _ = ground.call("echo.nap", 2)
    queued, _ = ground.call("echo")
    await ground.serve(2, echo=ECHO)
    assert (await ground.result("echo"))["release"] == 2
    assert inside == []
    await until(lambda: inside and queued)
    assert (inside[0].body, json.loads(queued[0].body)["release"]) == (b'"rested"', 1)
    await ground.pool.drained()
    assert len(await ground.sandbox.running()) == 1


async def test_closing_stops_the_releases_that_drain_too(ground: Ground) -> None:
    await ground.serve(1, echo=ECHO)
    inside, _ = ground.call("echo.nap", 60, seconds=60)
    queued, _ = ground.call("echo", seconds=60)
    await ground.serve(2, echo=ECHO)
    await ground.pool.close()
    assert await ground.sandbox.running() == []
    assert isinstance(inside[0].error, TaskCrashed)
    assert isinstance(queued[0].error, NotReady)


async def test_sandboxes_of_an_earlier_life_are_reaped(grounds: Callable[..., Ground]) -> None:
    ground = grounds()
    await ground.serve(echo=ECHO)
    await ground.pool.find()
    await ground.pool.reap()
    assert await ground.sandbox.running() == []


async def test_orders_hold_for_what_serves_and_for_releases_to_come(ground: Ground) -> None:
    await ground.serve(echo=ECHO)
    ground.pool.order({"echo": Order(instances=2)})
    await until(lambda: [process.state for process in ground.pool.processes()] == ["ready", "ready"])
    await ground.serve(2, echo=ECHO)
    assert [process.state for process in ground.pool.processes()][:2] == ["ready", "ready"]
    ground.pool.order({"echo": Order(stopped=True)})
    assert isinstance((await ground.outcome("echo")).error, NotReady)
    ground.pool.order({})
    assert (await ground.result("echo", 3))["got"] == 3


async def test_a_task_that_asks_for_labels_runs_where_they_are(ground: Ground) -> None:
    release, directory = ground.release(1, here=ECHO, elsewhere=ECHO)
    tasks = tuple(
        msgspec.structs.replace(task, on={"gpu": "true"} if task.name == "here" else {"gpu": "false"})
        for task in release.tasks
    )
    ground.pool.activate(await ground.pool.prepare(msgspec.structs.replace(release, tasks=tasks), directory))
    assert {task.partition(".")[0] for task in ground.pool.tasks} == {"here"}


def next_life(ground: Ground) -> Ground:
    """The same node started again, with its sandboxes still there."""
    again = Ground(ground._directory, ground.run_dir)
    again.sandbox = ground.sandbox
    again.pool._sandbox = ground.sandbox
    return again


async def test_the_next_life_adopts_what_runs_and_serves_with_it(ground: Ground) -> None:
    release, directory = ground.release(1, echo=ECHO, wide=WIDE)
    ground.pool.activate(await ground.pool.prepare(release, directory))
    before = {(await ground.result("echo"))["pid"], *await ground.sandbox.running()}
    await ground.pool.leave()
    again = next_life(ground)
    await again.pool.find()
    again.pool.activate(await again.pool.prepare(release, directory))
    await again.pool.reap()
    assert {(await again.result("echo"))["pid"], *await again.sandbox.running()} == before
    await again.pool.close()


async def test_the_next_life_adopts_nothing_that_was_started_otherwise(ground: Ground) -> None:
    release, directory = ground.release(1, echo=ECHO)
    ground.pool.activate(await ground.pool.prepare(release, directory))
    before = await ground.sandbox.running()
    await ground.pool.leave()
    again = next_life(ground)
    await again.pool.find()
    (task,) = release.tasks
    other = msgspec.structs.replace(release, tasks=(msgspec.structs.replace(task, memory=task.memory * 2),))
    again.pool.activate(await again.pool.prepare(other, directory))
    await again.pool.reap()
    after = await again.sandbox.running()
    assert (len(after), set(after) & set(before)) == (1, set())
    await again.pool.close()


async def test_a_pool_that_drains_refuses_and_finishes(ground: Ground) -> None:
    await ground.serve(echo=ECHO)
    inside, _ = ground.call("echo.nap", 0.2)
    ground.pool.drain()
    refused = await ground.outcome("echo")
    assert (type(refused.error), refused.started) == (NotReady, False)
    await ground.pool.finished()
    assert inside[0].body == b'"rested"'


async def test_a_pool_that_is_held_refuses_until_it_is_not(ground: Ground) -> None:
    await ground.serve(echo=ECHO)
    inside, _ = ground.call("echo.nap", 0.2)
    ground.pool.hold(True)
    refused = await ground.outcome("echo")
    assert (type(refused.error), refused.started, ground.pool.is_draining) == (NotReady, False, True)
    assert "is drained" in str(refused.error)
    await ground.pool.finished()
    assert inside[0].body == b'"rested"'
    ground.pool.hold(False)
    assert (await ground.outcome("echo")).error is None
    ground.pool.hold(True)
    ground.pool.drain()
    ground.pool.hold(False)
    assert ground.pool.is_draining, "one that is going down stays so"
    assert "is going down" in str((await ground.outcome("echo")).error)


async def test_an_engine_that_is_away_is_no_fault_of_the_release(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(spec: object) -> None:
        raise EngineUnavailable("down")

    monkeypatch.setattr(ground.sandbox, "start", away)
    with pytest.raises(EngineUnavailable):
        await ground.pool.prepare(*ground.release(1, echo=ECHO, wide=WIDE))


async def test_a_stopped_task_says_so_after_another_release(ground: Ground) -> None:
    await ground.serve(1, echo=ECHO)
    ground.pool.order({"echo": Order(stopped=True)})
    await ground.serve(2, echo=ECHO, other=ECHO)
    assert "echo" in ground.pool.tasks
    for task in ("echo", "echo.nap"):
        error = await ground.error(task)
        assert isinstance(error, NotReady)
        assert (error.message, error.hint) == (f"{task} is stopped", "gridctl start echo")
    assert isinstance(await ground.error("ecco"), TaskNotFound)
    ground.pool.order({})
    assert (await ground.result("echo"))["release"] == 2


async def test_a_task_stopped_before_its_first_release_says_so(ground: Ground) -> None:
    ground.pool.order({"echo": Order(stopped=True)})
    await ground.serve(1, echo=ECHO)
    assert (await ground.error("echo")).message == "echo is stopped"


async def test_what_is_ordered_while_a_release_is_prepared_holds_when_it_serves(ground: Ground) -> None:
    prepared = await ground.pool.prepare(*ground.release(1, echo=ECHO))
    ground.pool.order({"echo": Order(instances=2)})
    ground.pool.activate(prepared)
    assert ground.pool.load.capacity == 2
    await until(lambda: [one.state for one in ground.pool.processes()] == ["ready", "ready"], "two instances")


def coded(release: Release, **codes: str) -> Release:
    """The release, with the code of each task."""
    tasks = tuple(msgspec.structs.replace(task, code=codes[task.name] * 64) for task in release.tasks)
    return msgspec.structs.replace(release, tasks=tasks)


async def serve_coded(ground: Ground, number: int, echo: str, other: str) -> None:
    release, directory = ground.release(number, echo=ECHO, other=ECHO)
    ground.pool.activate(await ground.pool.prepare(coded(release, echo=echo, other=other), directory))


async def test_a_task_of_which_nothing_changed_keeps_its_instances(ground: Ground) -> None:
    await serve_coded(ground, 1, echo="a", other="b")
    before = {task: await ground.result(task) for task in ("echo", "other")}
    napping, _ = ground.call("other.nap", 0.3)
    await serve_coded(ground, 2, echo="c", other="b")
    assert await ground.result("other") == before["other"]
    assert (await ground.result("echo"))["release"] == 2
    await ground.pool.drained()
    assert await ground.result("other") == before["other"]
    assert ground.pool.roots == {Root(f"{1:064x}"), Root(f"{2:064x}")}
    assert sorted(one.task for one in ground.pool.processes()) == ["echo", "other"]
    await until(lambda: napping, "the call inside")
    assert napping[0].error is None


async def test_what_is_started_anew_is_of_the_release_that_serves(ground: Ground) -> None:
    await serve_coded(ground, 1, echo="a", other="b")
    await serve_coded(ground, 2, echo="c", other="b")
    ground.pool.order({"other": Order(restarts=1)})
    await until(lambda: ground.pool.roots == {Root(f"{2:064x}")}, "nothing of the first release is left")
    assert (await ground.result("other"))["release"] == 2


async def test_without_a_code_or_with_other_settings_every_instance_is_new(ground: Ground) -> None:
    await ground.serve(1, echo=ECHO)
    await ground.serve(2, echo=ECHO)
    assert (await ground.result("echo"))["release"] == 2
    await serve_coded(ground, 3, echo="a", other="b")
    release, directory = ground.release(4, echo=ECHO, other=ECHO)
    release = coded(release, echo="a", other="b")
    tasks = tuple(msgspec.structs.replace(task, memory=task.memory * 2) for task in release.tasks)
    ground.pool.activate(await ground.pool.prepare(msgspec.structs.replace(release, tasks=tasks), directory))
    assert (await ground.result("echo"))["release"] == 4


async def test_a_release_that_fails_leaves_what_would_have_gone_on(ground: Ground) -> None:
    await serve_coded(ground, 1, echo="a", other="b")
    before = await ground.result("other")
    release, directory = ground.release(2, echo="raise ValueError(1)", other=ECHO)
    with pytest.raises(ReleaseFailed):
        await ground.pool.prepare(coded(release, echo="c", other="b"), directory)
    assert await ground.result("other") == before
    assert (await ground.result("echo"))["release"] == 1


async def test_what_went_on_is_adopted_by_the_next_life(tmp_path: Path, run_dir: Path) -> None:
    first = Ground(tmp_path, run_dir)
    await serve_coded(first, 1, echo="a", other="b")
    await serve_coded(first, 2, echo="c", other="b")
    before = {task: await first.result(task) for task in ("echo", "other")}
    await first.pool.drained()
    await first.pool.leave()
    second = Ground(tmp_path, run_dir)
    second.sandbox = first.sandbox
    second.pool = Pool(Place(NodeId("ab" * 20), "n", "g", "none", run_dir), {}, first.sandbox, LIMITS, lambda: None)
    await second.pool.find()
    release = Release("demo", Root(f"{2:064x}"), 2, 0, 0, 2, ())
    tasks = tuple(TaskSpec(name, f"tasks/{name}.py") for name in ("echo", "other"))
    release = coded(msgspec.structs.replace(release, tasks=tasks), echo="c", other="b")
    second.pool.activate(await second.pool.prepare(release, tmp_path / "2"))
    await second.pool.reap()
    assert {task: await second.result(task) for task in before} == before
    assert second.pool.roots == {Root(f"{1:064x}"), Root(f"{2:064x}")}
    await second.pool.close()
    await first.sandbox.clean()
