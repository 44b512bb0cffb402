"""The membership core: tables of events, and whole grids simulated in one process, every run by its seed."""

import itertools

import pytest

from gridnode.membership import (
    Changed,
    Dial,
    DialFailed,
    Effect,
    Event,
    Forget,
    FoundSelf,
    LeaveHeard,
    LinkedUp,
    LinkLost,
    Membership,
    MembershipLimits,
    RecordHeard,
    Sighted,
    TellSightings,
    Tick,
)
from gridnode.model import Address, Load, MemberState, NodeId, NodeRecord, Sighting
from gridnode.settings import Settings

ALIVE, SUSPECT, DEAD, LEFT = MemberState.ALIVE, MemberState.SUSPECT, MemberState.DEAD, MemberState.LEFT
SETTINGS = Settings(_env_file=None)  # type: ignore[call-arg]
LIMITS = MembershipLimits(suspect_after=2.0)


def node(number: int) -> NodeId:
    return NodeId(f"{number:040x}")


def address(number: int) -> Address:
    return Address(f"10.0.{number // 256}.{number % 256}", 7400)


def record(number: int, incarnation: int = 1, revision: int = 0, load: int = 0) -> NodeRecord:
    return NodeRecord(node(number), f"n{number}", incarnation, revision, (address(number),), "1", 0, Load(load, 1))


ME, OTHER, THIRD = 5, 3, 9


def core(limits: MembershipLimits = LIMITS) -> Membership:
    return Membership(node(ME), limits)


def linked(*numbers: int) -> Membership:
    membership = core()
    for number in numbers:
        membership.handle(LinkedUp(record(number)), 0.0)
    return membership


def dials(effects: list[Effect]) -> list[Address]:
    return [effect.address for effect in effects if isinstance(effect, Dial)]


def changes(effects: list[Effect]) -> list[tuple[MemberState | None, MemberState]]:
    return [(effect.before, effect.member.state) for effect in effects if isinstance(effect, Changed)]


def state(membership: Membership, number: int) -> MemberState | None:
    member = membership.get(node(number))
    return member.state if member else None


def dialled(membership: Membership, seconds: float, start: float = 0.0) -> list[float]:
    """When it dials within `seconds`, every dial failing at once."""
    times = []
    for step in range(int(seconds * 20)):
        now = start + step / 20
        for target in dials(membership.handle(Tick(), now)):
            times.append(now)
            membership.handle(DialFailed(target), now)
    return times


# -- tables ---------------------------------------------------------------------------------------------------------


def test_a_sighting_is_dialled_once_and_makes_no_member() -> None:
    membership = core()
    for _ in range(3):
        assert membership.handle(Sighted(Sighting(address(THIRD), node(THIRD))), 0.0) == []
    assert dials(membership.handle(Tick(), 0.0)) == [address(THIRD)]
    assert dials(membership.handle(Tick(), 100.0)) == [], "one dial is under way"
    assert membership.members() == []


def test_of_two_nodes_the_lower_dials_first() -> None:
    membership = core()
    membership.handle(Sighted(Sighting(address(OTHER), node(OTHER))), 0.0)
    assert dials(membership.handle(Tick(), 0.4)) == []
    assert dials(membership.handle(Tick(), 0.5)) == [address(OTHER)]


def test_its_own_sightings_and_addresses_are_not_dialled() -> None:
    membership = core()
    membership.handle(Sighted(Sighting(address(1), node(ME))), 0.0)
    membership.handle(Sighted(Sighting(address(2)), seed=True), 0.0)
    assert dials(membership.handle(Tick(), 0.0)) == [address(2)]
    membership.handle(FoundSelf(address(2)), 0.0)
    membership.handle(Sighted(Sighting(address(2), node(OTHER))), 1.0)
    assert dials(membership.handle(Tick(), 100.0)) == []


def test_a_dial_that_fails_is_tried_ever_more_rarely() -> None:
    membership = core()
    membership.handle(Sighted(Sighting(address(9)), seed=True), 0.0)
    times = dialled(membership, 60)
    gaps = [round(later - before, 2) for before, later in itertools.pairwise(times)]
    assert gaps[:5] == [0.25, 0.5, 1.0, 2.0, 4.0]
    assert set(gaps[5:]) == {5.0}


def test_a_seed_is_never_given_up_and_a_mere_sighting_is() -> None:
    membership = core()
    membership.handle(Sighted(Sighting(address(1)), seed=True), 0.0)
    membership.handle(Sighted(Sighting(address(2))), 0.0)
    dialled(membership, 600)
    assert set(membership._addresses) == {address(1)}
    assert dialled(membership, 10, start=600)


def test_a_handshake_makes_a_member() -> None:
    membership = core()
    assert changes(membership.handle(LinkedUp(record(OTHER), address(OTHER)), 1.0)) == [(None, ALIVE)]
    member = membership.get(node(OTHER))
    assert member
    assert (member.record, member.state, member.since) == (record(OTHER), ALIVE, 1.0)
    assert dials(membership.handle(Tick(), 50.0)) == []


def test_a_newcomer_hears_where_the_others_are() -> None:
    membership = linked(OTHER)
    told = [effect for effect in membership.handle(LinkedUp(record(THIRD)), 1.0) if isinstance(effect, TellSightings)]
    assert told == [TellSightings(node(THIRD), (Sighting(address(OTHER), node(OTHER)),))]


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([LinkLost(node(OTHER))], SUSPECT),
        ([LinkLost(node(OTHER)), LinkedUp(record(OTHER))], ALIVE),
        ([LinkLost(node(OTHER)), 1.9], SUSPECT),
        ([LinkLost(node(OTHER)), 2.0], DEAD),
        ([LinkLost(node(OTHER)), 2.0, LinkedUp(record(OTHER))], ALIVE),
        ([LinkLost(node(OTHER)), 2.0, LinkLost(node(OTHER))], DEAD),
        ([LeaveHeard(node(OTHER))], LEFT),
        ([LeaveHeard(node(OTHER)), LinkLost(node(OTHER)), 5.0], LEFT),
        ([LeaveHeard(node(OTHER)), LinkLost(node(OTHER)), LinkedUp(record(OTHER, 2))], ALIVE),
        ([LeaveHeard(node(OTHER)), LinkedUp(record(OTHER, 2))], ALIVE),
        ([LinkLost(node(OTHER)), 25 * 3600.0], DEAD),
        ([LinkLost(node(OTHER)), 2.0, 25 * 3600.0], None),
        ([LinkLost(node(THIRD)), LeaveHeard(node(THIRD))], ALIVE),
        ([Forget(node(OTHER), 9)], ALIVE),
        ([LinkLost(node(OTHER)), 2.0, Forget(node(OTHER), 1)], None),
        ([LinkLost(node(OTHER)), 2.0, Forget(node(OTHER), 0)], DEAD),
        ([LinkLost(node(OTHER)), 2.0, Forget(node(THIRD), 1)], DEAD),
        ([LeaveHeard(node(OTHER)), LinkLost(node(OTHER)), Forget(node(OTHER), 1)], None),
        ([LinkLost(node(OTHER)), 2.0, Forget(node(OTHER), 1), LinkedUp(record(OTHER, 2))], ALIVE),
    ],
    ids=str,
)
def test_states(events: list[Event | float], expected: MemberState | None) -> None:
    """A number is a tick at that time."""
    membership = linked(OTHER)
    for event in events:
        if isinstance(event, float):
            membership.handle(Tick(), event)
        else:
            membership.handle(event, 0.0)
    assert state(membership, OTHER) == expected


def test_who_is_forgotten_is_not_dialled_again() -> None:
    membership = linked(OTHER)
    membership.handle(LinkLost(node(OTHER)), 0.0)
    membership.handle(Tick(), 2.0)
    membership.handle(Forget(node(OTHER), 1), 3.0)
    assert [dials(membership.handle(Tick(), now)) for now in (4.0, 60.0, 600.0)] == [[], [], []]


def test_a_lost_member_is_dialled_again_at_once() -> None:
    membership = linked(OTHER, THIRD)
    membership.handle(LinkLost(node(THIRD)), 10.0)
    assert dials(membership.handle(Tick(), 10.0)) == [address(THIRD)]


def test_only_newer_records_replace_older_ones() -> None:
    membership = core()
    membership.handle(LinkedUp(record(OTHER, 2, 5)), 0.0)
    for late in (record(OTHER, 2, 5, load=9), record(OTHER, 2, 4, load=9), record(OTHER, 1, 99, load=9)):
        assert membership.handle(RecordHeard(late), 1.0) == []
    newer = record(OTHER, 2, 6, load=1)
    assert changes(membership.handle(RecordHeard(newer), 1.0)) == [(ALIVE, ALIVE)]
    member = membership.get(node(OTHER))
    assert member
    assert member.record == newer


def test_a_record_from_nobody_we_are_linked_to_is_nothing() -> None:
    membership = linked(OTHER)
    assert membership.handle(RecordHeard(record(THIRD)), 0.0) == []
    membership.handle(LinkLost(node(OTHER)), 0.0)
    assert membership.handle(RecordHeard(record(OTHER, 9)), 0.0) == []


def test_a_restart_is_taken_even_when_its_clock_went_back() -> None:
    membership = core()
    membership.handle(LinkedUp(record(OTHER, 9)), 0.0)
    membership.handle(LinkLost(node(OTHER)), 1.0)
    membership.handle(LinkedUp(record(OTHER, 2)), 1.5)
    member = membership.get(node(OTHER))
    assert member
    assert member.record.incarnation == 2


# -- hostile peers --------------------------------------------------------------------------------------------------


def test_what_peers_tell_is_bounded() -> None:
    limits = MembershipLimits(max_members=10, max_addresses=50)
    membership = core(limits)
    for number in range(10, 2000):
        membership.handle(Sighted(Sighting(address(number), node(number))), 0.0)
        membership.handle(LinkedUp(record(number)), 0.0)
    assert len(membership.members()) == 10
    assert len(membership._addresses) <= 50
    membership.handle(Sighted(Sighting(address(1)), seed=True), 0.0)
    assert address(1) in membership._addresses, "a seed is the operator's word"


def test_a_flood_of_sightings_makes_no_flood_of_dials() -> None:
    membership = core()
    for number in range(10, 4000):
        membership.handle(Sighted(Sighting(address(number), node(number))), 0.0)
    membership.handle(Sighted(Sighting(address(1)), seed=True), 0.0)
    first = dials(membership.handle(Tick(), 0.5))
    assert address(1) in first
    assert len(first) <= 64
    tried = {target for step in range(2, 400) for target in dials(membership.handle(Tick(), step / 2))}
    assert len(tried) > 3900, "each has its turn"


@pytest.mark.parametrize("bad", [Address("h", 0), Address("h", -1), Address("h", 65536), Address("", 1)], ids=str)
def test_what_is_no_address_is_not_remembered(bad: Address) -> None:
    membership = core()
    membership.handle(Sighted(Sighting(bad, node(THIRD))), 0.0)
    membership.handle(Sighted(Sighting(Address("h" * 300, 1))), 0.0)
    assert membership._addresses == {}


def test_a_lie_about_where_a_member_is_does_not_hide_it() -> None:
    """A peer says that OTHER's address is THIRD's, who is linked: OTHER must still be dialled when it is lost."""
    membership = linked(OTHER, THIRD)
    membership.handle(Sighted(Sighting(address(OTHER), node(THIRD))), 1.0)
    membership.handle(LinkLost(node(OTHER)), 2.0)
    assert address(OTHER) in {target for step in range(6) for target in dials(membership.handle(Tick(), 2 + step / 2))}
