"""Membership in grids of up to 1,000 simulated nodes: convergence, deaths, traffic, false suspicions; needs no engine.

One run: scripts/bench simulate --seed 1 --nodes 1000 --loss 0.05. A run with the same arguments is the same run.
"""

import time
from argparse import Namespace
from typing import Any

from benchmarks._table import Measure, Report, parser, say
from gridnode.identity import public_key_of
from gridnode.ledger import sign_document, verifier
from gridnode.model import MemberState
from tests.simulator.grid import Grid

KEY = b"k" * 32
IDLE = 60.0
MOST = 120.0
"""Seconds after which a scenario is given up: what it was to measure is infinite."""


def join(grid: Grid) -> dict[str, Any]:
    """All nodes start at once, with three seeds between them."""
    grid.boot()
    took = grid.until(grid.is_whole, MOST)
    return {"join s": took, "join KB": grid.traffic()[1] / len(grid.nodes) / 1000}


def idle(grid: Grid) -> dict[str, Any]:
    grid.run(30)
    (messages, size), suspicions = grid.traffic(), grid.suspicions
    grid.run(IDLE)
    after, count = grid.traffic(), len(grid.nodes) * IDLE
    links = sum(len(node.links) for node in grid.nodes) / len(grid.nodes)
    return {
        "links": links,
        "idle msg/s": (after[0] - messages) / count,
        "idle B/s": (after[1] - size) / count,
        "suspicions": grid.suspicions - suspicions,
    }


def document(grid: Grid) -> dict[str, Any]:
    """An operator's document, put on one node; then two that conflict, on two."""
    verified, most = verifier(public_key_of(KEY)), len(grid.nodes) - 1
    grid.put(0, sign_document(KEY, "note", "a", 1, b"a"), verified)
    grid.until(lambda: len(grid.rounds) > most, MOST)
    rounds = max(grid.rounds.values()) if len(grid.rounds) > most else float("inf")
    for number, body in ((0, b"one"), (most, b"other")):
        grid.put(number, sign_document(KEY, "note", "a", 2, body), verified)
    grid.run(20)
    return {"rounds": rounds, "held": len({node.ledger.latest("note", "a") for node in grid.nodes})}


def flap(grid: Grid) -> dict[str, Any]:
    """One node stands still for a moment, ten times; then all is well again."""
    last, before = len(grid.nodes) - 1, grid.deaths
    for _ in range(10):
        grid.freeze(last)
        grid.run(grid.dice.uniform(0.2, 4.0))
        grid.thaw(last)
        grid.run(grid.dice.uniform(0.2, 4.0))
    return {"flap s": grid.until(grid.is_whole, MOST), "flap deaths": grid.deaths - before}


def partition(grid: Grid) -> dict[str, Any]:
    """Two fifths are cut off for a minute."""
    grid.split(grid.dice.sample(range(len(grid.nodes)), max(1, len(grid.nodes) * 2 // 5)))
    grid.run(60)
    grid.heal()
    return {"heal s": grid.until(grid.is_whole, MOST)}


def death(grid: Grid) -> dict[str, Any]:
    """One server loses power, none of the seeds; later it is back."""
    last = len(grid.nodes) - 1
    took = _known(grid, [last])
    grid.run(20)
    grid.restart(last)
    grid.until(grid.is_whole, MOST)
    return {"death s": took}


def deaths(grid: Grid) -> dict[str, Any]:
    """A third loses power, at one moment."""
    last = len(grid.nodes) - 1
    return {"deaths s": _known(grid, list(range(last - last // 3, last)))}


def _known(grid: Grid, victims: list[int]) -> float:
    """Seconds until 99% of the others know that these are dead."""
    grid.kill(victims)
    return grid.until(lambda: grid.knowing(victims, MemberState.DEAD) >= 0.99, MOST)


SCENARIOS = (join, idle, document, death, deaths, flap, partition)


def simulate(nodes: int, loss: float, seed: int, names: list[str]) -> dict[str, Any]:
    """One grid through all scenarios, or through the named ones; what was measured, by name."""
    started = time.monotonic()
    grid = Grid(nodes, seed, loss)
    found: dict[str, Any] = {"nodes": nodes, "loss": f"{loss:.0%}", "seed": seed}
    for scenario in SCENARIOS:
        if scenario.__name__ in names:
            told = scenario(grid)
            found |= told
            took = time.monotonic() - started
            say(f"{nodes} nodes, {loss:.0%} loss, seed {seed}, after {took:.0f} s: {scenario.__name__}: {told}")
    return found | {"false deaths": grid.deaths - found.get("flap deaths", 0)}


def measures(found: dict[str, Any]) -> list[Measure]:
    """Those of the scenarios that were run; targets hold up to 5% loss."""
    nodes, is_lossy = found["nodes"], found["loss"] not in ("0%", "5%")
    kinds = (
        ("join s", "join", "s", 15),
        ("death s", "death known to 99%", "s", 3 if nodes <= 3 else 10),
        ("idle B/s", "idle, sent per node", "B/s", 2048 if nodes > 64 else None),
        ("false deaths", "false deaths", "", 0),
        ("rounds", "document everywhere", "rounds", 10),
        ("held", "outcomes of a conflict", "", 1),
    )
    return [
        Measure(f"{nodes} nodes, {found['loss']}: {name}", found[key], unit, at_most=None if is_lossy else most)
        for key, name, unit, most in kinds
        if key in found
    ]


def main(options: Namespace) -> None:
    report = Report("simulate")
    for nodes in options.nodes:
        for loss in options.loss:
            for seed in range(options.seed, options.seed + options.rounds):
                found = simulate(nodes, loss, seed, options.only)
                report.details.append(found)
                report.measures += measures(found)
    report.notes = [
        "Simulated seconds. deaths: a third of the grid at once; heal: after a minute of 2|3; suspicions: first-hand "
        f"ones of nodes that were well, in {IDLE:g} s idle. flap deaths: how often one that stands still ten times, "
        "for up to 4 s, was called dead just when it was back. Bytes are of frames and TLS records alone."
    ]
    report.print(options.json)


if __name__ == "__main__":
    arguments = parser(__doc__, rounds=1)
    arguments.add_argument("--nodes", type=int, nargs="+", default=[3, 100, 1000], help="sizes of grids")
    arguments.add_argument("--loss", type=float, nargs="+", default=[0.0, 0.05, 0.3], help="of packets, 0 to 1")
    arguments.add_argument("--seed", type=int, default=1, help="of the first run")
    every = [scenario.__name__ for scenario in SCENARIOS]
    arguments.add_argument("--only", nargs="+", default=every, choices=every, help="scenarios, in this order")
    main(arguments.parse_args())
