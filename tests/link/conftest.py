"""A place where links meet, of both kinds."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.fakes.peers import SMALL, End, Hop, hop


@pytest.fixture(params=["unix", "tls"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def end() -> End:
    return End()


@pytest.fixture
async def place(kind: str, end: End, tmp_path: Path) -> AsyncIterator[Hop]:
    async with hop(kind, end, tmp_path) as place:
        yield place


@pytest.fixture
async def small(kind: str, end: End, tmp_path: Path) -> AsyncIterator[Hop]:
    """The accepting side has narrow bounds."""
    async with hop(kind, end, tmp_path, SMALL) as place:
        yield place
