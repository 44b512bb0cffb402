"""From a release that is told to one that serves: the order of steps, what stops them, and what is reported."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any, cast

import pytest
from msgspec.structs import replace

from gridnode.errors import ChunkMissing, EngineUnavailable, GridError, ReleaseFailed, SyncError, TaskFailure
from gridnode.model import NodeId, Release, ReleaseState, ReleaseStatus, Root, TaskSpec
from gridnode.sync import release as module
from gridnode.sync.release import Releases
from tests.fakes.peers import until

ME = NodeId("ab" * 20)
FETCHING, STARTING, ACTIVE, FAILED = (
    ReleaseState.FETCHING,
    ReleaseState.STARTING,
    ReleaseState.ACTIVE,
    ReleaseState.FAILED,
)
Step = Callable[[int], Awaitable[None]]


def release(sequence: int) -> Release:
    return Release("demo", Root(f"{sequence:064x}"), sequence, 0, 100, 1, ())


async def at_once(sequence: int) -> None:
    """A step that takes no time."""


async def never(sequence: int) -> None:
    await asyncio.Event().wait()


def fails(*errors: BaseException) -> Step:
    """With each error in turn, then no more."""
    left = list(errors)

    async def step(sequence: int) -> None:
        if left:
            raise left.pop(0)

    return step


class Stage:
    """Disk, pool and fetch of one node, whose steps do as told and are written down."""

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.statuses: list[ReleaseStatus] = []
        self.fetching: Step = at_once
        self.preparing: Step = at_once
        self.draining: Step = at_once
        self.shipping: Step = at_once
        self.materialise_error: GridError | None = None
        self.save_error: GridError | None = None
        self.release: Release | None = None
        self.reaps: list[Release | None] = []
        self.roots: set[Root] = set()
        everything = cast(Any, self)
        self.releases = Releases(ME, everything, everything, self._fetch, self.statuses.append, self.images)
        self.job: asyncio.Task[None] | None = None

    def run(self, resume: Release | None = None) -> None:
        self.job = asyncio.create_task(self.releases.run(resume))

    def follow(self, sequence: int) -> None:
        self.releases.follow(release(sequence))

    def _fetch(self, progress: Callable[[int, int], None]) -> Any:
        stage = self

        class Fetching:
            async def run(self, root: Root) -> None:
                sequence = int(root, 16)
                stage.steps.append(f"fetch {sequence}")
                await stage.fetching(sequence)
                progress(100, 100)

        return Fetching()

    def materialise(self, release: Release) -> Path:
        self.steps.append(f"materialise {release.sequence}")
        if self.materialise_error:
            raise self.materialise_error
        return Path(f"/{release.sequence}")

    async def images(self, references: Iterable[str]) -> None:
        names = sorted(references)
        if names:
            self.steps.append(f"images {names}")
            await self.shipping(0)

    def keep(self, roots: set[Root]) -> None:
        self.steps.append(f"keep {sorted((int(root, 16) for root in roots), reverse=True)}")

    def save_active(self, release: Release) -> None:
        self.steps.append(f"save {release.sequence}")
        if self.save_error:
            raise self.save_error

    async def prepare(self, release: Release, directory: Path) -> Release:
        assert directory == Path(f"/{release.sequence}")
        self.steps.append(f"prepare {release.sequence}")
        await self.preparing(release.sequence)
        return release

    def activate(self, prepared: Release) -> None:
        self.steps.append(f"activate {prepared.sequence}")
        self.release = prepared

    async def drained(self) -> None:
        await self.draining(0)

    async def reap(self) -> None:
        self.reaps.append(self.release)

    async def becomes(self, sequence: int, state: ReleaseState) -> None:
        def there() -> bool:
            status = self.releases.report().status
            return status is not None and (status.sequence, status.state) == (sequence, state)

        await until(there, f"{sequence} {state}")


@pytest.fixture
async def stage(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Stage]:
    monkeypatch.setattr(module, "_RETRY_FIRST", 0.01)
    stage = Stage()
    yield stage
    if stage.job:
        stage.job.cancel()
        await asyncio.wait({stage.job})


async def test_the_steps_in_their_order(stage: Stage) -> None:
    stage.run()
    stage.follow(1)
    await until(lambda: "keep [1]" in stage.steps)
    assert stage.steps == ["fetch 1", "materialise 1", "prepare 1", "activate 1", "save 1", "keep [1]"]
    assert [(one.state, one.have, one.total) for one in stage.statuses] == [
        (FETCHING, 0, 0),
        (FETCHING, 100, 100),
        (STARTING, 100, 100),
        (ACTIVE, 100, 100),
    ]
    assert stage.releases.report().node == ME


async def test_the_release_before_is_kept_on_disk_for_its_drain(stage: Stage) -> None:
    stage.run()
    stage.follow(1)
    await stage.becomes(1, ACTIVE)
    stage.follow(2)
    await until(lambda: "keep [2, 1]" in stage.steps)


async def test_a_release_that_instances_still_read_stays_on_disk(stage: Stage) -> None:
    stage.roots = {release(7).root}
    stage.run()
    stage.follow(8)
    await until(lambda: "keep [8, 7]" in stage.steps)


async def test_older_and_equal_ones_change_nothing(stage: Stage) -> None:
    stage.run()
    stage.follow(5)
    await stage.becomes(5, ACTIVE)
    for sequence in (5, 4, 1):
        stage.follow(sequence)
    stage.follow(6)
    await stage.becomes(6, ACTIVE)
    assert [step for step in stage.steps if step.startswith("fetch")] == ["fetch 5", "fetch 6"]


@pytest.mark.parametrize("where", ["fetching", "preparing", "draining"])
async def test_a_newer_one_stops_work_on_an_older(stage: Stage, where: str) -> None:
    setattr(stage, where, never)
    stage.run()
    stage.follow(1)
    steps = {"fetching": "fetch 1", "preparing": "prepare 1", "draining": "save 1"}
    await until(lambda: steps[where] in stage.steps)
    setattr(stage, where, at_once)
    stage.follow(2)
    await stage.becomes(2, ACTIVE)
    assert ("activate 1" in stage.steps) == (where == "draining")


async def test_of_many_told_at_once_the_newest_wins(stage: Stage) -> None:
    stage.run()
    for sequence in (3, 9, 5):
        stage.follow(sequence)
    await stage.becomes(9, ACTIVE)
    assert stage.steps[0] == "fetch 9"


async def test_a_release_that_fails_is_reported_and_the_old_one_serves_on(stage: Stage) -> None:
    stage.run()
    stage.follow(1)
    await stage.becomes(1, ACTIVE)
    failures = (TaskFailure("tasks/a.py", "ImportError: x", "Traceback…"),)
    stage.preparing = fails(ReleaseFailed("ImportError: x", failures))
    stage.follow(2)
    await stage.becomes(2, FAILED)
    report = stage.releases.report()
    assert report.failures == failures
    assert report.status
    assert report.status.error == "ImportError: x"
    assert stage.release == release(1)
    stage.follow(3)
    await stage.becomes(3, ACTIVE)
    assert stage.releases.report().failures == ()
    assert stage.steps.count("prepare 2") == 1, "its fault is in itself: not tried again"


HEALS = {
    "peers away": ("fetching", ChunkMissing("no linked peer has them")),
    "disk full": ("fetching", SyncError("No space left")),
    "engine down": ("preparing", EngineUnavailable("down")),
}


@pytest.mark.parametrize(("where", "error"), HEALS.values(), ids=HEALS)
async def test_what_may_heal_is_tried_again(stage: Stage, where: str, error: GridError) -> None:
    setattr(stage, where, fails(error, error))
    stage.run()
    stage.follow(1)
    await stage.becomes(1, ACTIVE)
    failed = [one for one in stage.statuses if one.state is FAILED]
    assert [one.error for one in failed] == [error.message] * 2


async def test_an_error_is_cut_to_what_a_record_may_hold(stage: Stage) -> None:
    stage.preparing = fails(ReleaseFailed("x" * 100_000))
    stage.run()
    stage.follow(1)
    await stage.becomes(1, FAILED)
    assert len(stage.statuses[-1].error) == 2000


async def test_a_note_that_cannot_be_written_restarts_nothing(stage: Stage) -> None:
    stage.save_error = SyncError("No space left")
    stage.run()
    stage.follow(1)
    await stage.becomes(1, ACTIVE)
    await until(lambda: "keep [1]" in stage.steps)
    assert stage.steps.count("prepare 1") == 1


async def test_what_served_before_serves_again_first(stage: Stage) -> None:
    stage.run(resume=release(1))
    stage.follow(2)
    await stage.becomes(2, ACTIVE)
    activated = [step for step in stage.steps if step.startswith("activate")]
    assert activated == ["activate 1", "activate 2"]


async def test_what_is_not_adopted_is_reaped_once_the_last_release_serves_again(stage: Stage) -> None:
    stage.run(resume=release(1))
    stage.follow(2)
    await stage.becomes(2, ACTIVE)
    assert stage.reaps == [release(1)]


async def test_the_release_that_serves_again_is_not_started_twice(stage: Stage) -> None:
    stage.run(resume=release(1))
    stage.follow(1)
    await stage.becomes(1, ACTIVE)
    stage.follow(2)
    await stage.becomes(2, ACTIVE)
    assert stage.steps.count("prepare 1") == 1


@pytest.mark.parametrize("error", [ChunkMissing("gone"), ReleaseFailed("broken"), EngineUnavailable("down")], ids=repr)
async def test_one_that_cannot_serve_again_holds_up_nothing(stage: Stage, error: GridError) -> None:
    stage.preparing = fails(error)
    stage.run(resume=release(1))
    stage.follow(2)
    await stage.becomes(2, ACTIVE)


async def test_one_that_cannot_serve_again_at_first_is_tried_again_when_the_grid_wants_it(stage: Stage) -> None:
    stage.preparing = fails(EngineUnavailable("down"))
    stage.run(resume=release(1))
    stage.follow(1)
    await stage.becomes(1, ACTIVE)


async def test_stopping_stops_the_work(stage: Stage) -> None:
    stage.fetching = never
    stage.run()
    stage.follow(1)
    await until(lambda: stage.steps)
    assert stage.job
    stage.job.cancel()
    await asyncio.wait({stage.job}, timeout=5)
    assert stage.job.done()


async def test_images_that_it_names_are_waited_for_and_tried_again(stage: Stage) -> None:
    stage.shipping = fails(SyncError("image app:1 did not arrive"))
    tasks = (TaskSpec("a", "tasks/a.py", image="app:1"), TaskSpec("b", "tasks/b.py"))
    stage.run()
    stage.releases.follow(replace(release(1), tasks=tasks))
    await stage.becomes(1, ACTIVE)
    assert stage.steps[:4] == ["fetch 1", "images ['app:1']", "fetch 1", "images ['app:1']"]
    assert [one.error for one in stage.statuses if one.state is FAILED] == ["image app:1 did not arrive"]
