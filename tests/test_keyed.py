"""Calls with idempotency keys, where they run."""

import asyncio

from gridnode.errors import CallTimeout, KeyReused, NoCapacity, NotReady, TaskCrashed, TaskRaised
from gridnode.keyed import Keyed
from gridnode.link import Cancel
from gridnode.model import Done, Invocation, InvocationId, Outcome, TaskName
from gridnode.receipts import Receipts
from tests.fakes.peers import until


class House:
    """A node whose pool is scripted."""

    def __init__(self, receipts: Receipts | None = None) -> None:
        self.runs: list[tuple[Invocation, Done]] = []
        self.cancels = 0
        self.outcomes: dict[str, Outcome] = {}
        self.keyed = Keyed(self, Receipts(600.0, 100, 1 << 20) if receipts is None else receipts)

    def invoke(self, call: Invocation, done: Done) -> Cancel:
        self.runs.append((call, done))
        return self._cancel

    def _cancel(self) -> None:
        self.cancels += 1

    def call(self, who: str, key: str = "k", body: bytes = b"1", task: str = "echo", seconds: float = 9.0) -> Cancel:
        deadline = asyncio.get_running_loop().time() + seconds
        call = Invocation(InvocationId(who), TaskName(task), body, deadline, key=key)

        def done(outcome: Outcome) -> None:
            assert who not in self.outcomes
            self.outcomes[who] = outcome

        return self.keyed.invoke(call, done)

    def end(self, outcome: Outcome) -> None:
        self.runs[-1][1](outcome)


async def test_without_a_key_each_call_runs_and_is_cancelled() -> None:
    house = House()
    house.call("a", key="")
    house.call("b", key="")()
    assert (len(house.runs), house.cancels) == (2, 1)


async def test_calls_with_one_key_run_once_and_get_one_outcome() -> None:
    house = House()
    for who in "abc":
        house.call(who)
    assert len(house.runs) == 1
    house.end(Outcome(b"ok"))
    house.call("late")
    assert {who: outcome.body for who, outcome in house.outcomes.items()} == dict.fromkeys(
        ["a", "b", "c", "late"], b"ok"
    )
    assert len(house.runs) == 1


async def test_an_error_of_a_call_that_started_is_its_outcome() -> None:
    for error in (TaskRaised("raised"), TaskCrashed("crashed"), CallTimeout("late")):
        house = House()
        house.call("a")
        house.end(Outcome(error=error))
        house.call("b")
        assert [house.outcomes[who].error for who in "ab"] == [error, error]
        assert len(house.runs) == 1


async def test_a_call_that_never_started_leaves_the_key_free() -> None:
    for error in (NoCapacity("full"), NotReady("going"), CallTimeout("in the queue")):
        house = House()
        house.call("a")
        house.call("b")
        house.end(Outcome(error=error, started=False))
        assert [house.outcomes[who].error for who in "ab"] == [error, error]
        house.call("c")
        assert len(house.runs) == 2


async def test_the_key_of_another_call_is_refused() -> None:
    house = House()
    house.call("a")
    house.call("body", body=b"2")
    house.call("task", task="other")
    house.call("seam", task="ech", body=b"o1")
    house.end(Outcome(b"ok"))
    house.call("later", body=b"2")
    refused = [house.outcomes[who] for who in ("body", "task", "seam", "later")]
    assert {type(one.error) for one in refused} == {KeyReused}
    assert not any(one.started for one in refused)
    assert len(house.runs) == 1


async def test_a_call_goes_on_when_its_caller_leaves() -> None:
    house = House()
    house.call("a")()
    leave = house.call("b")
    leave()
    leave()
    house.end(Outcome(b"ok"))
    house.call("again")
    assert (house.cancels, set(house.outcomes)) == (0, {"again"})


async def test_nobody_waits_past_their_own_deadline() -> None:
    house = House()
    house.call("a")
    house.call("b", seconds=0.01)
    await until(lambda: "b" in house.outcomes)
    assert isinstance(house.outcomes["b"].error, CallTimeout)
    house.end(Outcome(b"ok"))
    assert house.outcomes["a"].body == b"ok"


async def test_a_pool_that_answers_at_once() -> None:
    house = House()
    house.invoke = lambda call, done: done(Outcome(b"ok")) or house._cancel  # type: ignore[func-returns-value,method-assign]
    house.keyed = Keyed(house, Receipts(600.0, 100, 1 << 20))
    house.call("a")()
    house.call("b")
    assert [house.outcomes[who].body for who in "ab"] == [b"ok", b"ok"]


async def test_keys_under_way_are_bounded() -> None:
    house = House(Receipts(600.0, 2, 1 << 20))
    for who in "abc":
        house.call(who, key=who)
    assert isinstance(house.outcomes["c"].error, NoCapacity)
    assert not house.outcomes["c"].started
    house.end(Outcome(b"ok"))
    house.call("d", key="d")
    assert len(house.runs) == 3
