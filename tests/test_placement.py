from collections import Counter
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks._placement import POLICIES, SCENARIOS, Scenario, simulate
from gridnode.model import Load, NodeId
from gridnode.placement import ENOUGH, TRUST, Candidate, Gauge, is_better, meet, rank


def candidates(*loads: tuple[int, int]) -> list[Candidate]:
    """(calls inside, capacity) of each."""
    found = [Candidate(Gauge(NodeId(str(n)), Load(0, capacity), 0.0)) for n, (_, capacity) in enumerate(loads)]
    for candidate, (inside, _) in zip(found, loads, strict=True):
        candidate.gauge.mine = inside
    return found


def first(found: list[Candidate], turn: int, dice: int, now: float = 0.0) -> str:
    return rank(found, turn, dice, now)[0].node


# -- pressure -------------------------------------------------------------------------------------------------------


def test_nobody_to_ask() -> None:
    assert rank([], 5, 7, 0.0) == []


def test_an_idle_grid_is_spread_evenly() -> None:
    idle = candidates(*[(0, 1)] * 5)
    firsts = Counter(first(idle, turn, dice=turn * 7919) for turn in range(100))
    assert set(firsts.values()) == {20}


def test_the_less_pressed_of_two_goes_first() -> None:
    pair = candidates((4, 4), (1, 2))
    assert {tuple(c.node for c in rank(pair, turn, dice, 0)) for turn in range(4) for dice in range(9)} == {("1", "0")}


def test_the_most_pressed_of_many_is_never_first() -> None:
    many = candidates((0, 1), (1, 1), (0, 1), (0, 1))
    assert all(first(many, turn, dice) != "1" for turn in range(8) for dice in range(30))


@pytest.mark.parametrize("loads", list(permutations([(0, 1), (5, 1), (9, 1)])))
def test_the_busiest_get_the_least(loads: tuple[tuple[int, int], ...]) -> None:
    found = candidates(*loads)
    firsts = Counter(first(found, turn, dice) for turn in range(60) for dice in range(60))
    by_load = sorted(found, key=lambda one: one.gauge.mine)
    assert firsts[by_load[0].node] > firsts[by_load[1].node] > firsts[by_load[2].node] == 0


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 9)), max_size=9), st.integers(0), st.integers(0))
def test_all_candidates_are_ranked_once(loads: list[tuple[int, int]], turn: int, dice: int) -> None:
    found = candidates(*loads)
    assert sorted(one.node for one in rank(found, turn, dice, 0.0)) == sorted(one.node for one in found)


def test_what_others_sent_counts_less_as_the_report_grows_old() -> None:
    gauge = Gauge(NodeId("a"), Load(8, 4), now=10.0)
    candidate = Candidate(gauge)
    candidate.measured(1.0, now=10.0)
    assert candidate.inside(10.0) == 8
    assert candidate.inside(11.0) == pytest.approx(4, rel=0.01)
    gauge.mine = 3
    assert candidate.inside(1000.0) == pytest.approx(3)


def test_our_own_calls_are_not_counted_as_those_of_others() -> None:
    gauge = Gauge(NodeId("a"), Load(0, 4), now=0.0)
    gauge.mine = 5
    gauge.report(Load(7, 4), now=1.0)
    assert gauge.others == 2
    gauge.report(Load(1, 0), now=2.0)
    assert (gauge.others, gauge.capacity) == (0, 1)


def test_a_report_that_is_told_again_is_no_news() -> None:
    load = Load(7, 4)
    gauge = Gauge(NodeId("a"), load, now=0.0)
    gauge.mine = 5
    gauge.report(load, now=9.0)
    assert (gauge.others, gauge.reported) == (7, 0.0)


# -- time taken -----------------------------------------------------------------------------------------------------


def pair(took: float | None, other_took: float | None) -> tuple[Candidate, Candidate]:
    one, other = candidates((0, 1), (0, 1))
    for candidate, seconds in ((one, took), (other, other_took)):
        for _ in range(ENOUGH if seconds is not None else 0):
            candidate.measured(seconds or 0.0, 0.0)
    return one, other


@pytest.mark.parametrize(
    ("took", "other", "better"),
    [
        (1.0, 0.1, True),
        (0.1, 1.0, False),
        (0.1, 0.06, False),  # not clearly quicker: in turn
        (0.002, 0.0002, False),  # a network hop
        (1.0, None, False),  # nothing known: by pressure alone
        (None, 0.1, False),
    ],
)
def test_of_two_idle_nodes_the_clearly_quicker_is_better(took: float, other: float, better: bool) -> None:
    one, two = pair(took, other)
    assert is_better(two, one, 1.0) is better


def test_a_slow_node_is_still_better_than_a_long_queue_before_a_quick_one() -> None:
    slow, quick = pair(1.0, 0.1)
    quick.gauge.mine = 5
    assert is_better(quick, slow, 0.0)
    quick.gauge.mine = 12
    assert not is_better(quick, slow, 0.0)


def test_now_and_then_one_call_finds_out_whether_a_node_is_still_slow() -> None:
    slow, quick = pair(1.0, 0.01)
    later = TRUST + 1
    quick.measured(0.01, later)
    assert [first([slow, quick], turn=0, dice=0, now=later) for _ in range(5)] == ["0", "1", "1", "1", "1"]
    slow.measured(0.01, later + 0.1)
    assert slow.took == 0.01, "what was measured long ago does not count any more"
    assert first([slow, quick], turn=0, dice=0, now=later + 0.2) == "0"


def test_times_are_smoothed() -> None:
    one, _ = pair(1.0, None)
    one.measured(2.0, 0.1)
    assert one.took == pytest.approx(1.1)
    one.measured(0.1, 0.2)
    assert one.took == pytest.approx(0.6)


@pytest.mark.parametrize("place", range(6))
def test_one_slow_call_makes_no_node_slow(place: int) -> None:
    one, other = pair(0.001, 0.001)
    for number in range(6):
        one.measured(0.03 if number == place else 0.001, 0.0)
    assert not is_better(other, one, 0.0)


def test_one_slow_first_call_makes_no_node_slow() -> None:
    cold, warm = candidates((0, 1), (0, 1))
    cold.measured(0.03, 0.0)
    for _ in range(ENOUGH):
        assert not is_better(warm, cold, 0.0)
        warm.measured(0.01, 0.0)
    for _ in range(ENOUGH - 1):
        cold.measured(0.01, 0.0)
    assert cold.is_known(0.0)
    assert not is_better(warm, cold, 0.0)


# -- keys -----------------------------------------------------------------------------------------------------------


@given(st.sets(st.text("0123456789abcdef", min_size=4, max_size=8), min_size=1, max_size=9), st.text(max_size=20))
def test_a_key_meets_in_the_same_place_whatever_the_order(nodes: set[str], key: str) -> None:
    names = [NodeId(node) for node in nodes]
    order = meet(names, key)
    assert order == meet(reversed(names), key)
    assert sorted(order) == sorted(names)
    assert meet(names[1:], key) == [node for node in order if node != names[0]], "others stay where they are"


def test_keys_are_spread() -> None:
    firsts = Counter(meet([NodeId(n) for n in "abc"], f"key {number}")[0] for number in range(600))
    assert min(firsts.values()) > 150


# -- simulated ------------------------------------------------------------------------------------------------------


def scenario(name: str) -> Scenario:
    return next(one for one in SCENARIOS if one.name == name)


def p99(name: str, policy: str) -> float:
    return simulate(scenario(name), POLICIES[policy], seed=1).percentile(0.99)


@pytest.mark.parametrize(
    ("name", "most"),
    [
        ("one of three 10x slower, light load", 1 / 3),
        ("one of three 10x slower, half load", 1 / 3),
        ("the same, asynchronous handlers", 1 / 3),
        ("one stalls for 2 s", 1 / 3),
        ("one becomes 10x slower, then recovers", 1 / 3),
        ("sizes 1, 2, 4, 8", 0.8),
        ("idle, like nodes", 1.05),
        ("busy, like nodes", 1.2),
    ],
)
def test_p99_against_round_robin(name: str, most: float) -> None:
    assert p99(name, "ours") <= most * p99(name, "round robin")


def test_routers_that_see_old_reports_do_not_flock() -> None:
    name = "ten nodes, ten routers, 85%"
    assert p99(name, "ours") <= 0.9 * p99(name, "random")


def test_a_simulated_idle_grid_is_spread_evenly() -> None:
    shares = simulate(scenario("idle, like nodes"), POLICIES["ours"], seed=2).shares
    assert max(shares) - min(shares) <= 0.02 * sum(shares)


def test_a_node_that_recovers_gets_its_share_again() -> None:
    shares = simulate(scenario("one becomes 10x slower, then recovers"), POLICIES["ours"], seed=1).shares
    assert shares[2] > 0.5 * max(shares)


def test_a_seed_gives_the_same_run() -> None:
    runs = [simulate(scenario("one stalls for 2 s"), POLICIES["ours"], seed=5) for _ in range(2)]
    assert runs[0] == runs[1]


def test_a_near_node_is_left_for_one_that_is_clearly_quicker_alone() -> None:
    near, far = candidates((50, 1), (0, 1))
    assert rank([near, far], 7, 3, 0.0, near=0)[0] is near
    for _ in range(ENOUGH):
        near.measured(0.1, 0.0)
        far.measured(0.001, 0.0)
    assert rank([near, far], 7, 3, 0.0, near=0)[0] is far
