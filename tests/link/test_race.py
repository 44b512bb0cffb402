import asyncio
from collections.abc import Awaitable, Callable

import pytest

from gridnode.link import race as racing
from gridnode.link.race import race
from tests.fakes.peers import until

Attempt = Callable[[], Awaitable[str]]


class Course:
    """Attempts that end when they are told to."""

    def __init__(self, *names: str) -> None:
        self.ends = {name: asyncio.get_running_loop().create_future() for name in names}
        self.started: list[str] = []
        self.cancelled: list[str] = []
        self.undone: list[str] = []

    @property
    def attempts(self) -> list[Attempt]:
        return [lambda name=name: self._run(name) for name in self.ends]  # type: ignore[misc]

    async def _run(self, name: str) -> str:
        self.started.append(name)
        try:
            result: str = await self.ends[name]
        except asyncio.CancelledError:
            self.cancelled.append(name)
            raise
        return result

    def go(self) -> "asyncio.Task[str]":
        return asyncio.create_task(race(self.attempts, self.undone.append))

    async def until_started(self, count: int) -> None:
        await until(lambda: len(self.started) == count)


@pytest.fixture
def long_stagger(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(racing, "STAGGER", 60.0)


@pytest.fixture
def no_stagger(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(racing, "STAGGER", 0.001)


async def test_the_first_way_is_the_only_one_that_is_tried(long_stagger: None) -> None:
    course = Course("a", "b")
    course.ends["a"].set_result("by a")
    assert await course.go() == "by a"
    assert course.started == ["a"]


async def test_the_next_starts_when_one_fails(long_stagger: None) -> None:
    course = Course("a", "b")
    course.ends["a"].set_exception(OSError("a is down"))
    course.ends["b"].set_result("by b")
    assert await course.go() == "by b"


async def test_one_that_hangs_holds_up_nobody(no_stagger: None) -> None:
    course = Course("a", "b", "c")
    running = course.go()
    await course.until_started(3)
    course.ends["b"].set_result("by b")
    assert await running == "by b"
    await asyncio.sleep(0)
    assert sorted(course.cancelled) == ["a", "c"]


async def test_of_two_at_once_one_is_undone(no_stagger: None) -> None:
    course = Course("a", "b")
    running = course.go()
    await course.until_started(2)
    for name in ("a", "b"):
        course.ends[name].set_result(f"by {name}")
    won = await running
    assert {won, *course.undone} == {"by a", "by b"}
    assert len(course.undone) == 1


async def test_when_all_fail_the_last_says_why(long_stagger: None) -> None:
    course = Course("a", "b")
    course.ends["a"].set_exception(OSError("a is down"))
    course.ends["b"].set_exception(OSError("b is down"))
    with pytest.raises(OSError, match="b is down"):
        await course.go()
    with pytest.raises(ValueError, match="nothing"):
        await race([], print)


async def test_who_gives_up_leaves_nothing_running(no_stagger: None) -> None:
    course = Course("a", "b")
    running = course.go()
    await course.until_started(2)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await asyncio.sleep(0)
    assert sorted(course.cancelled) == ["a", "b"]
