from collections import Counter
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridnode.model import NodeId
from gridnode.placement import Candidate, rank


def candidates(*loads: tuple[int, int]) -> list[Candidate]:
    return [Candidate(NodeId(str(n)), in_flight, capacity) for n, (in_flight, capacity) in enumerate(loads)]


def test_nobody_to_ask() -> None:
    assert rank([], 5, 7) == []


def test_an_idle_grid_is_spread_evenly() -> None:
    idle = candidates(*[(0, 1)] * 5)
    firsts = Counter(rank(idle, turn, dice=turn * 7919)[0] for turn in range(100))
    assert set(firsts.values()) == {20}


def test_the_less_pressed_of_two_goes_first() -> None:
    pair = candidates((3, 4), (1, 2))
    assert {tuple(rank(pair, turn, dice)) for turn in range(4) for dice in range(9)} == {("1", "0")}


def test_the_most_pressed_of_many_is_never_first() -> None:
    many = candidates((0, 1), (1, 1), (0, 1), (0, 1))
    assert all(rank(many, turn, dice)[0] != "1" for turn in range(8) for dice in range(30))


@pytest.mark.parametrize("loads", list(permutations([(0, 1), (5, 1), (9, 1)])))
def test_the_busiest_get_the_least(loads: tuple[tuple[int, int], ...]) -> None:
    found = candidates(*loads)
    firsts = Counter(rank(found, turn, dice)[0] for turn in range(60) for dice in range(60))
    by_load = sorted(found, key=lambda one: one.in_flight)
    assert firsts[by_load[0].node] > firsts[by_load[1].node] > firsts[by_load[2].node] == 0


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 9)), max_size=9), st.integers(0), st.integers(0))
def test_all_candidates_are_ranked_once(loads: list[tuple[int, int]], turn: int, dice: int) -> None:
    found = candidates(*loads)
    assert sorted(rank(found, turn, dice)) == sorted(one.node for one in found)
