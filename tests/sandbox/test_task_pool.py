"""The task pool on scripted instances: every call gets one outcome, whatever instances and callers do."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gridnode.errors import (
    CallTimeout,
    EngineUnavailable,
    GridError,
    InstanceFailed,
    NoCapacity,
    NotReady,
    TaskCrashed,
    TaskNotFound,
)
from gridnode.link import Cancel
from gridnode.model import Done, InstanceId, Invocation, InvocationId, Outcome, TaskName, TaskSpec
from gridnode.sandbox import calls, seat, task_pool
from gridnode.sandbox.instance import End, Handler, Instance
from gridnode.sandbox.roster import RestartPolicy
from gridnode.sandbox.task_pool import PoolLimits, TaskPool
from tests.fakes.peers import until

ECHO, WIDE = TaskName("echo"), TaskName("echo.wide")
QUICK = RestartPolicy(first=0.01, last=0.05, max_restarts=1000)
FAST = PoolLimits(max_queued=3, cancel_grace=0.05, drain_timeout=0.2, restarts=QUICK)


class Scripted:
    """An Instance without a sandbox: the test answers its calls, and ends it."""

    def __init__(self, number: int, start: Callable[[], Any], mixed: bool = True) -> None:
        self.id = InstanceId(f"{number:08x}")
        self.read_to_end = True
        self.is_calling = False
        self.spec = SimpleNamespace(file="tasks/echo.py", instance=self.id)
        self.handlers = {ECHO: Handler(ECHO)} | ({WIDE: Handler(WIDE, 4)} if mixed else {})
        self.is_ready = False
        self.left = False
        self.why = ""
        self.inside: dict[str, Done] = {}
        self.asked_to_stop: list[str] = []
        self.stops = 0
        self.waits = 0
        self.wait_error: GridError | None = None
        self.stop_error: GridError | None = None
        self._start = start
        self.end: asyncio.Future[End] = asyncio.get_running_loop().create_future()

    async def start(self, timeout: float) -> None:
        await asyncio.sleep(0)
        outcome = self._start()
        if asyncio.isfuture(outcome):
            await outcome
        self.is_ready = True

    async def adopt(self, timeout: float) -> None:
        await self.start(timeout)

    def leave(self) -> None:
        self.left = True

    async def ended(self) -> End:
        self.waits += 1
        if self.wait_error:
            raise self.wait_error
        return await asyncio.shield(self.end)

    async def stop(self, grace: float, why: str = "") -> None:
        await asyncio.sleep(0)
        self.stops += 1
        self.why = why
        self.crash()
        if self.stop_error:
            raise self.stop_error

    def invoke(self, call: Invocation, done: Done) -> Cancel:
        assert self.is_ready
        assert call.id not in self.inside
        self.inside[call.id] = done
        return lambda: self.asked_to_stop.append(call.id)

    def answer(self, call_id: str) -> None:
        self.inside.pop(call_id)(Outcome(call_id.encode(), instance=self.id))

    def crash(self) -> None:
        self.is_ready = False
        for call_id in list(self.inside):
            self.inside.pop(call_id)(
                Outcome(error=TaskCrashed("crashed"), instance=self.id, started=not self.read_to_end)
            )
        if not self.end.done():
            self.end.set_result(End(self.why or "exited with code 1", "last words"))


@dataclass
class Room:
    """A TaskPool, its instances, and the outcomes of its calls."""

    limits: PoolLimits = FAST
    wanted: int = 1
    mixed: bool = True
    instances: list[Scripted] = field(default_factory=list)
    starts: list[float] = field(default_factory=list)
    adopted: list[InstanceId] = field(default_factory=list)
    owed: list[InstanceId] = field(default_factory=list)
    outcomes: dict[str, list[Outcome]] = field(default_factory=dict)
    cancels: dict[str, Cancel] = field(default_factory=dict)
    fail: Callable[[], Any] = lambda: None

    def __post_init__(self) -> None:
        spec = TaskSpec("echo", "tasks/echo.py")
        self.pool = TaskPool(spec, self._make, self.limits, self.wanted, owe=self.owed.append)

    def _make(self, on_ready: Callable[[Instance], None], found: InstanceId | None) -> Instance:
        self.starts.append(asyncio.get_running_loop().time())
        self.adopted += [found] if found else []
        self.instances.append(Scripted(len(self.instances), self.fail, self.mixed))
        return cast(Instance, self.instances[-1])

    @property
    def instance(self) -> Scripted:
        return self.instances[-1]

    def call(self, call_id: str, seconds: float = 60.0, task: TaskName = ECHO, body: bytes = b"") -> None:
        outcomes = self.outcomes.setdefault(call_id, [])
        deadline = asyncio.get_running_loop().time() + seconds
        call = Invocation(InvocationId(call_id), task, body, deadline)
        self.cancels[call_id] = self.pool.invoke(call, outcomes.append)

    async def outcome(self, call_id: str) -> Outcome:
        await until(lambda: self.outcomes[call_id], f"an outcome of {call_id}")
        assert len(self.outcomes[call_id]) == 1
        return self.outcomes[call_id][0]

    async def error(self, call_id: str, kind: type[GridError], started: bool) -> None:
        outcome = await self.outcome(call_id)
        assert (type(outcome.error), outcome.started) == (kind, started)


@pytest.fixture
async def room(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Every call counts as long: none is sent early."""
    monkeypatch.setattr(seat, "_MAX_WINDOW", 1)
    room = Room()
    await room.pool.start()
    yield room
    await room.pool.stop()


@pytest.fixture
async def swift() -> Any:
    """Answers come at once: the next few calls are sent early."""
    room = Room(mixed=False)
    await room.pool.start()
    yield room
    await room.pool.stop()


async def test_one_at_a_time_then_the_queue_in_order(room: Room) -> None:
    for call_id in "abc":
        room.call(call_id)
    for call_id in "abc":
        assert list(room.instance.inside) == [call_id]
        room.instance.answer(call_id)
        assert (await room.outcome(call_id)).body == call_id.encode()
    assert room.pool.in_flight == 0


async def warm(room: Room) -> None:
    room.call("first")
    room.instance.answer("first")
    assert not (await room.outcome("first")).error


async def test_short_calls_are_sent_early_and_answered_in_order() -> None:
    room = Room(PoolLimits(max_queued=100, restarts=QUICK), mixed=False)
    await room.pool.start()
    room.call("0")
    room.call("1")
    assert list(room.instance.inside) == ["0"], "how long a call takes is not known yet"
    room.instance.answer("0")
    assert list(room.instance.inside) == ["1"]
    for number in range(2, 30):
        room.call(str(number))
    assert len(room.instance.inside) == 16
    for number in range(1, 30):
        room.instance.answer(str(number))
    assert not any([(await room.outcome(str(number))).error for number in range(30)])
    await room.pool.stop()


async def test_a_crash_ends_the_oldest_call_and_those_sent_early_run_elsewhere(swift: Room) -> None:
    await warm(swift)
    first = swift.instance
    for call_id in "abc":
        swift.call(call_id)
    assert list(first.inside) == ["a", "b", "c"]
    first.crash()
    await swift.error("a", TaskCrashed, started=True)
    for call_id in "bc":
        await until(lambda call_id=call_id: call_id in swift.instance.inside)  # type: ignore[misc]
        swift.instance.answer(call_id)
        assert (await swift.outcome(call_id)).instance == swift.instance.id != first.id


async def test_after_a_link_that_broke_unread_every_call_inside_may_have_run(swift: Room) -> None:
    await warm(swift)
    first = swift.instance
    first.read_to_end = False
    for call_id in "abc":
        swift.call(call_id)
    first.crash()
    for call_id in "abc":
        await swift.error(call_id, TaskCrashed, started=True)


async def test_nothing_is_sent_early_to_a_file_that_runs_calls_side_by_side() -> None:
    room = Room(PoolLimits(max_queued=10, restarts=QUICK))
    await room.pool.start()
    await warm(room)
    for call_id in "ab":
        room.call(call_id, task=WIDE)
    room.call("c")
    assert list(room.instance.inside) == ["a", "b"]
    room.instance.answer("a")
    room.instance.answer("b")
    assert list(room.instance.inside) == ["c"]
    room.instance.crash()
    await room.error("c", TaskCrashed, started=True)
    await room.pool.stop()


async def test_a_deadline_of_a_call_sent_early_was_in_the_queue(swift: Room) -> None:
    await warm(swift)
    swift.call("a")
    swift.call("b", seconds=0.05)
    await swift.error("b", CallTimeout, started=False)
    assert swift.instance.asked_to_stop == ["b"]
    swift.instance.answer("a")
    assert not (await swift.outcome("a")).error
    assert swift.instance.stops == 0


async def test_calls_go_to_the_least_busy_of_several_instances() -> None:
    room = Room(PoolLimits(max_queued=10, restarts=QUICK), wanted=3)
    await room.pool.start()
    for call_id in "abcdef":
        room.call(call_id)
    assert [len(instance.inside) for instance in room.instances] == [1, 1, 1]
    assert room.pool.in_flight == 6
    room.instances[1].crash()
    await until(lambda: len(room.instances) == 4 and room.instances[3].inside)
    for instance in [*room.instances[:1], *room.instances[2:]]:
        while instance.inside:
            instance.answer(next(iter(instance.inside)))
    assert [type((await room.outcome(call_id)).error) for call_id in "abcdef"].count(TaskCrashed) == 1
    await room.pool.stop()


async def test_scaling_up_and_down_ends_no_call() -> None:
    room = Room(PoolLimits(max_queued=10, restarts=QUICK))
    await room.pool.start()
    room.call("a")
    room.call("b")
    room.pool.scale(2)
    await until(lambda: len(room.instances) == 2 and room.instance.inside)
    assert list(room.instance.inside) == ["b"]
    room.pool.scale(1)
    assert room.instance.stops == 0
    room.instance.answer("b")
    await until(lambda: room.instance.stops)
    assert [process.state for process in room.pool.processes() if process.state != "draining"] == ["ready"]
    room.instances[0].answer("a")
    assert not any([(await room.outcome(call_id)).error for call_id in "ab"])
    await room.pool.stop()


async def test_a_stopped_task_refuses_at_once_and_starts_again(room: Room) -> None:
    room.pool.scale(0)
    room.call("a")
    await room.error("a", NotReady, started=False)
    assert list(room.pool.processes()) == [] or [one.state for one in room.pool.processes()] == ["draining"]
    room.pool.scale(1)
    room.call("b")
    await until(lambda: len(room.instances) == 2 and room.instance.inside)
    room.instance.answer("b")
    assert not (await room.outcome("b")).error


async def test_a_rolling_restart_loses_no_call() -> None:
    room = Room(PoolLimits(max_queued=100, restarts=QUICK), wanted=2)
    await room.pool.start()
    for number in range(6):
        room.call(str(number))
    room.pool.restart()
    answered = 0
    while answered < 6:
        busy = next((one for one in room.instances if one.inside), None)
        if busy:
            busy.answer(next(iter(busy.inside)))
            answered += 1
        await asyncio.sleep(0)
    assert not any([(await room.outcome(str(number))).error for number in range(6)])
    await until(lambda: room.instances[0].stops and room.instances[1].stops)
    assert [one.is_ready for one in room.instances] == [False, False, True, True]
    await room.pool.stop()


async def test_a_task_that_keeps_ending_is_errored_and_says_so_at_once() -> None:
    room = Room(PoolLimits(restarts=RestartPolicy(0, 0, max_restarts=2)))
    await room.pool.start()
    room.fail = lambda: (_ for _ in ()).throw(InstanceFailed("no such module"))
    room.instance.crash()
    await until(lambda: [process.state for process in room.pool.processes()] == ["errored"])
    room.call("a")
    await room.error("a", NotReady, started=False)
    assert "no such module" in str((await room.outcome("a")).error)
    room.fail = lambda: None
    room.pool.restart()
    room.call("b")
    await until(lambda: room.instance.inside)
    room.instance.answer("b")
    assert not (await room.outcome("b")).error
    await room.pool.stop()


async def test_as_many_at_once_as_the_handler_takes(room: Room) -> None:
    for call_id in "abcdef":
        room.call(call_id, task=WIDE)
    assert list(room.instance.inside) == list("abcd")


async def test_what_waits_is_bounded_in_bytes_too() -> None:
    room = Room(PoolLimits(max_queued=10, max_queued_size=100, restarts=QUICK))
    await room.pool.start()
    room.call("inside", body=b"x" * 1000)
    room.call("waits", body=b"x" * 60)
    room.call("refused", body=b"x" * 41)
    await room.error("refused", NoCapacity, started=False)
    room.call("fits", body=b"x" * 40)
    room.cancels["waits"]()
    room.call("fits now", body=b"x" * 60)
    assert (room.outcomes["fits"], room.outcomes["fits now"]) == ([], [])
    await room.pool.stop()


async def test_past_the_queue_there_is_no_capacity_at_once(room: Room) -> None:
    for call_id in "abcde":
        room.call(call_id)
    assert room.outcomes["d"] == []
    await room.error("e", NoCapacity, started=False)
    room.cancels["e"]()
    assert len(room.outcomes["e"]) == 1
    assert room.pool.in_flight == 4


async def test_a_task_that_is_not_there(room: Room) -> None:
    room.call("a", task=TaskName("echo.nothing"))
    await room.error("a", TaskNotFound, started=False)
    room.call("b")
    room.call("c", task=TaskName("echo.nothing"))
    room.instance.answer("b")
    await room.error("c", TaskNotFound, started=False)
    assert room.pool.in_flight == 0


async def learn(room: Room, pace: float) -> None:
    """A call has taken so many seconds."""
    await warm(room)
    for place in room.pool._calls.seats.values():
        place.pace = pace


async def test_a_call_that_would_hardly_be_over_in_time_is_refused_at_once(room: Room) -> None:
    await learn(room, 10.0)
    room.call("inside", 60)
    room.call("in time", 30)
    room.call("late", 30)
    await room.error("late", NoCapacity, started=False)
    assert (list(room.instance.inside), room.pool.in_flight) == (["inside"], 2)
    room.call("patient", 60)
    assert not room.outcomes["patient"]


async def test_a_call_that_need_not_wait_always_runs(room: Room) -> None:
    await learn(room, 10.0)
    room.call("short", 1)
    assert list(room.instance.inside) == ["short"]


async def test_what_was_let_in_before_it_was_known_is_refused_when_it_is(room: Room) -> None:
    for call_id in ("a", "b", "c"):
        room.call(call_id, 24)
    (place,) = room.pool._calls.seats.values()
    next(iter(place.inside)).sent -= 10.0  # it was sent in ten seconds ago
    room.instance.answer("a")
    assert list(room.instance.inside) == ["b"]
    await room.error("c", NoCapacity, started=False)


async def test_a_deadline_in_the_queue_and_in_the_task(room: Room) -> None:
    room.call("inside", 0.05)
    room.call("queued", 0.03)
    await room.error("queued", CallTimeout, started=False)
    await room.error("inside", CallTimeout, started=True)
    assert room.instance.asked_to_stop == ["inside"]
    room.instance.answer("inside")
    assert len(room.outcomes["inside"]) == 1
    assert room.instance.stops == 0


async def test_a_deadline_already_past(room: Room) -> None:
    room.call("a", -5.0)
    await room.error("a", CallTimeout, started=True)


async def test_a_cancelled_call_frees_its_place(room: Room) -> None:
    for call_id in "abc":
        room.call(call_id)
    room.cancels["b"]()
    room.cancels["a"]()
    assert room.instance.asked_to_stop == ["a"]
    assert list(room.instance.inside) == ["a"], "the next waits until the instance is free"
    room.instance.answer("a")
    assert list(room.instance.inside) == ["c"]
    room.instance.answer("c")
    for call_id in "abc":
        room.cancels[call_id]()
        assert len(room.outcomes[call_id]) == 1


async def test_an_instance_that_ignores_a_cancel_is_killed_and_the_queue_goes_on(room: Room) -> None:
    first = room.instance
    for call_id in "abc":
        room.call(call_id)
    room.cancels["a"]()
    await until(lambda: room.instance is not first and room.instance.inside)
    assert first.stops >= 1
    assert list(room.instance.inside) == ["b"]
    room.instance.answer("b")
    room.instance.answer("c")
    assert not (await room.outcome("b")).error
    assert not (await room.outcome("c")).error


async def test_a_crash_is_told_to_those_inside_only(room: Room) -> None:
    first = room.instance
    for call_id in "abcd":
        room.call(call_id, task=WIDE)
    room.call("e", task=WIDE)
    first.crash()
    for call_id in "abcd":
        await room.error(call_id, TaskCrashed, started=True)
    await until(lambda: room.instance is not first and room.instance.inside)
    room.instance.answer("e")
    assert (await room.outcome("e")).instance == room.instance.id


async def test_a_lost_connection_waits_for_the_runtime_to_come_back(room: Room) -> None:
    room.instance.is_ready = False
    room.call("a")
    assert room.outcomes["a"] == []
    room.instance.is_ready = True
    room.pool._calls.connected(cast(Instance, room.instance))
    room.instance.answer("a")
    assert not (await room.outcome("a")).error


async def test_restarts_back_off(room: Room) -> None:
    for n in range(1, 6):
        room.instance.crash()
        await until(lambda n=n: len(room.instances) > n and room.instance.is_ready)  # type: ignore[misc]
    gaps = [later - before for before, later in zip(room.starts[1:], room.starts[2:], strict=False)]
    assert all(gap >= least - 0.002 for gap, least in zip(gaps, (0.02, 0.04, 0.05, 0.05), strict=True))


async def test_a_restart_that_fails_is_tried_again(room: Room) -> None:
    failures = iter([InstanceFailed("no"), EngineUnavailable("down"), InstanceFailed("no")])

    def fail() -> None:
        for failure in failures:
            raise failure

    room.fail = fail
    room.instance.crash()
    room.call("a")
    await until(lambda: room.instance.inside)
    assert len(room.instances) == 5
    assert [instance.stops for instance in room.instances[1:4]] == [1, 1, 1]
    room.instance.answer("a")


async def test_an_engine_that_does_not_answer_is_no_reason_to_spin_or_to_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine restarts, and its sandboxes live on."""
    monkeypatch.setattr(task_pool, "_ASK_AGAIN", 0.05)
    room = Room()
    room.fail = lambda: setattr(room.instance, "wait_error", EngineUnavailable("restarting"))
    await room.pool.start()
    first, turns = room.instance, iter(range(1000))
    await until(lambda: next(turns) > 50)
    assert 1 <= first.waits < 20
    room.call("a")
    first.answer("a")
    assert not (await room.outcome("a")).error
    room.fail = lambda: None
    first.crash()
    await until(lambda: room.instance is not first and room.instance.is_ready)
    await room.pool.stop()


async def test_an_instance_that_does_not_start_is_cleaned_up() -> None:
    room = Room(fail=lambda: (_ for _ in ()).throw(InstanceFailed("import error")))
    with pytest.raises(InstanceFailed):
        await room.pool.start()
    assert room.instance.stops == 1
    await room.pool.stop()


async def test_a_start_that_is_cancelled_is_cleaned_up() -> None:
    never = asyncio.get_running_loop().create_future()
    room = Room(fail=lambda: never)
    start = asyncio.ensure_future(room.pool.start())
    await until(lambda: room.instances)
    start.cancel()
    await asyncio.wait({start})
    assert room.instance.stops == 1


async def test_stopping_is_not_held_up_by_an_engine_that_is_down() -> None:
    room = Room()
    await room.pool.start()
    never = asyncio.get_running_loop().create_future()
    room.fail = lambda: never
    room.instance.crash()
    await until(lambda: len(room.instances) == 2)

    async def stop(grace: float, why: str = "") -> None:
        raise EngineUnavailable("down")

    room.instance.stop = stop  # type: ignore[method-assign]
    async with asyncio.timeout(2):
        await room.pool.stop()


async def test_stopping_ends_every_call() -> None:
    room = Room()
    await room.pool.start()
    for call_id in "ab":
        room.call(call_id)
    await room.pool.stop()
    await room.error("a", TaskCrashed, started=True)
    await room.error("b", NotReady, started=False)
    assert room.pool.in_flight == 0


async def test_draining_waits_for_the_calls_inside_but_not_for_ever(room: Room) -> None:
    await room.pool.drained()
    room.call("a")
    room.call("b")
    drain = asyncio.ensure_future(room.pool.drained())
    await asyncio.sleep(0)
    room.instance.answer("a")
    await asyncio.sleep(0)
    assert not drain.done()
    room.instance.answer("b")
    await drain
    room.call("c")
    await room.pool.drained()
    assert room.pool.in_flight == 1


async def test_handlers_stay_known_while_an_instance_restarts(room: Room) -> None:
    never = asyncio.get_running_loop().create_future()
    room.fail = lambda: never
    room.instance.crash()
    await until(lambda: len(room.instances) == 2)
    assert set(room.pool.handlers) == {ECHO, WIDE}


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["call", "wide", "unknown", "late", "cancel", "answer", "crash", "turn"]), st.integers(0, 30)
    ),
    max_size=40,
)


@settings(deadline=None, max_examples=60)
@given(STEPS)
def test_no_call_ends_twice_or_never(steps: list[tuple[str, int]]) -> None:
    async def play() -> dict[str, list[Outcome]]:
        room = Room(PoolLimits(max_queued=4, cancel_grace=0, restarts=RestartPolicy(0, 0, max_restarts=1000)))
        await room.pool.start()
        for step, number in steps:
            await take(room, step, number)
        await room.pool.stop()
        assert room.pool.in_flight == 0
        assert not any(instance.inside for instance in room.instances)
        return room.outcomes

    outcomes = asyncio.run(play())
    assert {call_id: len(got) for call_id, got in outcomes.items()} == dict.fromkeys(outcomes, 1)


async def take(room: Room, step: str, number: int) -> None:
    known = list(room.cancels)
    match step:
        case "call" | "wide" | "unknown" | "late":
            task = {"wide": WIDE, "unknown": TaskName("echo.none")}.get(step, ECHO)
            room.call(str(len(known)), -1.0 if step == "late" else 60.0, task)
        case "cancel" if known:
            room.cancels[known[number % len(known)]]()
        case "answer" if room.instance.inside:
            room.instance.answer(list(room.instance.inside)[number % len(room.instance.inside)])
        case "crash":
            room.instance.crash()
        case _:
            for _ in range(number):
                await asyncio.sleep(0)


# -- honest ends ----------------------------------------------------------------------------------------------------


async def test_the_caller_of_a_crashed_call_is_told_how_its_instance_ended(room: Room) -> None:
    room.call("a")
    first = room.instance
    for call_id in list(first.inside):
        first.inside.pop(call_id)(Outcome(error=TaskCrashed("connection lost"), instance=first.id))
    first.is_ready = False
    await asyncio.sleep(0)
    assert room.outcomes["a"] == [], "the engine has not said yet"
    first.end.set_result(End("was killed: out of memory (limit 256 MB)", "last words\n"))
    error = (await room.outcome("a")).error
    assert (type(error), str(error)) == (
        TaskCrashed,
        "the instance was killed: out of memory (limit 256 MB) with the call inside it",
    )
    await until(lambda: room.pool.slots[0].why or len(room.instances) > 1)


async def test_an_engine_that_does_not_say_why_holds_nobody_up(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "_REASON_WITHIN", 0.05)
    room.call("a")
    room.call("b")
    room.instance.is_ready = False
    room.instance.inside.pop("a")(Outcome(error=TaskCrashed("connection lost"), instance=room.instance.id))
    assert str((await room.outcome("a")).error) == "connection lost"
    assert room.outcomes["b"] == []


async def test_a_call_given_up_while_its_end_is_unknown_ends_once(room: Room) -> None:
    room.call("a")
    room.instance.is_ready = False
    room.instance.inside.pop("a")(Outcome(error=TaskCrashed("connection lost"), instance=room.instance.id))
    room.cancels["a"]()
    await room.error("a", NotReady, started=True)
    room.instance.crash()
    await until(lambda: len(room.instances) == 2)
    assert len(room.outcomes["a"]) == 1
    await room.pool.drained()


async def test_the_last_lines_and_the_end_are_what_a_slot_says() -> None:
    room = Room(PoolLimits(restarts=RestartPolicy(first=60)))
    await room.pool.start()
    room.instance.crash()
    await until(lambda: room.pool.slots[0].why)
    assert next(room.pool.processes()).why == "last words\nexited with code 1"
    await room.pool.stop()


async def test_neighbours_of_a_call_that_does_not_stop_are_told_so(room: Room) -> None:
    room.call("late", 0.02, task=WIDE)
    room.call("neighbour", task=WIDE)
    await room.error("late", CallTimeout, started=True)
    assert "past its deadline" in str((await room.outcome("neighbour")).error)


# -- adoption -------------------------------------------------------------------------------------------------------


async def test_instances_found_running_are_adopted_and_the_rest_started() -> None:
    room = Room(wanted=2)
    await room.pool.adopt([InstanceId("ab" * 4)])
    await room.pool.start()
    assert [process.state for process in room.pool.processes()] == ["ready", "ready"]
    assert room.adopted == [InstanceId("ab" * 4)]
    assert len(room.instances) == 2
    await room.pool.stop()


async def test_one_that_does_not_come_back_is_removed_and_another_started() -> None:
    room = Room()
    errors = [InstanceFailed("did not come back")]
    room.fail = lambda: (_ for _ in ()).throw(errors.pop()) if errors else None
    await room.pool.adopt([InstanceId("ab" * 4)])
    await room.pool.start()
    await until(lambda: room.instances[0].stops)
    assert room.instance.is_ready
    assert len(room.instances) == 2
    await room.pool.stop()


async def test_one_adopted_is_removed_when_the_others_do_not_start() -> None:
    room = Room(wanted=2)
    await room.pool.adopt([InstanceId("ab" * 4)])
    room.fail = lambda: (_ for _ in ()).throw(InstanceFailed("no"))
    with pytest.raises(InstanceFailed):
        await room.pool.start()
    assert [instance.stops for instance in room.instances] == [1, 1]


async def test_leaving_stops_no_instance(room: Room) -> None:
    room.call("inside")
    room.call("queued")
    await room.pool.leave()
    await room.error("queued", NotReady, started=False)
    assert (room.instance.left, room.instance.stops) == (True, 0)


async def test_an_engine_that_is_away_is_waited_for_and_counts_as_no_failure(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_pool, "_ASK_ENGINE", 0.01)
    errors = [EngineUnavailable("down") for _ in range(20)]
    room.fail = lambda: (_ for _ in ()).throw(errors.pop()) if errors else None
    room.instance.crash()
    room.call("a")
    await until(lambda: not errors and room.instance.inside)
    room.instance.answer("a")
    assert not (await room.outcome("a")).error
    assert room.pool.slots[0].restarts == 1


async def test_an_instance_that_the_engine_does_not_remove_is_owed_and_replaced(room: Room) -> None:
    first = room.instance
    first.stop_error = EngineUnavailable("no container engine answers")
    room.call("a", seconds=0.02)
    await room.error("a", CallTimeout, started=True)
    await until(lambda: len(room.instances) == 2 and room.instance.is_ready, "another serves")
    assert set(room.owed) == {first.id}
    room.call("b")
    await until(lambda: room.instance.inside)
    room.instance.answer("b")
    assert not (await room.outcome("b")).error
