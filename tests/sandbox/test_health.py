"""Health of instances on the real runtime: the gate before they serve, and the questions while they do."""

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from gridnode.errors import ReleaseFailed
from gridnode.model import Process
from gridnode.sandbox.health import HealthPolicy
from tests.fakes.peers import until
from tests.sandbox.test_pool import LIMITS, Ground

POLICY = HealthPolicy(every=0.05, timeout=5.0, again=0.01, failures=3)
TASK = """
import time
from pathlib import Path

def handler(event):
    time.sleep(event or 0)
    return "served"

def well():
    place = Path({place!r})
    said = place.read_text()
    with place.with_suffix(".asked").open("a") as asked:
        asked.write("x")
    if said == "hang":
        time.sleep(60)
    if said == "sometimes":
        return place.with_suffix(".asked").stat().st_size % 3 == 0
    if said == "raise":
        raise RuntimeError("no database")
    return said != "false"
"""
ASYNC = TASK.replace("def handler", "async def handler").replace("def well", "async def well")


class Patient(Ground):
    """A Ground whose task says what a file says."""

    def __init__(self, directory: Path, run_dir: Path, policy: HealthPolicy) -> None:
        super().__init__(directory, run_dir, replace(LIMITS, health=policy))
        self.place = directory / "said"
        self.says("ok")

    def says(self, text: str) -> None:
        fresh = self.place.with_suffix(".new")
        fresh.write_text(text)
        fresh.rename(self.place)

    @property
    def asked(self) -> int:
        """How often it was asked."""
        counted = self.place.with_suffix(".asked")
        return counted.stat().st_size if counted.exists() else 0

    async def begin(self, number: int = 1, source: str = TASK, health: str = "well") -> None:
        release, directory = self.release(number, echo=source.format(place=str(self.place)))
        tasks = tuple(msgspec.structs.replace(task, health=health) for task in release.tasks)
        self.pool.activate(await self.pool.prepare(msgspec.structs.replace(release, tasks=tasks), directory))

    def only(self) -> Process:
        return next(one for one in self.pool.processes() if one.state != "draining")


@pytest.fixture
async def ground(tmp_path: Path) -> AsyncIterator[Patient]:
    with tempfile.TemporaryDirectory(prefix="gr-") as name:
        made = Patient(tmp_path, Path(name), POLICY)
        yield made
        await made.pool.close()
        left = await made.sandbox.running()
        await made.sandbox.clean()
        assert (left, os.listdir(name)) == ([], [])


@pytest.mark.parametrize("source", [TASK, ASYNC], ids=["sync", "async"])
async def test_one_that_is_well_serves_and_goes_on_being_asked(ground: Patient, source: str) -> None:
    await ground.begin(source=source)
    assert ground.asked == 1
    assert await ground.result("echo") == "served"
    await until(lambda: ground.asked > 4, "it is asked again and again")
    assert ground.only().restarts == 0


@pytest.mark.parametrize(("said", "why"), [("raise", "RuntimeError: no database"), ("false", "well said false")])
async def test_a_release_that_is_not_well_fails_and_the_one_before_serves_on(
    ground: Patient, said: str, why: str
) -> None:
    await ground.begin(1)
    ground.says(said)
    asked = ground.asked
    with pytest.raises(ReleaseFailed) as caught:
        await ground.begin(2)
    assert caught.value.failures[0].message == f"tasks/echo.py: unhealthy: {why}"
    assert ground.asked >= asked + POLICY.failures
    assert ground.pool.release
    assert ground.pool.release.sequence == 1
    ground.says("ok")
    assert await ground.result("echo") == "served"


async def test_one_that_needs_a_moment_is_given_it(ground: Patient) -> None:
    ground.says("false")
    beginning = asyncio.create_task(ground.begin())
    await until(lambda: ground.asked, "it is asked")
    ground.says("ok")
    await beginning
    assert await ground.result("echo") == "served"


async def test_a_function_that_is_not_there_is_named(ground: Patient) -> None:
    with pytest.raises(ReleaseFailed, match=r"no public function wel in the file; there are echo, echo\.well"):
        await ground.begin(health="wel")


async def test_the_handler_itself_may_be_asked(ground: Patient) -> None:
    await ground.begin(health="handler")
    assert await ground.result("echo") == "served"


@pytest.mark.parametrize("said", ["raise", "false"])
async def test_three_failures_in_a_row_replace_it(ground: Patient, said: str) -> None:
    await ground.begin()
    before = ground.only().instance
    ground.says(said)
    await until(lambda: ground.only().state != "ready", "it is taken away")
    assert "unhealthy: " in ground.only().why
    ground.says("ok")
    await until(lambda: ground.only().state == "ready", "another one serves")
    assert ground.only().instance != before
    assert await ground.result("echo") == "served"


async def test_one_failure_is_no_reason(ground: Patient) -> None:
    await ground.begin()
    before = ground.only().instance
    asked = ground.asked
    ground.says("sometimes")
    await until(lambda: ground.asked > asked + 12, "it is asked again and again")
    assert (ground.only().instance, ground.only().restarts) == (before, 0)


async def test_one_that_does_not_answer_is_replaced(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="gr-") as name:
        ground = Patient(tmp_path, Path(name), replace(POLICY, timeout=0.5))
        await ground.begin()
        ground.says("hang")
        await until(lambda: ground.only().state != "ready", "it is taken away")
        assert "unhealthy: well " in ground.only().why
        ground.says("ok")
        await until(lambda: ground.only().state == "ready", "another one serves")
        await ground.pool.close()
        await ground.sandbox.clean()


async def test_one_that_is_busy_is_not_asked(ground: Patient) -> None:
    await ground.begin()
    before = ground.only().instance
    outcomes, _ = ground.call("echo", 1.0)
    await until(lambda: outcomes, "an outcome")
    assert outcomes[0].error is None
    assert ground.only().instance == before
