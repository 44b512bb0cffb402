"""What the engine did not remove is removed when it answers again, and nothing else is."""

import asyncio
from collections.abc import AsyncIterator
from typing import cast

import pytest

from gridnode.errors import EngineUnavailable, GridError, SandboxError
from gridnode.model import InstanceId
from gridnode.sandbox import Held, Sandbox, sweep
from gridnode.sandbox.sweep import Sweep
from tests.fakes.peers import until

A, B, C = (InstanceId(letter * 8) for letter in "abc")
NO_ENGINE = EngineUnavailable("no container engine answers")


class Engine:
    """A backend that fails as told. refuses: by instance, None for the listing."""

    def __init__(self, *held: InstanceId) -> None:
        self.there = set(held)
        self.refuses: dict[InstanceId | None, GridError] = {}
        self.listings = 0
        self.swept: list[tuple[str, float]] = []

    async def held(self) -> list[Held]:
        self.listings += 1
        if None in self.refuses:
            raise self.refuses[None]
        return [Held(instance, "", "echo", "", True) for instance in self.there]

    async def stop(self, instance: InstanceId, grace: float) -> None:
        if instance in self.refuses:
            raise self.refuses[instance]
        self.there.discard(instance)

    async def sweep(self, grid: str, age: float) -> int:
        self.swept.append((grid, age))
        raise NO_ENGINE


@pytest.fixture
def engine() -> Engine:
    return Engine(A, B, C)


@pytest.fixture
async def swept(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Sweep]:
    for name in ("_AGAIN_FIRST", "_AGAIN_LAST", "_EVERY"):
        monkeypatch.setattr(sweep, name, 0.01)
    swept = Sweep(cast(Sandbox, engine), "the-grid")
    job = asyncio.create_task(swept.run())
    yield swept
    job.cancel()
    await asyncio.wait([job])


async def test_what_is_owed_goes_when_the_engine_answers_again(engine: Engine, swept: Sweep) -> None:
    engine.refuses[None] = NO_ENGINE
    swept.owe(A)
    await until(lambda: engine.listings > 2, "it asks again")
    swept.owe(B)
    assert engine.there == {A, B, C}
    engine.refuses.clear()
    await until(lambda: engine.there == {C}, "both are gone, and nothing else")


async def test_one_that_cannot_be_removed_holds_up_no_other(engine: Engine, swept: Sweep) -> None:
    engine.refuses[A] = SandboxError("the container engine refused: device busy")
    swept.owe(A)
    swept.owe(B)
    await until(lambda: engine.there == {A, C}, "the other is gone")
    seen = engine.listings
    await until(lambda: engine.listings > seen + 1, "it goes on asking")
    del engine.refuses[A]
    await until(lambda: engine.there == {C}, "all that was owed is gone")


async def test_nothing_is_asked_while_nothing_is_owed(engine: Engine, swept: Sweep) -> None:
    swept.owe(A)
    await until(lambda: A not in engine.there, "it is gone")
    asked = engine.listings
    await until(lambda: len(engine.swept) > 5, "an engine that fails is asked again for what ended")
    assert engine.listings == asked
    assert {grid for grid, _ in engine.swept} == {"the-grid"}
