"""The swarm's own code between hundreds of simulated nodes: how long a tree takes to spread, and who sends it."""

from collections.abc import Callable
from functools import partial

import pytest

from benchmarks._swarm import MB, Simulation, alike, mixed
from benchmarks.swarm import Point, plot


@pytest.mark.parametrize("rates", [alike(8), mixed(8, 3)], ids=["alike", "mixed"])
@pytest.mark.parametrize("pieces", [64, 256])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_eight_nodes_have_it_in_little_more_than_one_copys_time(
    rates: list[tuple[float, float]], pieces: int, seed: int
) -> None:
    ran = Simulation(rates, pieces * MB, pieces, seed).run()
    assert ran.seconds <= 1.3 * ran.one_copy
    assert ran.copies <= 1.3


def test_two_nodes_take_one_copy() -> None:
    ran = Simulation(alike(2), 64 * MB, 64, 1).run()
    assert ran.seconds <= 1.05 * ran.one_copy
    assert ran.copies == 1


def test_a_thousand_nodes() -> None:
    ran = Simulation(mixed(1000, 1), 64 * MB, 64, 1).run()
    assert ran.seconds <= 1.5 * ran.one_copy
    assert ran.copies <= 2


def test_a_small_tree_spreads_too() -> None:
    ran = Simulation(alike(30), MB, 2, 1).run()
    assert ran.seconds < 20 * ran.one_copy, "two pieces cannot be shared out"


@pytest.mark.parametrize("count", [1, 4])
def test_the_others_have_it_although_nodes_die(count: int) -> None:
    simulation = Simulation(alike(10), 64 * MB, 64, 5)
    for node in simulation.nodes[1 : count + 1]:
        simulation._after(1.0, partial(simulation.kill, node))
    assert simulation.run().seconds < 3 * 64 * MB / (15 * MB)


def test_the_same_seed_is_the_same_run() -> None:
    run: Callable[[], object] = Simulation(mixed(20, 2), 64 * MB, 64, 7).run
    assert run() == Simulation(mixed(20, 2), 64 * MB, 64, 7).run()


def test_the_plot_is_well_formed() -> None:
    from xml.etree import ElementTree

    points = [Point(kind, Simulation(alike(n), 8 * MB, 8, 1).run()) for kind in ("alike", "mixed") for n in (2, 3)]
    assert ElementTree.fromstring(plot(points)).tag.endswith("svg")
