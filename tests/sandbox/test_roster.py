from hypothesis import given
from hypothesis import strategies as st

from gridnode.model import InstanceId
from gridnode.sandbox.roster import (
    Effect,
    Ended,
    GaveUp,
    Ready,
    Restarted,
    RestartPolicy,
    Retire,
    Roster,
    Scaled,
    SlotState,
    Start,
    StartFailed,
    Tick,
)

POLICY = RestartPolicy(first=1.0, last=8.0, min_uptime=10.0, max_restarts=3, window=60.0)
A, B, C, D = (InstanceId(f"{number:08x}") for number in range(4))


def running(*instances: InstanceId) -> Roster:
    roster = Roster(POLICY)
    roster.handle(Scaled(len(instances)), 0.0)
    for number, instance in enumerate(instances):
        roster.handle(Ready(number, instance), 0.0)
    return roster


def test_as_many_as_wanted_are_started() -> None:
    roster = Roster(POLICY)
    assert roster.handle(Scaled(2), 0.0) == [Start(0), Start(1)]
    assert roster.handle(Scaled(3), 0.0) == [Start(2)]
    assert roster.handle(Ready(0, A), 0.0) == []
    assert [slot.state for slot in roster.slots] == [SlotState.READY, SlotState.STARTING, SlotState.STARTING]


def test_fewer_are_retired_from_the_end_and_one_that_comes_up_late_too() -> None:
    roster = running(A, B)
    roster.handle(Scaled(3), 1.0)
    assert roster.handle(Scaled(1), 2.0) == [Retire(B)]
    assert roster.handle(Ready(2, C), 3.0) == [Retire(C)]
    assert roster.handle(Scaled(0), 4.0) == [Retire(A)]


def test_one_that_ends_is_started_again_after_growing_delays() -> None:
    roster, now, delays = running(A), 0.0, []
    for instance in (B, C, D):
        assert roster.handle(Ended(roster.slots[0].instance or A, "exit code 1"), now) == []
        due = roster.next_due()
        assert due is not None
        delays.append(due - now)
        assert roster.handle(Tick(), due - 0.01) == []
        assert roster.handle(Tick(), due) == [Start(0)]
        roster.handle(Ready(0, instance), due)
        now = due + 1.0
    assert delays == [1.0, 2.0, 4.0]
    assert roster.slots[0].restarts == 3


def test_a_long_life_makes_the_next_delay_short_again() -> None:
    roster = running(A)
    roster.handle(Ended(A, "exit code 1"), 1.0)
    roster.handle(Tick(), 2.0)
    roster.handle(Ready(0, B), 2.0)
    roster.handle(Ended(B, "exit code 1"), 200.0)
    assert roster.next_due() == 201.0


def test_too_many_restarts_in_the_window_are_an_error_until_somebody_restarts() -> None:
    roster, now = running(A), 0.0
    effects: list[Effect] = []
    for _ in range(POLICY.max_restarts + 1):
        roster.handle(Tick(), now + 10)
        now += 11
        effects = roster.handle(StartFailed(0, "no such module"), now) or effects
        roster.handle(Ended(A, "exit code 1"), now)
    assert effects == [GaveUp("no such module")]
    assert roster.slots[0].state is SlotState.ERRORED
    assert roster.handle(Tick(), now + 1000) == []
    assert roster.handle(Restarted(), now + 1000) == [Start(0)]


def test_restarts_far_apart_are_no_error() -> None:
    roster = running(A)
    for number in range(20):
        now = number * 100.0
        assert roster.handle(Ended(roster.slots[0].instance or A, "exit code 1"), now) == []
        roster.handle(Tick(), now + 50)
        roster.handle(Ready(0, InstanceId(f"{number:08x}")), now + 50)
    assert roster.slots[0].state is SlotState.READY


def test_a_rolling_restart_replaces_one_after_the_other() -> None:
    roster = running(A, B)
    assert roster.handle(Restarted(), 1.0) == [Start(0)]
    assert roster.handle(Ready(0, C), 2.0) == [Retire(A), Start(1)]
    assert roster.handle(Ready(1, D), 3.0) == [Retire(B)]
    assert [slot.instance for slot in roster.slots] == [C, D]


def test_a_rolling_restart_that_does_not_come_up_leaves_what_serves() -> None:
    roster = running(A, B)
    roster.handle(Restarted(), 1.0)
    assert roster.handle(StartFailed(0, "broken"), 2.0) == [GaveUp("the restart was given up: broken")]
    assert [slot.instance for slot in roster.slots] == [A, B]
    assert all(slot.state is SlotState.READY for slot in roster.slots)
    assert roster.handle(Tick(), 100.0) == []


def test_the_old_one_may_end_while_its_replacement_comes_up() -> None:
    roster = running(A)
    roster.handle(Restarted(), 1.0)
    assert roster.handle(Ended(A, "exit code 1"), 2.0) == []
    assert roster.handle(Ready(0, B), 3.0) == []
    assert roster.slots[0].instance == B


def test_how_the_last_one_ended_is_known_while_the_next_one_serves() -> None:
    roster = running(A)
    roster.handle(Ended(A, "exit code 1"), 20.0)
    roster.handle(Tick(), 30.0)
    roster.handle(Ready(0, B), 31.0)
    assert (roster.slots[0].state, roster.slots[0].why) == (SlotState.READY, "exit code 1")
    roster.handle(Restarted(), 40.0)
    roster.handle(Ready(0, C), 41.0)
    assert roster.handle(Ended(B, "was stopped"), 42.0) == []
    assert roster.slots[0].why == "exit code 1"


EVENTS = st.lists(
    st.one_of(
        st.builds(Scaled, st.integers(0, 4)),
        st.just(Restarted()),
        st.just(Tick()),
        st.tuples(st.sampled_from(["come up", "fail", "end"]), st.integers(0, 100)),
    ),
    max_size=60,
)


@given(EVENTS)
def test_whatever_happens_what_runs_is_what_is_wanted_in_the_end(events: list[object]) -> None:
    """Carries the effects out in a random order; then lets all that can heal, heal."""
    roster, now = Roster(RestartPolicy(first=0.1, last=1.0, max_restarts=1000)), 0.0
    starts: list[int] = []
    alive: set[InstanceId] = set()
    made = 0

    def carry_out(effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Start):
                starts.append(effect.slot)
            elif isinstance(effect, Retire):
                assert effect.instance in alive
                alive.remove(effect.instance)

    def come_up(at: int) -> None:
        nonlocal made
        made += 1
        instance = InstanceId(f"{made:08x}")
        alive.add(instance)
        carry_out(roster.handle(Ready(starts.pop(at), instance), now))

    for event in events:
        now += 0.5
        match event:
            case ("come up", int(at)) if starts:
                come_up(at % len(starts))
            case ("fail", int(at)) if starts:
                carry_out(roster.handle(StartFailed(starts.pop(at % len(starts)), "broken"), now))
            case ("end", int(at)) if alive:
                instance = sorted(alive)[at % len(alive)]
                alive.remove(instance)
                carry_out(roster.handle(Ended(instance, "exit code 1"), now))
            case Scaled() | Restarted() | Tick():
                carry_out(roster.handle(event, now))
    for _ in range(40):
        now += 2.0
        carry_out(roster.handle(Tick(), now))
        while starts:
            come_up(0)
    assert alive == {slot.instance for slot in roster.slots}
