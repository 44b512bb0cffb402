"""A simulated grid: what a test or a benchmark does to it, and what it asks of it."""

import math
from collections.abc import Callable, Iterable

from gridnode.ledger import Document
from gridnode.model import MemberState
from gridnode.swim.events import Wanted
from tests.simulator.node import Simulated, node_id
from tests.simulator.simulation import Simulation

ALIVE, SUSPECT = MemberState.ALIVE, MemberState.SUSPECT


class Grid(Simulation):
    """Nodes are named by their numbers."""

    # -- what happens -----------------------------------------------------------------------------------------------

    def boot(self, numbers: Iterable[int] | None = None, within: float = 0.0) -> None:
        """Start nodes, all at once or one after the other."""
        for number in range(len(self.nodes)) if numbers is None else numbers:
            self._at(self.dice.uniform(0, within), self._start, self.nodes[number])

    def kill(self, numbers: Iterable[int], silently: bool = True) -> None:
        """Power cuts, which close no connection; or else processes that die."""
        for number in numbers:
            victim = self.nodes[number]
            victim.up = False
            for peer, wire in victim.links.items():
                wire.quiet.setdefault(peer, self.now)
                if not silently:
                    self._at(self.network.packet(), self._lose, self.nodes[peer], wire)
            victim.links = {}

    def restart(self, number: int) -> None:
        """A new life of a node that is down."""
        self.nodes[number] = self._make(number, self.nodes[number].incarnation + 1000)
        self._start(self.nodes[number])
        for node in self.up():
            self._reset(node)

    def freeze(self, number: int) -> None:
        node = self.nodes[number]
        node.frozen = True
        for peer, wire in node.links.items():
            wire.quiet.setdefault(peer, self.now)

    def thaw(self, number: int) -> None:
        node = self.nodes[number]
        node.frozen = False
        late, node.late = node.late, []
        for wire in node.links.values():
            wire.quiet.pop(wire.other(number), None)
        for wire, message in late:
            self._deliver(node, wire, message)
        self._reset(node)

    def split(self, some: Iterable[int]) -> None:
        for number in some:
            self.nodes[number].side = 1
        for node in self.nodes:
            for peer, wire in node.links.items():
                if not self._reach(node, self.nodes[peer]):
                    wire.quiet.setdefault(node.number, self.now)

    def heal(self) -> None:
        for node in self.nodes:
            node.side = 0
        for node in self.nodes:
            for peer, wire in node.links.items():
                if self.nodes[peer].up and not self.nodes[peer].frozen:
                    wire.quiet.pop(node.number, None)
            self._reset(node)

    def call(self, number: int, target: int) -> None:
        """A call from one node to another: a link on demand."""
        self._handle(self.nodes[number], Wanted(node_id(target)))

    def put(self, number: int, document: Document, verified: Callable[[Document], bool]) -> None:
        """An operator gives a document to one node."""
        self._verified = verified
        self._merge(self.nodes[number], document, None, 0)

    # -- what is so -------------------------------------------------------------------------------------------------

    def up(self) -> list[Simulated]:
        return [node for node in self.nodes if node.up]

    def sees(self, node: int, other: int) -> MemberState | None:
        member = self.nodes[node].core.get(node_id(other))
        return member.state if member else None

    def knowing(self, of: Iterable[int], state: MemberState, among: Iterable[Simulated] | None = None) -> float:
        """The share of (node, other) pairs in which the node that is up sees the other so."""
        others = [node_id(number) for number in of]
        nodes = list(among) if among is not None else self.up()
        pairs = [(node, other) for node in nodes for other in others if node.record.id != other]
        seen = 0
        for node, other in pairs:
            row = node.core._rows.get(other)
            seen += row is not None and row.state is state
        return seen / len(pairs) if pairs else 1.0

    def is_whole(self) -> bool:
        """Everybody who is up counts all of them in, and nobody else; and the links join them all."""
        up = self.up()
        if any(node.core.size != len(up) for node in up):
            return False
        seen = [self.knowing((node.number for node in up), state) for state in (ALIVE, SUSPECT)]
        return sum(seen) > 1 - 1e-9 and self.is_connected(up)

    def is_connected(self, nodes: list[Simulated]) -> bool:
        numbers = {node.number for node in nodes}
        seen, queue = {nodes[0].number}, [nodes[0].number]
        while queue:
            for peer in self.nodes[queue.pop()].links:
                if peer in numbers and peer not in seen:
                    seen.add(peer)
                    queue.append(peer)
        return seen == numbers

    def until(self, condition: Callable[[], bool], most: float, step: float = 0.25) -> float:
        """Let time pass until it holds: seconds it took; infinity when `most` is over."""
        start = self.now
        while not condition():
            if self.now - start >= most:
                return math.inf
            self.run(step)
        return self.now - start

    def traffic(self) -> tuple[int, int]:
        """Messages and bytes that all nodes have sent so far."""
        return sum(node.messages for node in self.nodes), sum(node.sent for node in self.nodes)
