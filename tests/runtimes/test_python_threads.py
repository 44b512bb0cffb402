"""Sync handlers of a file with `concurrency = N`: on N threads."""

from collections.abc import AsyncIterator

import pytest

from gridnode import wire
from gridnode.model import NodeId
from gridnode.wire import Frame, Kind
from tests.fakes.process_sandbox import ProcessSandbox
from tests.runtimes.conformance import Serve, Subject, opened
from tests.sandbox.conformance import Place

SOURCE = """
import threading
go = threading.Event()
started = []
def waits(event):
    started.append(event)
    go.wait(15)
    return event
def handler(): return started
def lets_go(): go.set()
"""


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    place, sandbox = Place(NodeId("ab" * 20), "none"), ProcessSandbox()
    async with opened(place, sandbox, {"python": "none"}) as start:
        yield start
    await sandbox.clean()
    place.remove()


async def test_a_thread_that_runs_keeps_its_call_until_it_has_ended(serve: Serve) -> None:
    line = await (await serve(Subject("python", SOURCE), concurrency=2)).line()
    call = line.call("req.waits", "on")
    line.send(Frame(Kind.CANCEL, call))
    line.send(Frame(Kind.PING, 7))
    assert (await line.receive())[:2] == (Kind.PONG, 7)
    assert await line.ask("req") == ["on"]
    letting = line.call("req.lets_go")
    found = {frame.call_id: frame for frame in [await line.receive(), await line.receive()]}
    assert line.result(found[call], call) == "on"
    assert line.result(found[letting], letting) is None


async def test_a_call_without_a_thread_yet_can_be_taken_back(serve: Serve) -> None:
    line = await (await serve(Subject("python", SOURCE), concurrency=2)).line()
    calls = [line.call("req.waits", n) for n in range(3)]
    line.send(Frame(Kind.CANCEL, calls[2]))
    frame = await line.receive()
    assert frame.call_id == calls[2]
    assert frame.flags & wire.FLAG_ERROR
    line.close()
