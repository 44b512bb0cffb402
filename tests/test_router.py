import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from gridnode import router as module
from gridnode.errors import (
    BodyTooLarge,
    CallTimeout,
    GridError,
    LinkClosed,
    NoCapacity,
    NodeLost,
    NodeNotFound,
    NoNode,
    NotReady,
    TaskCrashed,
    TaskNotFound,
    TaskRaised,
)
from gridnode.link import Cancel
from gridnode.model import Done, Invocation, InvocationId, Load, NodeId, NodeRecord, Outcome, TaskName
from gridnode.router import Router, Target
from tests.fakes.peers import until

A, B, C = (NodeId(letter * 40) for letter in "abc")
ECHO = TaskName("echo")
Behaviour = Callable[[Invocation, Done], None]


def works(call: Invocation, done: Done) -> None:
    done(Outcome(b"ok"))


def hangs(call: Invocation, done: Done) -> None:
    """No answer yet."""


def fails(error: GridError, started: bool = False) -> Behaviour:
    return lambda call, done: done(Outcome(error=error, started=started))


def later(behaviour: Behaviour) -> Behaviour:
    def run(call: Invocation, done: Done) -> None:
        asyncio.get_running_loop().call_soon(behaviour, call, done)

    return run


class Place:
    """A node that can be called."""

    def __init__(self, node: NodeId, name: str, behaviour: Behaviour = works) -> None:
        self.record = NodeRecord(node, name, 1, 0, (), "1", 0, Load(0, 1), None, (ECHO,))
        self.behaviour = behaviour
        self.calls: list[Invocation] = []
        self.dones: list[Done] = []
        self.cancels = 0

    def invoke(self, call: Invocation, done: Done) -> Cancel:
        self.calls.append(call)
        self.dones.append(done)
        self.behaviour(call, done)
        return self._cancel

    def _cancel(self) -> None:
        self.cancels += 1


class Grid:
    def __init__(self, *behaviours: Behaviour) -> None:
        self.places = [Place(node, name, does) for node, name, does in zip((A, B, C), "xyz", behaviours, strict=False)]
        self.router = Router(lambda: [Target(place.record, place) for place in self.places])
        self.outcomes: list[Outcome] = []

    def call(self, task: TaskName = ECHO, node: str = "", seconds: float = 9.0) -> Cancel:
        deadline = asyncio.get_running_loop().time() + seconds
        return self.router.route(Invocation(InvocationId("i"), task, b"1", deadline), self.outcomes.append, node)

    async def outcome(self, **options: Any) -> Outcome:
        self.call(**options)
        await until(lambda: self.outcomes)
        assert len(self.outcomes) == 1
        return self.outcomes.pop()

    @property
    def tried(self) -> list[int]:
        return [len(place.calls) for place in self.places]


def counted(grid: Grid) -> dict[NodeId, int]:
    return dict(grid.router._in_flight)


# -- spreading ------------------------------------------------------------------------------------------------------


async def test_calls_one_after_the_other_go_round() -> None:
    grid = Grid(works, works, works)
    nodes = Counter([(await grid.outcome()).node for _ in range(30)])
    assert nodes == {A: 10, B: 10, C: 10}


async def test_calls_at_once_spread_too() -> None:
    grid = Grid(hangs, hangs, hangs)
    for _ in range(30):
        grid.call()
    assert grid.tried == [10, 10, 10]
    assert counted(grid) == {A: 10, B: 10, C: 10}


async def test_a_loaded_node_is_avoided() -> None:
    grid = Grid(works, hangs, works)
    for _ in range(60):
        grid.call()
    assert grid.tried[1] <= 2
    assert len(grid.outcomes) >= 58


async def test_what_a_node_says_of_its_load_counts() -> None:
    grid = Grid(works, works)
    grid.places[0].record = NodeRecord(A, "x", 1, 0, (), "1", 0, Load(50, 1), None, (ECHO,))
    for _ in range(10):
        grid.call()
    assert grid.tried == [0, 10]


# -- moving on ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wait", [False, True])
@pytest.mark.parametrize(
    "refusal", [NoCapacity("full"), LinkClosed("gone"), TaskNotFound("none"), NotReady("starting")]
)
async def test_a_refused_call_moves_on(refusal: GridError, wait: bool) -> None:
    refuse = later(fails(refusal)) if wait else fails(refusal)
    grid = Grid(refuse, refuse, works)
    outcome = await grid.outcome()
    assert (outcome.body, outcome.node, outcome.name) == (b"ok", C, "z")
    assert outcome.attempts == sum(grid.tried)
    assert sorted(grid.tried)[-1] == 1
    assert counted(grid) == {}


@pytest.mark.parametrize("refusal", [NoCapacity("full"), LinkClosed("gone")])
async def test_a_call_refused_everywhere_says_so(refusal: GridError) -> None:
    outcome = await Grid(*[fails(refusal)] * 3).outcome()
    assert outcome.error is refusal
    assert outcome.attempts == 3


@pytest.mark.parametrize(
    ("error", "started"),
    [
        (NodeLost("lost"), True),
        (TaskCrashed("crashed"), True),
        (TaskRaised("raised"), True),
        (CallTimeout("late"), True),
        (NoCapacity("full"), True),
        (LinkClosed("closed"), True),
        (BodyTooLarge("large"), False),
        (CallTimeout("late"), False),
    ],
    ids=repr,
)
async def test_what_may_have_started_or_cannot_succeed_is_not_tried_again(error: GridError, started: bool) -> None:
    grid = Grid(*[fails(error, started)] * 3)
    outcome = await grid.outcome()
    assert outcome.error is error
    assert (sum(grid.tried), outcome.attempts) == (1, 1)
    assert outcome.node in (A, B, C)


async def test_a_grid_of_refusing_nodes_is_not_asked_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_ATTEMPTS", 2)
    assert (await Grid(*[fails(NoCapacity("full"))] * 3).outcome()).attempts == 2


async def test_a_node_that_went_away_meanwhile_is_passed_over() -> None:
    grid = Grid(hangs, hangs, hangs)
    grid.call()
    first = next(place for place in grid.places if place.calls)
    gone = next(place for place in grid.places if not place.calls)
    grid.places.remove(gone)
    grid.router.refresh()
    assert grid.router.tasks == [ECHO]
    first.dones[0](Outcome(error=NoCapacity("full"), started=False))
    last = next(place for place in grid.places if place is not first)
    assert (len(last.calls), len(gone.calls)) == (1, 0)
    last.dones[0](Outcome(b"ok"))
    assert (grid.outcomes[0].node, grid.outcomes[0].attempts) == (last.record.id, 2)


# -- deadlines and cancels ------------------------------------------------------------------------------------------


async def test_a_call_that_nobody_answers_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_GRACE", 0.02)
    grid = Grid(hangs)
    outcome = await grid.outcome(seconds=0.02)
    assert isinstance(outcome.error, CallTimeout)
    assert (outcome.node, outcome.name, grid.places[0].cancels) == (A, "x", 1)
    assert counted(grid) == {}
    grid.places[0].dones[0](Outcome(b"late"))
    assert grid.outcomes == []


async def test_a_call_answered_in_time_leaves_no_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_GRACE", 0.0)
    grid = Grid(works)
    await grid.outcome(seconds=0.01)
    await asyncio.wait({asyncio.ensure_future(asyncio.sleep(0.03))})
    assert grid.outcomes == []


async def test_cancel_reaches_the_node_and_no_outcome_follows() -> None:
    grid = Grid(hangs)
    cancel = grid.call()
    cancel()
    cancel()
    grid.places[0].dones[0](Outcome(b"late"))
    assert (grid.outcomes, grid.places[0].cancels, counted(grid)) == ([], 1, {})


async def test_cancel_after_a_move_reaches_the_node_that_has_the_call() -> None:
    grid = Grid(later(fails(NoCapacity("full"))), hangs)
    cancel = grid.call()
    await until(lambda: grid.places[1].calls)
    cancel()
    assert [place.cancels for place in grid.places] == [0, 1]


async def test_cancel_after_the_outcome_does_nothing() -> None:
    grid = Grid(works)
    grid.call()()
    assert (len(grid.outcomes), grid.places[0].cancels) == (1, 0)


# -- names ----------------------------------------------------------------------------------------------------------


async def test_a_node_by_name_id_or_prefix() -> None:
    grid = Grid(works, works, works)
    for wanted, node in (("y", B), (B, B), ("cc", C), ("a", A)):
        assert (await grid.outcome(node=wanted)).node == node


@pytest.mark.parametrize("wanted", ["nobody", "d", "a" * 41, "\0"])
async def test_a_node_that_is_not_there(wanted: str) -> None:
    outcome = await Grid(works, works).outcome(node=wanted)
    assert isinstance(outcome.error, NodeNotFound)
    assert "x, y" in outcome.error.message
    assert (outcome.attempts, outcome.started) == (0, False)


async def test_a_name_that_two_nodes_have_is_ambiguous() -> None:
    grid = Grid(works, works)
    grid.places[1].record = NodeRecord(B, "x", 1, 0, (), "1", 0, Load(0, 1), None, (ECHO,))
    outcome = await grid.outcome(node="x")
    assert outcome.error
    assert "more than one" in outcome.error.message
    grid.places[1] = Place(NodeId("a" + "b" * 39), "y")
    grid.router.refresh()
    assert isinstance((await grid.outcome(node="a")).error, NodeNotFound)


async def test_a_call_for_one_node_does_not_move_on() -> None:
    grid = Grid(works, fails(NoCapacity("full")))
    outcome = await grid.outcome(node="y")
    assert isinstance(outcome.error, NoCapacity)
    assert grid.tried == [0, 1]


async def test_an_unknown_task_names_near_ones() -> None:
    grid = Grid(works)
    outcome = await grid.outcome(task=TaskName("ecoh"))
    assert isinstance(outcome.error, TaskNotFound)
    assert "did you mean echo?" in outcome.error.message
    far = await grid.outcome(task=TaskName("zzzzzz"))
    assert far.error
    assert "there are: echo" in far.error.message


async def test_a_grid_without_tasks_or_nodes() -> None:
    assert isinstance((await Grid().outcome()).error, NoNode)


async def test_turns_of_tasks_that_are_gone_are_forgotten() -> None:
    grid = Grid(works)
    for n in range(100):
        name = TaskName(f"t{n}")
        grid.places[0].record = NodeRecord(A, "x", 1, 0, (), "1", 0, Load(), None, (name,))
        grid.router.refresh()
        await grid.outcome(task=name)
    assert len(grid.router._turns) <= 1


# -- draining -------------------------------------------------------------------------------------------------------


def drain(grid: Grid, *numbers: int) -> None:
    for number in numbers:
        grid.places[number].record = msgspec.structs.replace(grid.places[number].record, draining=True)
    grid.router.refresh()


async def test_a_node_that_drains_gets_no_call() -> None:
    grid = Grid(works, works, works)
    drain(grid, 0)
    for _ in range(6):
        assert not (await grid.outcome()).error
    assert grid.tried == [0, 3, 3]


async def test_with_every_node_draining_a_call_is_refused() -> None:
    grid = Grid(works, works)
    drain(grid, 0, 1)
    outcome = await grid.outcome()
    assert (type(outcome.error), outcome.started) == (NotReady, False)


async def test_it_is_drained_when_no_call_is_under_way() -> None:
    grid = Grid(hangs)
    await grid.router.drained()
    grid.call()
    waiting = asyncio.ensure_future(grid.router.drained())
    await asyncio.sleep(0)
    assert not waiting.done()
    grid.places[0].dones[0](Outcome(b"at last"))
    async with asyncio.timeout(5):
        await waiting
