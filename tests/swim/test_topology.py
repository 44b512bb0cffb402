import random

import pytest

from gridnode.model import NodeId
from gridnode.swim.topology import degree, drawn, rank_of, scaled

IDS = [NodeId(f"{number:040x}") for number in range(1000)]


@pytest.mark.parametrize(("size", "expected"), [(1, 0), (3, 2), (64, 63), (65, 7), (128, 7), (1000, 10), (4096, 12)])
def test_up_to_64_all_and_then_a_few(size: int, expected: int) -> None:
    assert degree(size, 64) == expected


def test_a_draw_is_stable_when_others_come_and_go() -> None:
    ranked = [(rank_of(b"salt", node), node) for node in IDS]
    few = drawn(ranked, 10)
    assert len(few) == 10
    without = next(node for node in IDS if node not in few)
    assert drawn([one for one in ranked if one[1] != without], 10) == few
    lost = next(iter(few))
    assert len(drawn([one for one in ranked if one[1] != lost], 10) & few) == 9
    assert drawn([(rank_of(b"another", node), node) for node in IDS], 10) != few


@pytest.mark.parametrize("seed", range(5))
def test_the_graph_is_connected_even_when_a_third_is_gone(seed: int) -> None:
    dice = random.Random(seed)
    salts = {node: dice.randbytes(16) for node in IDS}
    neighbours: dict[NodeId, set[NodeId]] = {node: set() for node in IDS}
    for node in IDS:
        for other in drawn(((rank_of(salts[node], other), other) for other in IDS if other != node), 10):
            neighbours[node].add(other)
            neighbours[other].add(node)
    left = set(dice.sample(IDS, 667))
    seen, queue = set[NodeId](), [next(iter(left))]
    while queue:
        node = queue.pop()
        if node not in seen:
            seen.add(node)
            queue += neighbours[node] & left
    assert seen == left


def test_suspicion_grows_with_log_n() -> None:
    assert [scaled(1.25, size) for size in (2, 10, 100, 1000)] == [1.25, 1.25, 2.5, 3.75]
