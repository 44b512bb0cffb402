"""Whole grids of membership cores, simulated in one process; every run is reproduced by its seed."""

import random

import pytest

from gridnode.identity import public_key_of
from gridnode.ledger import sign_document, verifier
from gridnode.membership import MembershipLimits
from gridnode.model import MemberState
from tests.simulator.grid import Grid

ALIVE, SUSPECT, DEAD = MemberState.ALIVE, MemberState.SUSPECT, MemberState.DEAD
KEY = b"k" * 32


@pytest.mark.parametrize("seed", range(6))
def test_everybody_ends_up_linked_to_everybody(seed: int) -> None:
    count = random.Random(seed).randint(3, 24)
    grid = Grid(count, seed)
    grid.boot(within=5.0)
    assert grid.until(grid.is_whole, 10.0) <= 7.0
    grid.run(60)
    assert all(len(node.links) == count - 1 for node in grid.nodes)
    assert (grid.suspicions, grid.deaths) == (0, 0)
    dials = [node.dials for node in grid.nodes]
    grid.run(60)
    assert [node.dials for node in grid.nodes] == dials, "a full mesh has nothing to dial"


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("loss", [0.05, 0.3])
def test_also_when_packets_get_lost(seed: int, loss: float) -> None:
    grid = Grid(random.Random(seed).randint(3, 12), seed, loss)
    grid.boot()
    assert grid.until(grid.is_whole, 60.0) <= 20.0
    grid.run(120)
    assert grid.is_whole()
    assert grid.deaths == 0 or loss > 0.05


@pytest.mark.parametrize("silently", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_at_three_nodes_a_death_is_known_within_3_seconds(seed: int, silently: bool) -> None:
    grid = Grid(3, seed)
    grid.boot()
    grid.run(10)
    grid.kill([2], silently)
    assert grid.until(lambda: grid.knowing([2], DEAD) == 1.0, 10.0) <= (3.0 if silently else 2.0)
    grid.run(60)
    grid.restart(2)
    assert grid.until(grid.is_whole, 20.0) <= 6.0
    assert grid.deaths == 0


@pytest.mark.parametrize("seed", range(3))
def test_the_dead_are_known_as_such_and_return(seed: int) -> None:
    count = random.Random(seed).randint(4, 20)
    grid = Grid(count, seed)
    grid.boot()
    grid.run(20)
    victims = grid.dice.sample(range(1, count), grid.dice.randint(1, count // 2))
    grid.kill(victims)
    assert grid.until(lambda: grid.knowing(victims, DEAD) == 1.0, 10.0) <= 4.0
    grid.run(30)
    assert grid.is_whole()
    for victim in victims:
        grid.restart(victim)
    assert grid.until(grid.is_whole, 30.0) <= 10.0


@pytest.mark.parametrize("seed", range(3))
def test_one_that_pauses_for_a_moment_stays_and_one_that_pauses_for_long_comes_back(seed: int) -> None:
    grid = Grid(5, seed)
    grid.boot()
    grid.run(10)
    grid.freeze(4)
    grid.run(1.7)
    grid.thaw(4)
    grid.run(5)
    assert grid.is_whole()
    assert [grid.sees(number, 4) for number in range(4)] == [ALIVE] * 4
    grid.freeze(4)
    grid.run(30)
    assert grid.knowing([4], DEAD, [grid.nodes[number] for number in range(4)]) == 1.0
    grid.thaw(4)
    assert grid.until(grid.is_whole, 20.0) <= 12.0
    assert [grid.sees(number, 4) for number in range(4)] == [ALIVE] * 4


@pytest.mark.parametrize(("count", "away"), [(3, 1), (4, 2), (12, 6), (80, 30)])
def test_a_partition_heals(count: int, away: int) -> None:
    grid = Grid(count, count)
    grid.boot()
    grid.run(20)
    far = set(grid.dice.sample(range(count), away))
    grid.split(far)
    sides = [far, set(range(count)) - far]

    def is_seen() -> bool:
        return all(
            grid.knowing(other, DEAD, (grid.nodes[number] for number in one)) == 1.0
            for one, other in (sides, sides[::-1])
        )

    assert grid.until(is_seen, 60.0) <= (4.0 if count < 65 else 45.0)
    for side in sides:
        assert grid.knowing(side, ALIVE, [grid.nodes[number] for number in side]) == 1.0, "each side stays whole"
    assert grid.deaths == 0
    grid.heal()
    assert grid.until(grid.is_whole, 60.0) <= 30.0


def test_flapping_does_not_make_anybody_dead_for_good() -> None:
    grid = Grid(12, 7, 0.02)
    grid.boot()
    grid.run(10)
    for _ in range(20):
        grid.freeze(11)
        grid.run(grid.dice.uniform(0.2, 3.0))
        grid.thaw(11)
        grid.run(grid.dice.uniform(0.2, 3.0))
    assert grid.until(grid.is_whole, 30.0) <= 15.0
    others = range(11)
    assert grid.knowing(others, ALIVE, [grid.nodes[number] for number in others]) == 1.0


@pytest.fixture(scope="module")
def hundred() -> Grid:
    grid = Grid(100, 11, 0.05, MembershipLimits(idle_after=15))
    grid.boot()
    assert grid.until(grid.is_whole, 30.0) <= 8.0
    grid.run(30)
    return grid


def test_a_larger_grid_is_connected_by_few_links(hundred: Grid) -> None:
    degrees = [len(node.links) for node in hundred.nodes]
    assert sum(degrees) / len(degrees) <= 20
    assert min(degrees) >= 8
    assert hundred.is_connected(hundred.up())
    assert hundred.deaths == 0


def test_it_is_quiet_when_idle(hundred: Grid) -> None:
    before = hundred.traffic()[1]
    hundred.run(30)
    assert (hundred.traffic()[1] - before) / 30 / 100 <= 2048
    assert hundred.deaths == 0


def test_a_call_makes_a_link_that_is_closed_once_idle(hundred: Grid) -> None:
    node = hundred.nodes[5]
    target = next(number for number in range(100) if number != 5 and number not in node.links)
    hundred.call(5, target)
    hundred.run(2)
    assert target in node.links
    hundred.run(30)
    assert target not in node.links
    assert hundred.sees(5, target) is ALIVE


def test_a_document_reaches_all_and_conflicts_resolve_the_same_everywhere(hundred: Grid) -> None:
    verified = verifier(public_key_of(KEY))
    hundred.put(3, sign_document(KEY, "note", "a", 7, b"signed"), verified)
    hundred.run(10)
    assert len(hundred.rounds) == 100
    assert max(hundred.rounds.values()) <= 10
    one, other = (sign_document(KEY, "note", "a", 8, body) for body in (b"one", b"other"))
    hundred.put(10, one, verified)
    hundred.put(90, other, verified)
    hundred.run(20)
    held = {node.ledger.latest("note", "a") for node in hundred.nodes}
    assert len(held) == 1
    assert held <= {one, other}
    hundred.put(20, sign_document(KEY, "note", "a", 6, b"older"), verified)
    hundred.run(10)
    assert {node.ledger.latest("note", "a") for node in hundred.nodes} == held, "none goes back"


def test_many_deaths_at_once_are_known(hundred: Grid) -> None:
    """Changes the grid: the last of its tests."""
    victims = hundred.dice.sample(range(3, 100), 33)
    hundred.kill(victims)
    assert hundred.until(lambda: hundred.knowing(victims, DEAD) >= 0.99, 30.0) <= 10.0
    hundred.run(40)
    assert hundred.is_whole()
    assert hundred.deaths == 0


def test_a_run_is_reproduced_by_its_seed() -> None:
    def run() -> tuple[int, int, list[int]]:
        grid = Grid(7, 42, loss=0.2, limits=MembershipLimits())
        grid.boot()
        grid.run(20)
        return *grid.traffic(), [node.dials for node in grid.nodes]

    assert run() == run()
