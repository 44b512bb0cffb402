from hypothesis import given
from hypothesis import strategies as st

from gridctl.tally import Tally
from gridnode.errors import CallTimeout, NoCapacity
from gridnode.model import NodeId, Outcome


def test_what_is_counted() -> None:
    tally = Tally()
    for number in range(1, 101):
        tally.add(Outcome(b"1", node=NodeId("ab" * 20), name="node-1", duration=number / 1000))
    tally.add(Outcome(error=NoCapacity("full", hint="wait"), started=False, duration=0.0))
    tally.add(Outcome(error=CallTimeout("late"), node=NodeId("cd" * 20), attempts=2, duration=1.0))
    tally.add(Outcome(error=NoCapacity("full again"), started=False, duration=0.0))
    tally.seconds = 2.0
    assert tally.as_fields() == {
        "calls": 103,
        "succeeded": 100,
        "errors": {"no_capacity": 2, "timeout": 1},
        "attempts": 104,
        "seconds": 2.0,
        "calls_per_second": 51.5,
        "times_ms": {"p50": 50.0, "p90": 91.0, "p99": 100.0, "min": 0.0, "max": 1000.0},
        "nodes": {"cdcdcdcd": 1, "node-1": 100},
    }
    assert tally.usual_error is not None
    assert tally.usual_error.hint == "wait"
    text = "\n".join(tally.lines())
    assert "103 calls in 2.00 s: 52/s; 3 failed" in text
    assert "no_capacity: 2, the first: full" in text
    assert "node-1" in text


def test_of_nothing() -> None:
    tally = Tally()
    assert (tally.times(), tally.rate, tally.usual_error) == ({}, 0.0, None)
    assert list(tally.lines()) == ["0 calls in 0.00 s: 0/s; 0 failed"]


@given(st.lists(st.floats(0, 1e6), min_size=1))
def test_quantiles_are_in_order(times: list[float]) -> None:
    tally = Tally()
    for time in times:
        tally.add(Outcome(duration=time))
    found = tally.times()
    assert found["min"] <= found["p50"] <= found["p90"] <= found["p99"] <= found["max"]
