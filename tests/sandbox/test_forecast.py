import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridnode.sandbox.forecast import over_after

PACES = st.lists(st.floats(0, 1e4), min_size=1, max_size=8)


@pytest.mark.parametrize("paces", [[], [0.0], [0.0, 0.0]])
def test_nothing_is_known_before_the_first_answer(paces: list[float]) -> None:
    assert over_after(100, paces) == 0.0


def test_a_call_waits_for_those_ahead_and_takes_its_own_time() -> None:
    assert over_after(3, [2.0]) == pytest.approx(1.25 * (3 * 2.0 + 2.0))


def test_instances_share_what_is_ahead() -> None:
    assert over_after(4, [1.0, 1.0]) == pytest.approx(1.25 * (4 / 2 + 1.0))
    assert over_after(4, [1.0, 0.0]) == over_after(4, [1.0, 1.0]), "one that is new is taken for one like the others"


@given(st.integers(0, 10**6), PACES)
def test_more_ahead_is_never_sooner(ahead: int, paces: list[float]) -> None:
    assert 0.0 <= over_after(ahead, paces) <= over_after(ahead + 1, paces)
