"""Where a call goes: power of two choices over calls inside ÷ capacity, or over the time they take where nodes differ.

Pressure is what this node sent there and what the others are reported to have there, by capacity. Where one of two
nodes takes clearly longer for the same task, the expected wait is compared instead: the calls inside, this one
included, times the time one takes. An idle grid of like nodes is therefore spread evenly, in turn.
"""

import hashlib
import math
from collections.abc import Iterable, Sequence

from gridnode.model import Load, NodeId

CLEARLY = 2.0
"""How many times longer a node must take before it counts as slower."""
FLOOR = 0.003
"""Seconds added to both times before they are compared: a network hop does not make a node slow."""
TRUST = 5.0
"""Seconds a measured time holds. Then one call may find out anew, so that a node is not slow for ever."""
ENOUGH = 10
"""Calls that must have been measured: the first ones may have warmed something up, or met a busy moment."""
_UP, _DOWN = 0.1, 0.5
"""How far one call moves it: a node is as quick as its quick calls, what else runs on a server makes some slow."""
_SLACK = 0.5
"""Calls that one node must have less: old reports always differ a little, and turns spread better than they do."""
_USUAL = 0.1
"""Seconds a call may take of which nothing is known."""


class Gauge:
    """A node as seen from here. mine: calls of ours in it; others: those of everybody else when it last reported."""

    __slots__ = ("_load", "capacity", "mine", "node", "others", "reported")

    def __init__(self, node: NodeId, load: Load, now: float) -> None:
        self.node = node
        self.mine = 0
        self._load: Load | None = None
        self.report(load, now)

    def report(self, load: Load, now: float) -> None:
        """The node says how much is in it. The same object again is no news: ours changed meanwhile, it did not."""
        if load is self._load:
            return
        self._load = load
        self.capacity = max(1, load.capacity)
        self.others = max(0, load.in_flight - self.mine)
        self.reported = now


class Candidate:
    """A node that serves one task. took: seconds a call of that task takes there, smoothed; None: not known."""

    __slots__ = ("_asking", "_measured", "_took_at", "gauge", "took")

    def __init__(self, gauge: Gauge) -> None:
        self.gauge = gauge
        self.took: float | None = None
        self._measured = 0
        self._took_at = 0.0
        self._asking = False

    @property
    def node(self) -> NodeId:
        return self.gauge.node

    def inside(self, now: float) -> float:
        """Calls in the node by our best guess: those of others count half once a call has had the time to end."""
        gauge = self.gauge
        if not gauge.others:
            return gauge.mine
        return gauge.mine + gauge.others * math.exp2((gauge.reported - now) / max(FLOOR, self.took or _USUAL))

    def measured(self, seconds: float, now: float) -> None:
        """A call that started there was over after so long."""
        self._measured += 1
        if self.took is None or self._asking:
            self.took, self._asking = seconds, False
        else:
            self.took += (_UP if seconds > self.took else _DOWN) * (seconds - self.took)
        self._took_at = now

    def is_known(self, now: float) -> bool:
        return self._measured >= ENOUGH and now - self._took_at <= TRUST

    def chosen(self, now: float) -> None:
        """It gets a call: if what is known of it is old, that one finds out, and others wait for what it finds."""
        if self._measured >= ENOUGH and now - self._took_at > TRUST:
            self._took_at, self._asking = now, True


def is_better(other: Candidate, first: Candidate, now: float, is_near: bool = False) -> bool:
    """Whether a call is better placed on `other` than on the one whose turn it is, or which is near."""
    theirs, its = other.inside(now), first.inside(now)
    if other.took is not None and first.took is not None and other.is_known(now) and first.is_known(now):
        long, short = other.took + FLOOR, first.took + FLOOR
        if long > CLEARLY * short or short > CLEARLY * long:
            return (theirs + 1) / other.gauge.capacity * long < (its + 1) / first.gauge.capacity * short
    return not is_near and (theirs + _SLACK) / other.gauge.capacity < its / first.gauge.capacity


def rank(candidates: Sequence[Candidate], turn: int, dice: int, now: float, near: int | None = None) -> list[Candidate]:
    """All of them, best first: the better of the next in turn and a random other, then the rest in turn.

    near: which of them is where the call is already, of a caller that spreads its calls evenly: it has the turn, and
    only one that takes clearly less time is better.
    """
    count = len(candidates)
    if not count:
        return []
    first = turn % count if near is None else near
    order = [*candidates[first:], *candidates[:first]]
    if count > 1:
        other = 1 + dice % (count - 1)
        if is_better(order[other], order[0], now, near is not None):
            order[0], order[other] = order[other], order[0]
    order[0].chosen(now)
    return order


def meet(nodes: Iterable[NodeId], key: str) -> list[NodeId]:
    """Rendezvous hashing: an order of the nodes by the key alone, the same wherever it is asked for."""
    return sorted(nodes, key=lambda node: hashlib.blake2b(f"{key}\n{node}".encode(), digest_size=16).digest())
