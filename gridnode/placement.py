"""Where a call goes: power of two choices over in-flight ÷ capacity, ties in round robin."""

from collections.abc import Sequence
from dataclasses import dataclass

from gridnode.model import NodeId


@dataclass(frozen=True, slots=True)
class Candidate:
    """A node that serves the task. Calls inside it now, and how many it runs at once (at least 1)."""

    node: NodeId
    in_flight: int
    capacity: int

    @property
    def pressure(self) -> float:
        return self.in_flight / self.capacity


def rank(candidates: Sequence[Candidate], turn: int, dice: int) -> list[NodeId]:
    """All candidates, best first: the less pressed of the next in turn and a random other, then the rest in turn."""
    count = len(candidates)
    if not count:
        return []
    first = turn % count
    order = [*candidates[first:], *candidates[:first]]
    if count > 1:
        other = 1 + dice % (count - 1)
        if order[other].pressure < order[0].pressure:
            order[0], order[other] = order[other], order[0]
    return [candidate.node for candidate in order]
