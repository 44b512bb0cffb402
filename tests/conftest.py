"""Async tests run on uvloop, as a node does; every one must end with no job left behind."""

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable

import pytest
import uvloop
from hypothesis import HealthCheck, settings

_PATIENCE = 5.0

# How long an example takes says how busy the machine is, nothing of the code.
settings.register_profile("grid", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("grid")


def pytest_asyncio_loop_factories(item: pytest.Item) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """A module with BOTH_LOOPS runs on asyncio's own loop too."""
    module = getattr(item, "module", None)
    both = {"asyncio": asyncio.new_event_loop} if getattr(module, "BOTH_LOOPS", False) else {}
    return {"uvloop": uvloop.new_event_loop, **both}


@pytest.fixture
async def jobs_end() -> AsyncIterator[None]:
    """Fail a test whose jobs outlive it; those that are being cancelled get a moment to end."""
    before = asyncio.all_tasks()
    yield
    left = asyncio.all_tasks() - before - {asyncio.current_task()}
    pending = (await asyncio.wait(left, timeout=_PATIENCE))[1] if left else set()
    assert sorted(str(job.get_coro()) for job in pending) == [], "jobs outlive the test"


@pytest.fixture(autouse=True)
def no_job_is_left(request: pytest.FixtureRequest) -> None:
    if inspect.iscoroutinefunction(getattr(request, "function", None)):
        request.getfixturevalue("jobs_end")
