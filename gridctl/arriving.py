"""How a release's way to each node is shown: a bar for each on a terminal, else lines now and then."""

import time
from collections.abc import Callable

from gridctl.follow import Arrival
from gridctl.render import Progress, drawn, way
from gridnode.model import NodeId, ReleaseState

__all__ = ["Telling"]

EVERY = 5.0
"""Seconds between two lines about one node that is still fetching."""
_FETCHING = ReleaseState.FETCHING.value


class Telling:
    """is_new: the release is; of one that was there before, only nodes that fetch are shown."""

    def __init__(self, progress: Progress, is_new: bool, now: Callable[[], float] = time.monotonic) -> None:
        self._progress = progress
        self._is_new = is_new
        self._now = now
        self._fetching: dict[NodeId, Arrival] = {}
        self._shown: dict[NodeId, str] = {}
        self._due: dict[NodeId, float] = {}

    def tell(self, arrival: Arrival) -> None:
        """A node is somewhere else than before."""
        if arrival.state != self._shown.get(arrival.node):
            self._enter(arrival)
        if arrival.state == _FETCHING and arrival.total:
            self._fetching[arrival.node] = arrival
            self._say_how_far(arrival)
        else:
            self._fetching.pop(arrival.node, None)
        if self._fetching:
            self._progress.bars(self._bars)

    def _enter(self, arrival: Arrival) -> None:
        self._shown[arrival.node] = arrival.state
        self._due[arrival.node] = self._now() + EVERY
        if self._is_new and arrival.state != "waiting":
            self._progress.line(f"{arrival.name}: {arrival.state}" + (f": {arrival.error}" if arrival.error else ""))

    def _say_how_far(self, arrival: Arrival) -> None:
        if not self._progress.is_live and self._now() >= self._due[arrival.node]:
            self._due[arrival.node] = self._now() + EVERY
            self._progress.line(f"{arrival.name}: fetching {way(arrival.have, arrival.total, arrival.rate)}")

    def _bars(self) -> list[str]:
        width = max(len(one.name) for one in self._fetching.values())
        return [
            f"{one.name.ljust(width)} {drawn(one.have, one.total)} {way(one.have, one.total, one.rate)}"
            for one in sorted(self._fetching.values(), key=lambda one: one.name)
        ]
