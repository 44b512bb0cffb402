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
from gridnode.model import (
    Done,
    Invocation,
    InvocationId,
    Load,
    NodeId,
    NodeRecord,
    Outcome,
    ReleaseState,
    ReleaseStatus,
    Root,
    TaskName,
)
from gridnode.placement import ENOUGH
from gridnode.router import Router, RouterLimits, Target
from tests.fakes.peers import until

A, B, C = (NodeId(letter * 40) for letter in "abc")
ECHO = TaskName("echo")
LIMITS = RouterLimits()
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
    """idempotent: sequences of releases that say so of every task."""

    def __init__(self, *behaviours: Behaviour, limits: RouterLimits = LIMITS, idempotent: tuple[int, ...] = ()) -> None:
        self.places = [Place(node, name, does) for node, name, does in zip((A, B, C), "xyz", behaviours, strict=False)]
        self.router = Router(
            lambda: [Target(place.record, place) for place in self.places],
            limits,
            lambda task, sequence: sequence in idempotent,
            B,
        )
        self.outcomes: list[Outcome] = []

    def call(
        self,
        task: TaskName = ECHO,
        node: str = "",
        seconds: float = 9.0,
        body: bytes = b"1",
        key: str = "",
        spread: int = 0,
    ) -> Cancel:
        deadline = asyncio.get_running_loop().time() + seconds
        call = Invocation(InvocationId("i"), task, body, deadline, b'{"id":"i","attempt":1}', key)
        return self.router.route(call, self.outcomes.append, node, spread)

    def serves(self, *numbers: int, sequence: int, state: ReleaseState = ReleaseState.ACTIVE) -> None:
        """What the nodes say of the release they serve."""
        for number in numbers:
            place = self.places[number]
            status = ReleaseStatus(sequence, Root("0" * 64), state)
            place.record = msgspec.structs.replace(place.record, release=status)
        self.router.refresh()

    async def outcome(self, **options: Any) -> Outcome:
        self.call(**options)
        await until(lambda: self.outcomes)
        assert len(self.outcomes) == 1
        return self.outcomes.pop()

    @property
    def tried(self) -> list[int]:
        return [len(place.calls) for place in self.places]


def counted(grid: Grid) -> dict[NodeId, int]:
    return {node: gauge.mine for node, gauge in grid.router._gauges.items() if gauge.mine}


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


async def test_a_caller_that_spreads_its_calls_is_spared_the_hop() -> None:
    grid = Grid(hangs, hangs, hangs)
    for _ in range(160):
        grid.call(spread=3)
    assert grid.tried[1] >= 150, "but for a few that find out how long it takes elsewhere"
    assert grid.tried[0] + grid.tried[2] >= 5


async def test_but_not_where_it_does_not_reach_all_nodes() -> None:
    grid = Grid(works, works, works)
    for _ in range(30):
        grid.call(spread=2)
    assert grid.tried == [10, 10, 10]


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


async def test_a_grid_of_refusing_nodes_is_not_asked_without_end() -> None:
    grid = Grid(*[fails(NoCapacity("full"))] * 3, limits=RouterLimits(attempts=2))
    assert (await grid.outcome()).attempts == 2


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


# -- may have started -----------------------------------------------------------------------------------------------


def lost(call: Invocation, done: Done) -> None:
    done(Outcome(error=NodeLost("lost")))


@pytest.mark.parametrize("error", [NodeLost("lost"), TaskCrashed("crashed")], ids=repr)
async def test_a_call_of_an_idempotent_task_runs_again_elsewhere(error: GridError) -> None:
    grid = Grid(fails(error, started=True), fails(error, started=True), works, idempotent=(7,))
    grid.serves(0, 1, 2, sequence=7)
    for _ in range(6):
        outcome = await grid.outcome()
        assert (outcome.error, outcome.node, outcome.body) == (None, C, b"ok")
        assert outcome.attempts <= 3
    metas = [msgspec.json.decode(call.meta) for place in grid.places for call in place.calls]
    assert {meta["attempt"] for meta in metas} == {1, 2, 3}
    assert {meta["id"] for meta in metas} == {"i"}


@pytest.mark.parametrize(
    ("sequence", "state"),
    [(6, ReleaseState.ACTIVE), (7, ReleaseState.FETCHING), (7, ReleaseState.STARTING), (7, ReleaseState.FAILED)],
)
async def test_not_where_another_release_may_have_served_it(sequence: int, state: ReleaseState) -> None:
    grid = Grid(lost, lost, lost, idempotent=(7,))
    grid.serves(0, 1, 2, sequence=sequence, state=state)
    assert (await grid.outcome()).attempts == 1
    assert sum(grid.tried) == 1


@pytest.mark.parametrize("error", [TaskRaised("raised"), CallTimeout("late"), NoCapacity("full")], ids=repr)
async def test_an_idempotent_task_that_answered_is_not_asked_again(error: GridError) -> None:
    grid = Grid(*[fails(error, started=True)] * 3, idempotent=(7,))
    grid.serves(0, 1, 2, sequence=7)
    outcome = await grid.outcome()
    assert (outcome.error, outcome.attempts) == (error, 1)


async def test_a_call_that_kills_every_node_is_not_passed_on_without_end() -> None:
    grid = Grid(lost, lost, lost, limits=RouterLimits(runs=2), idempotent=(7,))
    grid.serves(0, 1, 2, sequence=7)
    outcome = await grid.outcome()
    assert (type(outcome.error), outcome.attempts, sum(grid.tried)) == (NodeLost, 2, 2)


async def test_past_its_deadline_it_is_not_run_again() -> None:
    grid = Grid(lost, lost, lost, idempotent=(7,))
    grid.serves(0, 1, 2, sequence=7)
    assert (await grid.outcome(seconds=-0.001)).attempts == 1


async def test_with_metadata_that_is_garbage_it_runs_again_all_the_same() -> None:
    grid = Grid(lost, lost, works, idempotent=(7,))
    grid.serves(0, 1, 2, sequence=7)
    for _ in range(3):
        call = Invocation(InvocationId("i"), ECHO, b"1", asyncio.get_running_loop().time() + 9, b"\xff{")
        grid.router.route(call, grid.outcomes.append)
    await until(lambda: len(grid.outcomes) == 3)
    assert [outcome.error for outcome in grid.outcomes] == [None] * 3


async def test_the_outcome_names_the_node_that_was_lost_even_when_it_is_gone() -> None:
    grid = Grid(hangs)
    grid.call()
    place = grid.places.pop()
    grid.router.refresh()
    assert grid.router.tasks == []
    place.dones[0](Outcome(error=NodeLost("lost")))
    assert (grid.outcomes[0].node, grid.outcomes[0].name) == (A, "x")


# -- idempotency keys -----------------------------------------------------------------------------------------------


async def test_calls_with_one_key_meet_on_one_node_through_every_router() -> None:
    grids = [Grid(works, works, works) for _ in range(3)]
    for grid in grids:
        grid.places.reverse()
    for number in range(20):
        assert len({(await grid.outcome(key=f"k{number}")).node for grid in grids}) == 1
    assert all(0 < count < 20 for count in grids[0].tried), "keys are spread"


async def test_a_keyed_call_waits_for_room_on_its_own_node() -> None:
    grid = Grid(*[fails(NoCapacity("full"))] * 3)
    outcome = await grid.outcome(key="k")
    assert (type(outcome.error), outcome.attempts) == (NoCapacity, 1)


async def test_a_keyed_call_goes_on_where_its_node_does_not_serve() -> None:
    grid = Grid(*[fails(NotReady("errored"))] * 2, works)
    for number in range(20):
        assert (await grid.outcome(key=f"k{number}")).node == C


# -- bounds ---------------------------------------------------------------------------------------------------------


async def test_calls_under_way_are_bounded_in_number_and_bytes() -> None:
    grid = Grid(hangs, limits=RouterLimits(max_calls=3, max_size=1000))
    cancels = [grid.call(body=b"x" * 400), grid.call(body=b"x" * 400)]
    grid.call(body=b"x" * 400)
    grid.call(body=b"x" * 100)
    grid.call()
    refused = [outcome.error for outcome in grid.outcomes]
    assert [type(error) for error in refused] == [NoCapacity, NoCapacity]
    assert grid.tried == [3]
    cancels[0]()
    grid.call(body=b"x" * 400)
    assert grid.tried == [4]


async def test_all_room_is_given_back() -> None:
    grid = Grid(works, fails(NoCapacity("full")), fails(TaskRaised("raised"), started=True))
    for _ in range(30):
        await grid.outcome()
    grid.call(task=TaskName("none"))
    grid.call(node="nobody")
    assert (grid.router._room.calls, grid.router._room.size, counted(grid)) == (0, 0, {})


# -- slow nodes -----------------------------------------------------------------------------------------------------


async def test_a_node_that_takes_long_is_avoided_while_others_are_quick() -> None:
    grid = Grid(works, works, works)
    for _ in range(3 * ENOUGH):
        await grid.outcome()
    for candidate in grid.router._known[ECHO].values():
        candidate.took = 1.0 if candidate.node == B else 0.01
    for place in grid.places:
        place.calls.clear()
    for _ in range(30):
        await grid.outcome()
    assert grid.tried[1] <= 3
    assert min(grid.tried[0], grid.tried[2]) > 5


async def test_what_a_node_had_inside_is_forgotten_only_when_it_is_over() -> None:
    grid = Grid(hangs, works)
    grid.call(node="x")
    away = grid.places.pop(0)
    grid.router.refresh()
    assert (await grid.outcome()).node == B
    grid.places.insert(0, away)
    grid.router.refresh()
    assert {(await grid.outcome()).node for _ in range(6)} == {B}, "the call is still in it"
    away.dones[0](Outcome(b"at last"))
    assert counted(grid) == {}


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
