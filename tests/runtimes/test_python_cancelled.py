"""`context.cancelled`: how a handler that nothing can stop learns that nobody waits any more."""

import json
from collections.abc import AsyncIterator

import pytest

from gridnode.model import NodeId
from gridnode.wire import Frame, Kind
from tests.fakes.process_sandbox import ProcessSandbox
from tests.runtimes.conformance import Serve, Subject, opened, shows
from tests.sandbox.conformance import Place

SOURCE = """
import time
from grid import context as current
ends = []
def works(event, context):
    give_up = time.monotonic() + event
    print("begun", flush=True)
    while not context.cancelled and time.monotonic() < give_up:
        time.sleep(0.001)
    ends.append([context.cancelled, current.cancelled])
    return ends[-1]
def asks(event, context):
    return [context.cancelled, current.cancelled]
def handler(): return ends
"""


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    place, sandbox = Place(NodeId("ab" * 20), "none"), ProcessSandbox()
    async with opened(place, sandbox, {"python": "none"}) as start:
        yield start
    await sandbox.clean()
    place.remove()


@pytest.mark.parametrize("concurrency", [1, 2])
async def test_it_is_true_once_the_call_is_taken_back(serve: Serve, concurrency: int) -> None:
    server = await serve(Subject("python", SOURCE), concurrency=concurrency)
    line = await server.line()
    assert await line.ask("req.asks") == [False, False]
    call = line.call("req.works", 20)
    assert await shows(server, "begun")
    line.send(Frame(Kind.CANCEL, call))
    frame = await line.receive()
    assert (frame.call_id, json.loads(frame.body)) == (call, [True, True])
    assert await line.ask("req.asks") == [False, False], "the next call is another"
    assert await line.ask("req") == [[True, True]]


@pytest.mark.parametrize("concurrency", [1, 2])
async def test_another_calls_cancel_is_none_of_its_own(serve: Serve, concurrency: int) -> None:
    line = await (await serve(Subject("python", SOURCE), concurrency=concurrency)).line()
    call = line.call("req.works", 0.2)
    line.send(Frame(Kind.CANCEL, call + 1000))
    assert line.result(await line.receive(), call) == [False, False]


@pytest.mark.parametrize("concurrency", [1, 2])
async def test_it_is_true_past_the_deadline(serve: Serve, concurrency: int) -> None:
    line = await (await serve(Subject("python", SOURCE), concurrency=concurrency)).line()
    call = line.call("req.works", 20, deadline_ms=50)
    assert line.result(await line.receive(), call) == [True, True]


@pytest.mark.parametrize("concurrency", [1, 2])
async def test_it_is_true_when_the_node_is_gone(serve: Serve, concurrency: int) -> None:
    server = await serve(Subject("python", SOURCE), concurrency=concurrency)
    line = await server.line()
    line.call("req.works", 20)
    assert await shows(server, "begun")
    line.close()
    ends = await (await server.line()).ask("req")
    assert ends == [[True, True]]
