"""What a benchmark prints: measures against targets, as an aligned table or as JSON."""

import argparse
import json
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

SCHEMA = 1


@dataclass(frozen=True)
class Measure:
    """One figure. at_most, at_least: its targets, when it has any."""

    name: str
    value: float
    unit: str = ""
    at_most: float | None = None
    at_least: float | None = None

    @property
    def passed(self) -> bool | None:
        """Whether the targets are met; None without one."""
        if self.at_most is None and self.at_least is None:
            return None
        return (self.at_most is None or self.value <= self.at_most) and (
            self.at_least is None or self.value >= self.at_least
        )

    def cells(self) -> list[str]:
        target = f"<= {self.at_most:g}" if self.at_most is not None else ""
        target = f">= {self.at_least:g}" if self.at_least is not None else target
        verdict = {True: "pass", False: "MISS", None: ""}[self.passed]
        return [self.name, number(self.value), self.unit, target, verdict]


@dataclass
class Report:
    """One run. load: the machine's 1 min load average before it began, without which no figure means much."""

    name: str
    measures: list[Measure] = field(default_factory=list)
    details: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    cores: int = os.cpu_count() or 1
    load: float = field(default_factory=lambda: round(os.getloadavg()[0], 2))

    def print(self, as_json: bool) -> None:
        """JSON on stdout, or the tables: details first, then the measures."""
        if as_json:
            measures = [asdict(one) | {"passed": one.passed} for one in self.measures]
            print(json.dumps({"schema": SCHEMA, **asdict(self), "measures": measures}))
            return
        print(f"{self.name}: {self.cores} cores, load average {self.load:g} before the run\n")
        if self.details:
            heads = list(self.details[0])
            rows = [[number(row[head]) for head in heads] for row in self.details]
            print(aligned([heads, *rows]) + "\n")
        print(aligned([["measure", "value", "unit", "target", ""], *(one.cells() for one in self.measures)]))
        for note in self.notes:
            print(f"\n{note}")


def number(value: object) -> str:
    """A cell: four significant digits at most, and no exponent."""
    if not isinstance(value, float):
        return str(value)
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3
    return f"{value:,.{digits}f}"


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """The rows in columns: the first to the left, columns of numbers to the right."""
    columns = list(zip(*rows, strict=True))
    pads = [str.rjust if _is_numeric(column[1:]) else str.ljust for column in columns]
    widths = [max(map(len, column)) for column in columns]
    lines = ([pad(cell, width) for pad, cell, width in zip(pads, row, widths, strict=True)] for row in rows)
    return "\n".join("  ".join(line).rstrip() for line in lines)


def _is_numeric(cells: Iterable[str]) -> bool:
    return all(cell.replace(",", "").replace(".", "").lstrip("-").isdigit() for cell in cells if cell)


def parser(doc: str | None, rounds: int) -> argparse.ArgumentParser:
    """The options every benchmark has."""
    made = argparse.ArgumentParser(description=doc)
    made.add_argument("--json", action="store_true", help="print JSON")
    made.add_argument("--rounds", type=int, default=rounds, help=f"how often each thing is measured ({rounds})")
    return made


def say(text: str) -> None:
    """Progress, on stderr."""
    print(text, file=sys.stderr, flush=True)
