"""Several addresses of one node: one after the other, the next before the last has failed, what worked first."""

from gridnode.membership import Membership
from gridnode.model import Address, NodeId, NodeRecord, Sighting
from gridnode.swim.events import Dial, DialFailed, LinkedUp, LinkLost, Sighted, Tick

ME, PEER, OTHER = NodeId("a" * 40), NodeId("b" * 40), NodeId("c" * 40)
PRIVATE, PUBLIC, THIRD = (Address(host, 7400) for host in ("10.0.0.2", "203.0.113.2", "192.168.0.2"))


def record(node: NodeId, *addresses: Address) -> NodeRecord:
    return NodeRecord(node, "peer", 1, 0, addresses, "1", 1)


def dials(membership: Membership, now: float) -> list[Address]:
    return [effect.address for effect in membership.handle(Tick(), now) if isinstance(effect, Dial)]


def test_addresses_of_one_node_take_turns_and_those_of_others_do_not_wait() -> None:
    membership = Membership(ME)
    for address in (PRIVATE, PUBLIC):
        membership.handle(Sighted(Sighting(address, PEER)), 0.0)
    membership.handle(Sighted(Sighting(THIRD, OTHER)), 0.0)
    first, second = dials(membership, 0.0), dials(membership, 0.5)
    assert set(first) == {PRIVATE, THIRD}
    assert second == [PUBLIC]


def test_once_linked_the_rest_is_not_dialled() -> None:
    membership = Membership(ME)
    for address in (PRIVATE, PUBLIC):
        membership.handle(Sighted(Sighting(address, PEER)), 0.0)
    assert dials(membership, 0.0) == [PRIVATE]
    membership.handle(LinkedUp(record(PEER, PRIVATE, PUBLIC), PRIVATE), 0.1)
    assert dials(membership, 0.5) == []


def test_what_worked_is_tried_first_next_time() -> None:
    membership = Membership(ME)
    for address in (PRIVATE, PUBLIC):
        membership.handle(Sighted(Sighting(address, PEER)), 0.0)
    dials(membership, 0.0)
    dials(membership, 0.5)
    membership.handle(DialFailed(PRIVATE), 1.0)
    membership.handle(LinkedUp(record(PEER, PRIVATE, PUBLIC), PUBLIC), 1.0)
    membership.handle(LinkLost(PEER), 100.0)
    assert dials(membership, 100.0) == [PUBLIC]
    assert dials(membership, 100.5) == [PRIVATE]
