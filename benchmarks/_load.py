"""A closed loop of calls, driven by lines on stdin. Standard library only: it runs in other programs' environments."""

import json
import sys
import time
from collections import deque
from collections.abc import Callable
from typing import Any

BODY = {"text": "x" * 88}
"""100 bytes of JSON."""

Run = Callable[[int, float], tuple[list[float], float]]
"""(calls under way, seconds) -> (seconds each call took, seconds it all took)."""


def windowed(submit: Callable[[], Any], wait: Callable[[Any], object]) -> Run:
    """Keeps a window of calls under way, and waits for the oldest."""

    def run(window: int, seconds: float) -> tuple[list[float], float]:
        took: list[float] = []
        under_way: deque[tuple[float, Any]] = deque()
        now = started = time.perf_counter()
        while now - started < seconds or under_way:
            while len(under_way) < window and now - started < seconds:
                under_way.append((time.perf_counter(), submit()))
            sent, handle = under_way.popleft()
            wait(handle)
            now = time.perf_counter()
            took.append(now - sent)
        return took, now - started

    return run


def serve(run: Run) -> None:
    """Say that we are ready; then, for each line `WINDOW SECONDS`, a run and what came of it as a line of JSON."""
    run(1, 0.2)
    print("ready", flush=True)
    for line in sys.stdin:
        window, seconds = line.split()
        took, elapsed = run(int(window), float(seconds))
        took.sort()
        quantiles = [took[min(len(took) - 1, len(took) * percent // 100)] * 1000 for percent in range(1, 100)]
        print(json.dumps({"requests": len(took), "duration": elapsed, "quantiles": quantiles}), flush=True)
