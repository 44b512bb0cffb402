"""Placement, simulated with a seed: p50 and p99 of calls, against round robin and random, in unlike grids."""

import statistics
from argparse import Namespace
from collections.abc import Iterator
from typing import Any

from benchmarks._placement import POLICIES, SCENARIOS, Result, Scenario, simulate
from benchmarks._table import Measure, Report, parser, say

SLOW = ("one of three 10x slower, light load", "one of three 10x slower, half load", "the same, asynchronous handlers")


def run(scenario: Scenario, rounds: int) -> dict[str, list[Result]]:
    """Every policy on the same calls; another seed each round."""
    say(scenario.name)
    return {name: [simulate(scenario, policy, seed) for seed in range(rounds)] for name, policy in POLICIES.items()}


def milliseconds(results: list[Result], part: float) -> float:
    return statistics.median(result.percentile(part) for result in results) * 1000


def details(found: dict[str, dict[str, list[Result]]]) -> Iterator[dict[str, Any]]:
    for scenario, by_policy in found.items():
        row: dict[str, Any] = {"scenario": scenario}
        for part, head in ((0.5, "p50"), (0.99, "p99")):
            row |= {f"{head} {policy}": milliseconds(results, part) for policy, results in by_policy.items()}
        yield row


def main(options: Namespace) -> None:
    report = Report("placement")
    found = {scenario.name: run(scenario, options.rounds) for scenario in SCENARIOS}
    report.details = list(details(found))
    for name in SLOW:
        ours, other = (milliseconds(found[name][policy], 0.99) for policy in ("ours", "round robin"))
        report.measures.append(Measure(f"p99 / round robin's: {name}", ours / other, "x", at_most=1 / 3))
    report.notes = ["Milliseconds, simulated: a call takes 5 to 15 ms at speed 1. Medians of the rounds."]
    report.print(options.json)


if __name__ == "__main__":
    main(parser(__doc__, rounds=3).parse_args())
