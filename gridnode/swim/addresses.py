"""Where nodes may listen, and when to dial there next; what peers tell is bounded, a seed is never given up."""

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from gridnode.model import Address, NodeId

_GIVE_UP = 20
"""Dials that failed in a row, after which an address that nobody needs is forgotten."""
_LATER = 0.5
"""Seconds until one whose turn has not come is looked at again."""


@dataclass(slots=True)
class Place:
    """One address. due: when to dial next, None while a dial is under way or nobody wants one; began: when it last was.

    good: a dial led to its node, and none has failed since.
    """

    node: NodeId | None
    seed: bool
    due: float | None = None
    began: float = 0.0
    dialling: bool = False
    failures: int = 0
    is_self: bool = False
    good: bool = False


@dataclass(slots=True)
class Addresses:
    """Seconds. first, last: how long after a failed dial the next one follows, doubling; most: in all.

    A sixty-fourth of `most` is for one node: no single one fills the table.
    """

    first: float
    last: float
    most: int
    places: dict[Address, Place] = field(default_factory=dict)
    _by_node: dict[NodeId, dict[Address, None]] = field(default_factory=dict)
    _queue: list[tuple[float, Address]] = field(default_factory=list)

    def add(self, address: Address, node: NodeId | None, seed: bool, due: float) -> bool:
        """Remember an address that is new, to be dialled at `due`; whether it was, and there was room."""
        if address in self.places or not _can_be_dialled(address):
            return False
        known = len(self._by_node.get(node, ())) if node else 0
        if not seed and (len(self.places) >= self.most or known >= self.most // 64):
            return False
        self.places[address] = Place(node, seed)
        if node:
            self._by_node.setdefault(node, {})[address] = None
        self._schedule(address, due)
        return True

    def assign(self, address: Address, node: NodeId | None) -> None:
        """This is where `node` listens, as far as we know."""
        place = self.places.get(address)
        if place is None or place.node == node:
            return
        self._unassign(address, place)
        place.node = node
        if node:
            self._by_node.setdefault(node, {})[address] = None

    def led(self, address: Address, node: NodeId) -> None:
        """A dial there reached this node."""
        self.assign(address, node)
        place = self.places.get(address)
        if place:
            place.good = True

    def of(self, node: NodeId) -> list[Address]:
        return list(self._by_node.get(node, ()))

    def found_self(self, address: Address) -> None:
        place = self.places.get(address)
        if place:
            self.assign(address, None)
            place.is_self, place.due, place.dialling = True, None, False

    def failed(self, address: Address, now: float, longer: float, needed: bool) -> None:
        """A dial came to nothing: try again later, at least after `longer`; forget what nobody needs."""
        place = self.places.get(address)
        if place is None:
            return
        delay = min(self.first * 2 ** min(place.failures, 16), self.last)
        place.failures += 1
        place.dialling = place.good = False
        if place.failures > _GIVE_UP and not place.seed and not needed:
            self.drop(address)
        else:
            self._schedule(address, now + max(delay, longer))

    def reached(self, node: NodeId) -> None:
        """It is linked: none of its addresses needs a dial."""
        for address in self._by_node.get(node, ()):
            place = self.places[address]
            place.due, place.failures, place.dialling = None, 0, False

    def wake(self, node: NodeId, due: float) -> None:
        """Dial this node's addresses at `due`, unless that is to happen sooner anyway."""
        for address in self._by_node.get(node, ()):
            place = self.places[address]
            if not place.dialling and (place.due is None or place.due > due):
                self._schedule(address, due)

    def rouse(self, node: NodeId, due: float) -> None:
        """Dial those of its addresses at `due` that nobody wanted until now."""
        for address in self._by_node.get(node, ()):
            place = self.places[address]
            if not place.dialling and place.due is None:
                self._schedule(address, due)

    def dial(self, node: NodeId, most: int, now: float) -> list[Address]:
        """Those to dial at once, `most` of them at most: one that is being dialled is not dialled again."""
        idle = [address for address in self.of(node) if not self.places[address].dialling]
        chosen = sorted(idle, key=lambda address: not self.places[address].good)[:most]
        for address in chosen:
            self._begin(self.places[address], now)
        return chosen

    @staticmethod
    def _begin(place: Place, now: float) -> None:
        place.due, place.began, place.dialling = None, now, True

    def is_out_of_reach(self, node: NodeId, since: float) -> bool:
        """Whether the last dial to every address of it failed, each begun after `since`."""
        places = [self.places[address] for address in self.of(node)]
        return all(place.failures and not place.dialling and place.began >= since for place in places)

    def forget(self, node: NodeId) -> None:
        for address in self.of(node):
            if self.places[address].seed:
                self.assign(address, None)
            else:
                self.drop(address)

    def drop(self, address: Address) -> None:
        self._unassign(address, self.places.pop(address))

    def due(self, now: float, allow: Callable[[Place], bool | None]) -> Iterator[Address]:
        """Take what is due off the queue: seeds, then what worked before, then who has waited longest.

        Of one node one address at a time: the next is tried before the last has failed, and the first that leads there
        ends it. allow: True: dial it; None: nobody wants it; False: later.
        """
        ready: list[tuple[bool, bool, float, Address]] = []
        while self._queue and self._queue[0][0] <= now:
            at, address = heapq.heappop(self._queue)
            place = self.places.get(address)
            if place and place.due == at:
                ready.append((not place.seed, not place.good, at, address))
        taken: set[NodeId] = set()
        for *_, at, address in sorted(ready):
            place = self.places[address]
            if place.node in taken:
                self._schedule(address, at)
                continue
            place.due = None
            allowed = allow(place)
            if allowed is False:
                self._schedule(address, now + _LATER)
            if allowed:
                self._begin(place, now)
                if place.node:
                    taken.add(place.node)
                yield address

    def _schedule(self, address: Address, due: float) -> None:
        self.places[address].due = due
        heapq.heappush(self._queue, (due, address))

    def _unassign(self, address: Address, place: Place) -> None:
        known = self._by_node.get(place.node) if place.node else None
        if known is not None and place.node:
            known.pop(address, None)
            if not known:
                del self._by_node[place.node]


def _can_be_dialled(address: Address) -> bool:
    return 0 < address.port < 65536 and 0 < len(address.host) <= 255
