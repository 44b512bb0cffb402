"""Calls that stream, on their way: when another node may be tried, and what an instance is given meanwhile."""

import asyncio
from collections.abc import Callable

import pytest

from gridnode import wire
from gridnode.errors import GridError, LinkClosed, NodeLost, NotReady, TaskCrashed
from gridnode.flow import Stream
from gridnode.keyed import Keyed
from gridnode.link import Cancel, nothing_to_cancel
from gridnode.model import Done, Invocation, InvocationId, NodeId, NodeRecord, Outcome, TaskName
from gridnode.receipts import Receipts
from gridnode.router import Router, Target
from gridnode.sandbox.calls import Calls
from gridnode.sandbox.instance import Handler
from gridnode.sandbox.waiting import Waiting
from gridnode.wire import Frame, Kind

TASK = TaskName("t")
Behaviour = Callable[[Invocation, Done], None]


class Place:
    """A node that can be called."""

    def __init__(self, letter: str, behaviour: Behaviour) -> None:
        self.target = Target(NodeRecord(NodeId(letter * 40), letter, 1, 0, (), "1", 0, tasks=(TASK,)), self)
        self.behaviour = behaviour
        self.calls = 0

    def invoke(self, call: Invocation, done: Done) -> Cancel:
        self.calls += 1
        self.behaviour(call, done)
        return nothing_to_cancel


def new_call(items: list[bytes], **fields: object) -> Invocation:
    deadline = asyncio.get_running_loop().time() + 5
    given = {"id": InvocationId(""), "task": TASK, "body": b"", "deadline": deadline, "stream": Stream(items.append)}
    return Invocation(**(given | fields))  # type: ignore[arg-type]


def after(items: int, outcome: Outcome) -> Behaviour:
    """Sends so many items, then ends so."""

    def run(call: Invocation, done: Done) -> None:
        assert call.stream
        for _ in range(items):
            call.stream.take(b"1")
        done(outcome)

    return run


@pytest.mark.parametrize("outcome", [Outcome(error=NodeLost("x")), Outcome(error=NotReady("x"), started=False)])
@pytest.mark.parametrize(("items", "nodes"), [(0, 2), (1, 1)])
async def test_no_other_node_is_tried_after_the_first_item(outcome: Outcome, items: int, nodes: int) -> None:
    places = [Place(letter, after(items, outcome)) for letter in "ab"]
    router = Router(lambda: [place.target for place in places], is_idempotent=lambda task, sequence: True)
    got: list[bytes] = []
    ends: list[Outcome] = []
    router.route(new_call(got), ends.append)
    assert sum(place.calls for place in places) == nodes
    assert (len(got), ends[0].attempts) == (items, nodes)
    assert ends[0].error is outcome.error


async def test_a_stream_has_no_idempotency_key() -> None:
    place = Place("a", after(1, Outcome()))
    ends: list[Outcome] = []
    Keyed(place, Receipts(60, 10, 1000)).invoke(new_call([], key="k"), ends.append)
    assert ends[0].error
    assert (ends[0].error.code, ends[0].started, place.calls) == ("body_invalid", False, 0)


class Inside:
    """An instance, as calls see one, which runs one at a time."""

    id = "ab" * 4
    is_ready = True
    is_calling = False

    def __init__(self) -> None:
        self.handlers = {TASK: Handler(TASK)}
        self.calls: list[tuple[Invocation, Done]] = []

    def invoke(self, call: Invocation, done: Done) -> Cancel:
        self.calls.append((call, done))
        return nothing_to_cancel


def seated() -> tuple[Calls, Inside]:
    calls, inside = Calls(Waiting(100, 10_000), 60.0, lambda seat: None), Inside()
    calls.add(inside)  # type: ignore[arg-type]
    return calls, inside


async def test_nothing_is_sent_early_behind_a_stream() -> None:
    """However short calls have been: it lasts as long as its reader."""
    calls, inside = seated()
    for _ in range(20):
        calls.invoke(new_call([], stream=None), lambda outcome: None)
        inside.calls[-1][1](Outcome())
    seat = calls.seats[inside.id]  # type: ignore[index]
    pace = seat.pace
    calls.invoke(new_call([], stream=None), lambda outcome: None)
    calls.invoke(new_call([], stream=None), lambda outcome: None)
    assert len(seat.inside) == 2
    for _, done in inside.calls[-2:]:
        done(Outcome())
    calls.invoke(new_call([]), lambda outcome: None)
    calls.invoke(new_call([], stream=None), lambda outcome: None)
    assert (len(seat.inside), seat.streams, calls.in_flight) == (1, 1, 2)
    await asyncio.sleep(0.005)
    inside.calls[-1][1](Outcome())
    assert (len(seat.inside), seat.streams) == (1, 0)
    assert seat.pace <= max(pace, 0.002)
    calls.close()


async def test_a_call_that_has_sent_items_does_not_run_again() -> None:
    """Whatever place in the order it had: a sandbox may send of any call inside it."""
    calls, inside = seated()
    ends: list[Outcome] = []
    call = new_call([])
    calls.invoke(call, ends.append)
    calls.seats[inside.id].crashed = True  # type: ignore[index]
    assert call.stream
    call.stream.take(b"1")
    inside.calls[0][1](Outcome(error=TaskCrashed("gone"), started=False))
    calls.close()
    assert len(inside.calls) == 1
    assert isinstance(ends[0].error, TaskCrashed)


def test_errors_of_a_reply() -> None:
    with pytest.raises(LinkClosed):
        wire.read_reply(LinkClosed("x"))
    with pytest.raises(GridError, match="no"):
        wire.read_reply(Frame(Kind.REPLY, 1, 0, wire.FLAG_ERROR, body=wire.encode_error(NotReady("no"))))
    assert wire.read_reply(Frame(Kind.REPLY, 1, body=b"x")) == b"x"
