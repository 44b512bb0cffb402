"""What became of many calls: counts, rates and times, for people and for programs."""

from array import array
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

from gridctl.render import table
from gridnode.errors import GridError
from gridnode.model import Outcome

__all__ = ["Tally"]

_PARTS: Final = (0.5, 0.9, 0.99)


class Tally:
    """Counts outcomes; 8 bytes each. seconds: how long all of it took."""

    def __init__(self) -> None:
        self.errors: Counter[str] = Counter()
        self.nodes: Counter[str] = Counter()
        self.attempts = 0
        self.seconds = 0.0
        self.first: dict[str, GridError] = {}
        self._times = array("d")

    @property
    def count(self) -> int:
        return len(self._times)

    @property
    def failed(self) -> int:
        return self.errors.total()

    @property
    def rate(self) -> float:
        """Calls a second."""
        return self.count / self.seconds if self.seconds else 0.0

    def add(self, outcome: Outcome) -> None:
        self._times.append(outcome.duration)
        self.attempts += outcome.attempts
        if outcome.node:
            self.nodes[outcome.name or outcome.node[:8]] += 1
        if outcome.error:
            self.errors[outcome.error.code] += 1
            self.first.setdefault(outcome.error.code, outcome.error)

    @property
    def usual_error(self) -> GridError | None:
        """The first of the kind that came most."""
        return self.first[self.errors.most_common(1)[0][0]] if self.errors else None

    def times(self) -> dict[str, float]:
        """p50, p90, p99, min and max, in milliseconds; nothing without a call."""
        ordered = sorted(self._times)
        if not ordered:
            return {}
        found = {f"p{part * 100:g}": ordered[min(int(len(ordered) * part), len(ordered) - 1)] for part in _PARTS}
        return {
            name: round(value * 1000, 3) for name, value in (found | {"min": ordered[0], "max": ordered[-1]}).items()
        }

    def as_fields(self) -> dict[str, Any]:
        """As `--json` prints it."""
        return {
            "calls": self.count,
            "succeeded": self.count - self.failed,
            "errors": dict(self.errors.most_common()),
            "attempts": self.attempts,
            "seconds": round(self.seconds, 3),
            "calls_per_second": round(self.rate, 1),
            "times_ms": self.times(),
            "nodes": dict(sorted(self.nodes.items())),
        }

    def lines(self) -> Iterator[str]:
        """For people."""
        yield f"{self.count} calls in {self.seconds:.2f} s: {self.rate:,.0f}/s; {self.failed} failed"
        times = self.times()
        if times:
            yield "  ".join(f"{name} {value:.2f} ms" for name, value in times.items())
        for code, count in self.errors.most_common():
            yield f"{code}: {count}, the first: {self.first[code].message}"
        if self.nodes:
            yield from table(("NODE", "CALLS"), [(name, str(count)) for name, count in sorted(self.nodes.items())])
