"""Whom to dial, and when: all while the grid is small, else those drawn, those called, and now and then another."""

from dataclasses import dataclass, field

from gridnode.model import Address, MemberState, NodeId, NodeRecord, Sighting
from gridnode.swim import topology
from gridnode.swim.addresses import Addresses, Place
from gridnode.swim.events import Dial, Effect, Retire
from gridnode.swim.limits import MembershipLimits
from gridnode.swim.rows import HERE, Row, Rows

_AT_ONCE = 4
"""Addresses of one node that are dialled at once."""
_DEAD_DIALS = 8.0
"""Dials a second to the dead, all together."""
_CHOOSE_EVERY = 1.0
_OVERDUE_AFTER = 15.0
"""Seconds in which whoever is alive is linked, where it is to be."""
_OVERDUE_EVERY = 2.0


@dataclass(slots=True)
class Dialling:
    """Keeps `rows` linked. stale: who is here has changed, or who is linked."""

    self_id: NodeId
    limits: MembershipLimits
    rows: Rows
    stale: bool = True
    addresses: Addresses = field(init=False)
    _chosen: set[NodeId] = field(default_factory=set)
    _choose_due: float = 0.0
    _probe_due: float = 0.0
    _full_since: float = 0.0
    _overdue_due: float = 0.0

    def __post_init__(self) -> None:
        limits = self.limits
        self.addresses = Addresses(limits.redial_first, limits.redial_last, limits.max_addresses)

    @property
    def is_full_mesh(self) -> bool:
        return self.rows.size <= self.limits.full

    def keeps(self, node: NodeId) -> bool:
        """Whether to be linked to it, be there calls for it or not."""
        return self.is_full_mesh or node in self._chosen

    # -- what is known ----------------------------------------------------------------------------------------------

    def sighted(self, sighting: Sighting, seed: bool, now: float) -> None:
        node, address = sighting.node, sighting.address
        if node == self.self_id:
            return
        place = self.addresses.places.get(address)
        if place is None:
            self.addresses.add(address, node, seed, now + self.yields(node))
        elif not place.is_self:
            place.seed |= seed
            if node and not place.seed and not self._is_at(place.node, address):
                self.addresses.assign(address, node)

    def yields(self, node: NodeId | None) -> float:
        """The lower id dials at once, the higher so much later, so that two nodes rarely dial each other."""
        return self.limits.yield_dial if node and node < self.self_id else 0.0

    def learn(self, record: NodeRecord, now: float) -> None:
        """Remember where a member listens."""
        for address in record.addresses:
            self.sighted(Sighting(address, record.id), False, now)

    def linked(self, record: NodeRecord, address: Address | None, now: float) -> None:
        if address:
            self.addresses.led(address, record.id)
        self.learn(record, now)
        self.addresses.reached(record.id)
        row = self.rows.get(record.id)
        if row:
            row.probed = now

    def failed(self, address: Address, now: float) -> Row | None:
        """A dial came to nothing: the member that was alive and is now out of reach, or None."""
        place = self.addresses.places.get(address)
        row = self.rows.get(place.node) if place and place.node else None
        longer = 0.0 if row is None or row.state in HERE else self.patience()
        self.addresses.failed(address, now, longer, needed=row is not None)
        if row is None or row.linked or row.state is not MemberState.ALIVE or now < row.trusted:
            return None
        return row if self.addresses.is_out_of_reach(row.node, row.since) else None

    def patience(self) -> float:
        """Seconds between two dials to one that is dead: a few a second in all, however many are."""
        return self.rows.gone / _DEAD_DIALS

    def overdue(self, now: float) -> list[Row]:
        """Said to be alive, and yet not linked in a full mesh, or nowhere to be dialled: a liar may have made it up."""
        if not self.is_full_mesh:
            self._full_since = now
        if now < self._overdue_due:
            return []
        self._overdue_due = now + _OVERDUE_EVERY
        apart = [row for row in self.rows if row.state is MemberState.ALIVE and not row.linked]
        late = [row for row in apart if now >= max(row.trusted, row.since + _OVERDUE_AFTER)]
        if self.is_full_mesh:
            return late if now >= self._full_since + _OVERDUE_AFTER else []
        return [row for row in late if not self.addresses.of(row.node)]

    def _is_at(self, node: NodeId | None, address: Address) -> bool:
        """Whether the node itself says so, which no other's word replaces."""
        row = self.rows.get(node) if node else None
        return row is not None and address in row.record.addresses

    # -- what to do -------------------------------------------------------------------------------------------------

    def wanted(self, node: NodeId, now: float) -> list[Effect]:
        """Dial it now, wherever it may listen: something is for it."""
        row = self.rows.get(node)
        if row is None or row.state not in HERE:
            return []
        row.used = now
        return self._try(row, now)

    def retry(self, row: Row, now: float) -> list[Effect]:
        """Open a second link beside one that is quiet: a packet that TCP sends in vain holds up only the first."""
        if row.retried:
            return []
        row.retried = True
        return [Dial(address) for address in self.addresses.dial(row.node, _AT_ONCE, now)]

    def _try(self, row: Row, now: float) -> list[Effect]:
        if row.linked:
            return []
        return [Dial(address) for address in self.addresses.dial(row.node, _AT_ONCE, now)]

    def tick(self, now: float) -> list[Effect]:
        if self.stale and now >= self._choose_due:
            self.stale, self._choose_due = False, now + _CHOOSE_EVERY
            self._choose(now)
        return [*self._retire(now), *self._dial_due(now), *self._probe(now)]

    def _choose(self, now: float) -> None:
        """Draw anew whom to be linked to. Events go straight to who listens, so all are linked to those."""
        here = [row for row in self.rows if row.state in HERE]
        count = topology.degree(self.rows.size, self.limits.full)
        self._chosen = topology.drawn(((row.rank, row.node) for row in here), count)
        self._chosen |= {row.node for row in here if row.record.interest}
        for node in self._chosen - self.rows.linked.keys():
            self.addresses.rouse(node, now + self.yields(node))

    def _retire(self, now: float) -> list[Effect]:
        if self.is_full_mesh:
            return []
        linked = self.rows.linked.values()
        own = [row for row in linked if row.dialled and row.node not in self._chosen]
        idle = [
            row for row in own if now >= max(row.used + self.limits.idle_after, row.probed + self.limits.probed_after)
        ]
        for row in idle:
            row.probed = now
        return [Retire(row.node) for row in idle]

    def _dial_due(self, now: float) -> list[Effect]:
        left = self.limits.dials_at_once
        idle = left if self._is_hungry() else self.limits.dials_idle

        def allow(place: Place) -> bool | None:
            nonlocal left, idle
            row = self.rows.get(place.node) if place.node else None
            is_here = row is not None and row.state in HERE
            if row and (row.linked or (is_here and not self._is_sought(row))):
                return None
            if left <= 0 or (idle <= 0 and not is_here):
                return False
            left -= 1
            idle -= not is_here
            return True

        return [Dial(address) for address in self.addresses.due(now, allow)]

    def _is_hungry(self) -> bool:
        return self.is_full_mesh or len(self.rows.linked) < topology.degree(self.rows.size, self.limits.full)

    def _is_sought(self, row: Row) -> bool:
        """Whether a dial that is due is one to make: a suspect is to be tried."""
        return row.state is MemberState.SUSPECT or self.keeps(row.node)

    def _probe(self, now: float) -> list[Effect]:
        """Now and then try one of those that we are not linked to: all who are might be gone with it."""
        if self.is_full_mesh or now < self._probe_due:
            return []
        self._probe_due = now + self.limits.probe_every
        apart = [row for row in self.rows if row.state is MemberState.ALIVE and not row.linked and now >= row.trusted]
        return self._try(min(apart, key=lambda row: (row.probed, row.rank)), now) if apart else []
