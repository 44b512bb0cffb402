"""The suite on this machine's Python, shell and, where there is one, Node; without isolation."""

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gridnode.model import NodeId
from tests.fakes.process_sandbox import ProcessSandbox
from tests.runtimes.conformance import RuntimeConformance, Serve, opened, table
from tests.sandbox.conformance import Place

DOCUMENT = Path(__file__).parent.parent.parent / "docs" / "runtimes.md"


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    place, sandbox = Place(NodeId("ab" * 20), "none"), ProcessSandbox()
    available = {"python", "exec", "http", *(["node"] if shutil.which("node") else [])}
    async with opened(place, sandbox, dict.fromkeys(available, "none")) as start:
        yield start
    await sandbox.clean()
    place.remove()


class TestRuntimes(RuntimeConformance):
    pass


def test_the_documented_table_is_what_the_suite_runs() -> None:
    assert table() in DOCUMENT.read_text()
