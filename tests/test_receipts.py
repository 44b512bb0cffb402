import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridnode.errors import NoCapacity, TaskRaised
from gridnode.model import Outcome
from gridnode.receipts import Receipts


def test_an_outcome_is_found_until_its_window_is_over() -> None:
    receipts = Receipts(10.0, 5, 1 << 20)
    receipt = receipts.open("k", b"m")
    assert receipts.find("k", 99.0) is receipt
    assert receipts.keep(receipt, Outcome(b"ok"), 100.0) == 0
    found = receipts.find("k", 109.9)
    assert found
    assert found.outcome == Outcome(b"ok")
    assert receipts.find("k", 110.0) is None
    assert (len(receipts), receipts.size) == (0, 0)


def test_a_call_that_never_started_frees_its_key() -> None:
    receipts = Receipts(10.0, 5, 1 << 20)
    receipts.drop(receipts.open("k", b"m"))
    assert receipts.find("k", 0.0) is None


def test_past_the_bounds_the_oldest_outcomes_go_first() -> None:
    receipts = Receipts(10.0, 3, 1 << 20)
    for number in range(5):
        receipts.keep(receipts.open(str(number), b"m"), Outcome(), float(number))
    assert [key for key in "01234" if receipts.find(key, 5.0)] == ["2", "3", "4"]
    receipts = Receipts(10.0, 100, 10_000)
    for number in range(5):
        receipts.keep(receipts.open(str(number), b"m"), Outcome(b"x" * 3000), float(number))
    assert [key for key in "01234" if receipts.find(key, 5.0)] == ["3", "4"]
    assert receipts.keep(receipts.open("large", b"m"), Outcome(b"x" * 20_000), 5.0) == 3


def test_what_runs_is_never_forgotten() -> None:
    receipts = Receipts(10.0, 2, 1 << 20)
    running = [receipts.open(key, b"m") for key in "ab"]
    with pytest.raises(NoCapacity):
        receipts.open("c", b"m")
    assert [receipts.find(key, 1e9) for key in "ab"] == running


def test_errors_count_with_their_texts() -> None:
    receipts = Receipts(10.0, 9, 100_000)
    receipt = receipts.open("k", b"m")
    receipts.keep(receipt, Outcome(error=TaskRaised("m" * 100, trace="t" * 5000)), 0.0)
    assert receipts.size > 5100


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 3000), st.integers(0, 5), st.booleans())))
def test_it_stays_within_its_bounds(steps: list[tuple[str, int, int, bool]]) -> None:
    receipts, now = Receipts(7.0, 3, 6000), 0.0
    for key, size, passed, started in steps:
        now += passed
        if receipts.find(key, now) is None:
            receipt = receipts.open(key, b"m")
            if started:
                receipts.keep(receipt, Outcome(b"x" * size), now)
            else:
                receipts.drop(receipt)
        assert len(receipts) <= 3
        assert 0 <= receipts.size <= 6000
        assert receipts.size == sum(one.size for one in receipts._kept.values())
