"""The conformance suite on the fake that the unit tests of the pool use: it may not promise more than the real one."""

from collections.abc import AsyncIterator, Iterator

import pytest

from gridnode.model import NodeId
from tests.fakes.process_sandbox import Children, ProcessSandbox
from tests.sandbox.conformance import Place, SandboxConformance


@pytest.fixture
def place() -> Iterator[Place]:
    place = Place(NodeId("ab" * 20), "none")
    yield place
    place.remove()


@pytest.fixture
def children() -> Children:
    return {}


@pytest.fixture
async def sandbox(children: Children) -> AsyncIterator[ProcessSandbox]:
    sandbox = ProcessSandbox(children)
    yield sandbox
    await sandbox.clean()


@pytest.fixture
async def again(children: Children) -> AsyncIterator[ProcessSandbox]:
    sandbox = ProcessSandbox(children)
    yield sandbox
    await sandbox.clean()


class TestProcessSandbox(SandboxConformance):
    pass
