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
    last = len(grid.nodes) - 1
    for _ in range(10):
        grid.freeze(last)
        grid.run(grid.dice.uniform(0.2, 4.0))
        grid.thaw(last)
        grid.run(grid.dice.uniform(0.2, 4.0))
    return {"flap s": grid.until(grid.is_whole, MOST)}


def partition(grid: Grid) -> dict[str, Any]:
    """Two fifths are cut off for a minute."""
    grid.split(grid.dice.sample(range(len(grid.nodes)), max(1, len(grid.nodes) * 2 // 5)))
    grid.run(60)
    grid.heal()
    return {"heal s": grid.until(grid.is_whole, MOST)}


def deaths(grid: Grid) -> dict[str, Any]:
    """One server loses power, then a third of those that are left; none of the seeds."""
    last = len(grid.nodes) - 1

    def known(victims: list[int]) -> float:
        grid.kill(victims)
        return grid.until(lambda: grid.knowing(victims, MemberState.DEAD) >= 0.99, MOST)

    one = known([last])
    grid.run(20)
    return {"death s": one, "deaths s": known(list(range(last - last // 3, last)))}


def simulate(nodes: int, loss: float, seed: int) -> dict[str, Any]:
    """One grid through all scenarios; what was measured, by name."""
    started = time.monotonic()
    grid = Grid(nodes, seed, loss)
    found: dict[str, Any] = {"nodes": nodes, "loss": f"{loss:.0%}", "seed": seed}
    for scenario in (join, idle, document, flap, partition, deaths):
        found |= scenario(grid)
        say(f"{nodes} nodes, {loss:.0%} loss, seed {seed}: {scenario.__name__}, {time.monotonic() - started:.0f} s")
    return found | {"false deaths": grid.deaths}


def measures(found: dict[str, Any]) -> list[Measure]:
    nodes, name = found["nodes"], f"{found['nodes']} nodes, {found['loss']}: "
    lossy = found["loss"] not in ("0%", "5%")
    target = None if lossy else 3.0 if nodes <= 3 else 10.0
    return [
        Measure(f"{name}join", found["join s"], "s", at_most=None if lossy else 15),
        Measure(f"{name}death known to 99%", found["death s"], "s", at_most=target),
        Measure(
            f"{name}idle, sent per node", found["idle B/s"], "B/s", at_most=2048 if nodes > 64 and not lossy else None
        ),
        Measure(f"{name}false deaths", found["false deaths"], at_most=None if lossy else 0),
        Measure(f"{name}document everywhere", found["rounds"], "rounds", at_most=10),
        Measure(f"{name}outcomes of a conflict", found["held"], at_most=1),
    ]


def main(options: Namespace) -> None:
    report = Report("simulate")
    for nodes in options.nodes:
        for loss in options.loss:
            for seed in range(options.seed, options.seed + options.rounds):
                found = simulate(nodes, loss, seed)
                report.details.append(found)
                report.measures += measures(found)
    report.notes = [
        "Simulated seconds. deaths: a third of the grid at once; heal: after a minute of 2|3; suspicions: first-hand "
        f"ones of nodes that were well, in {IDLE:g} s idle. Bytes are of frames and TLS records alone."
    ]
    report.print(options.json)


if __name__ == "__main__":
    arguments = parser(__doc__, rounds=1)
    arguments.add_argument("--nodes", type=int, nargs="+", default=[3, 100, 1000], help="sizes of grids")
    arguments.add_argument("--loss", type=float, nargs="+", default=[0.0, 0.05, 0.3], help="of packets, 0 to 1")
    arguments.add_argument("--seed", type=int, default=1, help="of the first run")
    main(arguments.parse_args())
