"""The membership core: tables of events. Whole grids of it are in test_membership_simulated.py."""

import itertools
from dataclasses import replace as with_limits
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from gridnode.membership import Membership, MembershipLimits
from gridnode.model import Address, Claim, Load, MemberState, NodeId, NodeRecord, RecordVersion, Sighting
from gridnode.swim.events import (
    Ask,
    Asked,
    Changed,
    ClaimHeard,
    Dial,
    DialFailed,
    DigestHeard,
    Drop,
    Effect,
    Event,
    Forget,
    FoundSelf,
    LinkedUp,
    LinkLost,
    LoadHeard,
    Part,
    Parted,
    RecordHeard,
    Refute,
    Retire,
    RetireHeard,
    ShowDigest,
    ShowVersions,
    Sighted,
    Spoke,
    Tell,
    Tick,
    Twin,
    VersionsHeard,
    Wanted,
)
from gridnode.swim.rumours import MAX_NEWS, bucket_of

ALIVE, SUSPECT, DEAD, LEFT = MemberState.ALIVE, MemberState.SUSPECT, MemberState.DEAD, MemberState.LEFT
LIMITS = MembershipLimits(suspect_after=2.0)
APART = with_limits(LIMITS, full=1)


def node(number: int) -> NodeId:
    return NodeId(f"{number:040x}")


def address(number: int) -> Address:
    return Address(f"10.0.{number // 256}.{number % 256}", 7400)


def record(number: int, incarnation: int = 1, revision: int = 0, **changes: Any) -> NodeRecord:
    plain = NodeRecord(node(number), f"n{number}", incarnation, revision, (address(number),), "1", 0)
    return replace(plain, **changes)


ME, OTHER, THIRD = 5, 3, 9
OWN = record(ME, 7)


def core(limits: MembershipLimits = LIMITS) -> Membership:
    membership = Membership(node(ME), limits, b"salt")
    membership.handle(Spoke(OWN, b"own"), 0.0)
    return membership


def linked(*numbers: int, limits: MembershipLimits = LIMITS) -> Membership:
    membership = core(limits)
    for number in numbers:
        membership.handle(LinkedUp(record(number)), 0.0)
        membership.handle(heard(record(number)), 0.0)
    return membership


def heard(one: NodeRecord, source: int | None = None) -> RecordHeard:
    signed = f"{one.name} {one.incarnation}.{one.revision}".encode()
    return RecordHeard(one, signed, node(source) if source else one.id)


def claim(number: int, refuted: int = 0, incarnation: int = 1, **flags: bool) -> Claim:
    return Claim(node(number), incarnation, refuted, **flags)


def dials(effects: list[Effect]) -> list[Address]:
    return [effect.address for effect in effects if isinstance(effect, Dial)]


def changes(effects: list[Effect]) -> list[tuple[MemberState | None, MemberState]]:
    return [(effect.before, effect.member.state) for effect in effects if isinstance(effect, Changed)]


def claims(effects: list[Effect]) -> dict[NodeId, list[Claim]]:
    """What is told to whom."""
    return {effect.to: list(effect.claims) for effect in effects if isinstance(effect, Tell) and effect.claims}


def news(effects: list[Effect]) -> dict[NodeId, list[bytes]]:
    return {effect.to: list(effect.news) for effect in effects if isinstance(effect, Tell) and effect.news}


def state(membership: Membership, number: int) -> MemberState | None:
    member = membership.get(node(number))
    return member.state if member else None


def places(membership: Membership) -> set[Address]:
    return set(membership._dialling.addresses.places)


def dialled(membership: Membership, seconds: float, start: float = 0.0) -> list[float]:
    """When it dials within `seconds`, every dial failing at once."""
    times = []
    for step in range(int(seconds * 20)):
        now = start + step / 20
        for target in dials(membership.handle(Tick(), now)):
            times.append(now)
            membership.handle(DialFailed(target), now)
    return times


# -- dialling -------------------------------------------------------------------------------------------------------


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
    assert places(membership) == {address(1)}
    assert dialled(membership, 10, start=600)


def test_a_lost_member_is_dialled_again_at_once() -> None:
    membership = linked(OTHER, THIRD)
    membership.handle(LinkLost(node(THIRD)), 10.0)
    assert dials(membership.handle(Tick(), 10.0)) == [address(THIRD)]


def test_whom_others_tell_of_is_a_member_and_dialled() -> None:
    membership = linked(OTHER)
    assert changes(membership.handle(heard(record(THIRD), OTHER), 1.0)) == [(None, ALIVE)]
    assert dials(membership.handle(Tick(), 1.0)) == [address(THIRD)]
    assert changes(membership.handle(DialFailed(address(THIRD)), 2.0)) == [(ALIVE, SUSPECT)]


# -- states ---------------------------------------------------------------------------------------------------------


def test_a_handshake_makes_a_member() -> None:
    membership = core()
    assert changes(membership.handle(LinkedUp(record(OTHER), address(OTHER)), 1.0)) == [(None, ALIVE)]
    member = membership.get(node(OTHER))
    assert member
    assert (member.record, member.state, member.since) == (record(OTHER), ALIVE, 1.0)
    assert dials(membership.handle(Tick(), 50.0)) == []


GONE = heard(record(OTHER, 1, 9, gone=True))
SILENT = Tick({node(OTHER): 1.5})


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([LinkLost(node(OTHER))], SUSPECT),
        ([LinkLost(node(OTHER)), LinkedUp(record(OTHER))], ALIVE),
        ([LinkLost(node(OTHER)), 1.9], SUSPECT),
        ([LinkLost(node(OTHER)), 2.0], DEAD),
        ([LinkLost(node(OTHER)), 2.0, LinkedUp(record(OTHER))], ALIVE),
        ([LinkLost(node(OTHER)), 2.0, LinkLost(node(OTHER))], DEAD),
        ([SILENT], SUSPECT),
        ([SILENT, Tick()], ALIVE),
        ([Tick({node(OTHER): 0.9})], ALIVE),
        ([GONE], LEFT),
        ([GONE, LinkLost(node(OTHER)), 5.0], LEFT),
        ([GONE, LinkLost(node(OTHER)), LinkedUp(record(OTHER, 2))], ALIVE),
        ([GONE, ClaimHeard(claim(OTHER), node(THIRD))], LEFT),
        ([GONE, heard(record(OTHER, 2), THIRD)], ALIVE),
        ([LinkLost(node(OTHER)), 25 * 3600.0], DEAD),
        ([LinkLost(node(OTHER)), 2.0, 25 * 3600.0], None),
        ([Forget(node(OTHER), 9)], ALIVE),
        ([LinkLost(node(OTHER)), 2.0, Forget(node(OTHER), 1)], None),
        ([LinkLost(node(OTHER)), 2.0, Forget(node(OTHER), 0)], DEAD),
        ([LinkLost(node(OTHER)), 2.0, Forget(node(THIRD), 1)], DEAD),
        ([GONE, LinkLost(node(OTHER)), Forget(node(OTHER), 1)], None),
        ([LinkLost(node(OTHER)), 2.0, Forget(node(OTHER), 1), heard(record(OTHER), THIRD)], None),
        ([LinkLost(node(OTHER)), 2.0, Forget(node(OTHER), 1), heard(record(OTHER, 2), THIRD)], ALIVE),
        ([LinkLost(node(OTHER)), 2.0, Forget(node(OTHER), 1), LinkedUp(record(OTHER, 2))], ALIVE),
        ([LinkLost(node(OTHER)), 2.0, heard(record(OTHER, 1, 5), THIRD)], DEAD),
        ([LinkLost(node(OTHER)), 2.0, heard(record(OTHER, 1, 5, refuted=1), THIRD)], ALIVE),
        ([LinkLost(node(OTHER)), heard(record(OTHER, 2), THIRD)], ALIVE),
        ([Parted(node(OTHER))], ALIVE),
        ([LinkLost(node(THIRD))], ALIVE),
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


def test_a_silent_peer_is_suspected_and_others_are_asked_to_try() -> None:
    membership = linked(OTHER, THIRD, 20, 30, 40)
    effects = membership.handle(SILENT, 1.0)
    assert changes(effects) == [(ALIVE, SUSPECT)]
    asked = claims(effects)
    assert len(asked) >= 3
    assert node(OTHER) not in asked
    assert claim(OTHER, ask=True) in [one for told in asked.values() for one in told]


def test_a_dead_peer_has_its_link_dropped() -> None:
    membership = linked(OTHER)
    membership.handle(SILENT, 1.0)
    assert Drop(node(OTHER)) in membership.handle(Tick({node(OTHER): 3.5}), 3.0)


def test_after_a_pause_of_its_own_it_believes_nothing_to_have_been_silent_or_heard() -> None:
    membership = linked(OTHER, THIRD)
    membership.handle(SILENT, 1.0)
    assert changes(membership.handle(Tick(None), 60.0)) == []
    assert (state(membership, OTHER), state(membership, THIRD)) == (SUSPECT, ALIVE)
    assert changes(membership.handle(SILENT, 60.25)) == [], "what it says may still be to be read"
    assert changes(membership.handle(SILENT, 61.5)) == [(SUSPECT, DEAD)]


def test_the_more_nodes_the_longer_a_suspect_may_take_to_object() -> None:
    few, many = linked(OTHER), linked(OTHER, *range(100, 200))
    for membership in (few, many):
        membership.handle(LinkLost(node(OTHER)), 0.0)
        membership.handle(Tick(), 2.5)
    assert (state(few, OTHER), state(many, OTHER)) == (DEAD, SUSPECT)
    many.handle(Tick(), 4.1)
    assert state(many, OTHER) == DEAD


def test_who_suspects_wrongly_again_and_again_becomes_slower_to() -> None:
    membership = linked(OTHER)
    for turn in range(6):
        membership.handle(SILENT, float(turn))
        membership.handle(Tick(), turn + 0.5)
    assert changes(membership.handle(SILENT, 6.0)) == []
    assert changes(membership.handle(Tick({node(OTHER): 9.0}), 6.5)) == [(ALIVE, SUSPECT)]
    membership.handle(Tick(), 7.0)
    assert changes(membership.handle(SILENT, 200.0)) == [(ALIVE, SUSPECT)], "after a while all is forgotten"


# -- what others say ------------------------------------------------------------------------------------------------


def test_only_newer_records_replace_older_ones() -> None:
    membership = core()
    membership.handle(LinkedUp(record(OTHER, 2, 5)), 0.0)
    for late in (record(OTHER, 2, 5, name="late"), record(OTHER, 2, 4, name="late"), record(OTHER, 1, 99)):
        assert membership.handle(heard(late), 1.0) == []
    newer = record(OTHER, 2, 6, name="newer")
    assert changes(membership.handle(heard(newer), 1.0)) == [(ALIVE, ALIVE)]
    member = membership.get(node(OTHER))
    assert member
    assert member.record == newer


def test_the_load_of_a_linked_peer_is_heard_and_outlives_its_records() -> None:
    membership = linked(OTHER)
    assert changes(membership.handle(LoadHeard(node(OTHER), Load(3, 8)), 1.0)) == [(ALIVE, ALIVE)]
    assert membership.handle(LoadHeard(node(OTHER), Load(3, 8)), 1.0) == []
    assert membership.handle(LoadHeard(node(THIRD), Load(3, 8)), 1.0) == []
    membership.handle(heard(record(OTHER, 1, 1)), 2.0)
    member = membership.get(node(OTHER))
    assert member
    assert member.record.load == Load(3, 8)


def test_news_is_passed_on_but_not_to_who_told_it() -> None:
    membership = linked(OTHER, THIRD)
    membership.handle(Tick(), 1.0)
    membership.handle(heard(record(20), OTHER), 1.1)
    told: dict[NodeId, list[bytes]] = {}
    for step in range(20):
        for to, what in news(membership.handle(Tick(), 2 + step / 2)).items():
            told.setdefault(to, []).extend(what)
    assert told[node(THIRD)].count(b"n20 1.0") == 1
    assert b"n20 1.0" not in told.get(node(OTHER), [])


def test_this_node_objects_to_being_called_suspect_or_dead() -> None:
    membership = linked(OTHER)
    for now, dead in ((1.0, False), (2.0, True)):
        assert membership.handle(ClaimHeard(Claim(node(ME), 7, 0, dead), node(OTHER)), now) == [Refute(7, 1)]
    assert membership.handle(ClaimHeard(Claim(node(ME), 7, 5), node(OTHER)), 1.0) == [], "nobody can know of that"
    membership.handle(Spoke(replace(OWN, refuted=1, revision=1), b"objection"), 1.0)
    assert news(membership.handle(ClaimHeard(Claim(node(ME), 7, 0), node(OTHER)), 2.0)) == {node(OTHER): [b"objection"]}


def test_a_liar_does_not_have_it_object_without_end() -> None:
    membership, objections = linked(OTHER), 0
    for step in range(100):
        own = membership._exchange.own
        assert own
        effects = membership.handle(ClaimHeard(Claim(own.id, own.incarnation, own.refuted), node(OTHER)), step / 100)
        for effect in [*effects, *membership.handle(Tick(), step / 100)]:
            if isinstance(effect, Refute):
                objections += 1
                spoken = replace(own, refuted=effect.refuted, revision=own.revision + 1)
                membership.handle(Spoke(spoken, b"objection"), step / 100)
    assert objections == 2
    assert Refute(7, 3) in membership.handle(Tick(), 1.0), "the last one is put off, not forgotten"


def test_a_claim_makes_suspect_at_most_until_three_links_call_it_dead() -> None:
    membership = linked(OTHER, THIRD, 11, 12)
    membership.handle(Parted(node(OTHER)), 0.0)
    for number, expected in ((THIRD, SUSPECT), (THIRD, SUSPECT), (11, SUSPECT), (12, DEAD)):
        membership.handle(ClaimHeard(claim(OTHER, dead=True), node(number)), 1.0)
        assert state(membership, OTHER) is expected


def test_a_claim_about_one_that_we_hear_is_passed_to_it() -> None:
    membership = linked(OTHER, THIRD)
    effects = membership.handle(ClaimHeard(claim(OTHER), node(THIRD)), 1.0)
    assert claims(effects) == {node(OTHER): [claim(OTHER)]}
    assert state(membership, OTHER) is ALIVE


def test_who_is_asked_tries_to_reach_the_suspect() -> None:
    membership = linked(OTHER, THIRD, limits=APART)
    membership.handle(Parted(node(THIRD)), 0.0)
    membership.handle(Tick(), 0.0)
    membership.handle(ClaimHeard(claim(THIRD, ask=True), node(OTHER)), 1.0)
    assert address(THIRD) in dials(membership.handle(Tick(), 1.0))


def test_a_claim_that_was_objected_to_is_answered_with_the_objection() -> None:
    membership = linked(OTHER, THIRD)
    membership.handle(heard(record(OTHER, 1, 3, refuted=2)), 0.0)
    effects = membership.handle(ClaimHeard(claim(OTHER, 1), node(THIRD)), 1.0)
    assert effects == [Tell(node(THIRD), (b"n3 1.3",))]


@pytest.mark.parametrize("late", [claim(OTHER, 9), claim(OTHER, incarnation=9), claim(77)], ids=str)
def test_claims_about_what_is_not_known_are_nothing(late: Claim) -> None:
    membership = linked(OTHER, THIRD)
    assert membership.handle(ClaimHeard(late, node(THIRD)), 1.0) == []
    assert state(membership, OTHER) is ALIVE


def test_one_that_others_reach_and_we_do_not_has_its_link_made_anew_and_is_not_accused_again() -> None:
    membership = linked(OTHER, THIRD)
    membership.handle(SILENT, 1.0)
    effects = membership.handle(heard(record(OTHER, 1, 1, refuted=1), THIRD), 1.5)
    assert Drop(node(OTHER)) in effects
    assert state(membership, OTHER) is ALIVE
    membership.handle(LinkLost(node(OTHER)), 1.6)
    for now, expected in ((3.0, ALIVE), (5.0, ALIVE), (17.0, SUSPECT)):
        assert dials(membership.handle(Tick(), now - 0.9)) == [address(OTHER)]
        membership.handle(DialFailed(address(OTHER)), now)
        assert state(membership, OTHER) is expected


def test_a_dial_from_before_it_came_back_says_nothing() -> None:
    membership = linked(OTHER, THIRD)
    membership.handle(LinkLost(node(OTHER)), 1.0)
    membership.handle(Tick(), 1.5)
    membership.handle(heard(record(OTHER, 1, 1, refuted=1), THIRD), 2.0)
    membership._rows.by_node[node(OTHER)].trusted = 0.0
    membership.handle(DialFailed(address(OTHER)), 6.5)
    assert state(membership, OTHER) is ALIVE
    membership.handle(Tick(), 8.0)
    membership.handle(DialFailed(address(OTHER)), 9.0)
    assert state(membership, OTHER) is SUSPECT


def test_one_that_is_linked_again_is_missed_like_any_other() -> None:
    membership = linked(OTHER, THIRD)
    for turn in range(5):
        now = 100.0 * turn
        membership.handle(SILENT, now)
        membership.handle(heard(record(OTHER, 1, turn + 1, refuted=turn + 1), THIRD), now + 0.5)
        membership.handle(LinkLost(node(OTHER)), now + 0.6)
        membership.handle(LinkedUp(record(OTHER, 1, turn + 1, refuted=turn + 1), address(OTHER)), now + 1.0)
    assert changes(membership.handle(SILENT, 402.0)) == [(ALIVE, SUSPECT)]


def test_one_that_comes_back_hears_what_was_thought_of_it() -> None:
    membership = linked(OTHER)
    membership.handle(LinkLost(node(OTHER)), 0.0)
    membership.handle(Tick(), 2.0)
    assert claims(membership.handle(LinkedUp(record(OTHER)), 9.0))[node(OTHER)] == [claim(OTHER, dead=True)]


def test_a_restart_is_taken_even_when_its_clock_went_back() -> None:
    membership = core()
    membership.handle(LinkedUp(record(OTHER, 9)), 0.0)
    membership.handle(heard(record(OTHER, 9)), 0.0)
    membership.handle(LinkLost(node(OTHER)), 1.0)
    effects = membership.handle(LinkedUp(record(OTHER, 2)), 1.5)
    assert b"n3 9.0" in news(effects)[node(OTHER)], "so that it can outbid its former self"
    member = membership.get(node(OTHER))
    assert member
    assert member.record.incarnation == 2


def test_this_node_outbids_an_earlier_life_and_knows_a_twin() -> None:
    membership = linked(OTHER)
    assert membership.handle(heard(record(ME, 5), OTHER), 1.0) == []
    for incarnation in (10, 20, 30):
        assert membership.handle(heard(record(ME, incarnation), OTHER), 1.0) == [Refute(incarnation + 1, 0)]
    assert membership.handle(heard(record(ME, 40), OTHER), 1.0) == [Twin(record(ME, 40))]


# -- comparing ------------------------------------------------------------------------------------------------------


def exchange(one: Membership, other: Membership, now: float) -> None:
    """Let the two, which are linked, tell each other all they ask for."""
    records = {signed: row.record for core in (one, other) for row in core._rows if (signed := row.signed)}
    effects = [(one, other, effect) for effect in one._exchange.show(other.self_id)]
    while effects:
        sender, receiver, effect = effects.pop(0)
        told: list[Event] = []
        match effect:
            case ShowDigest(_, sums):
                told.append(DigestHeard(sums, sender.self_id))
            case ShowVersions(_, buckets, versions):
                told.append(VersionsHeard(buckets, versions, sender.self_id))
            case Ask(_, nodes):
                told.append(Asked(nodes, sender.self_id))
            case Tell(_, what, _):
                told += [RecordHeard(records[signed], signed, sender.self_id) for signed in what if signed in records]
        for event in told:
            effects += [(receiver, sender, after) for after in receiver.handle(event, now)]


def test_two_that_compare_know_the_same_afterwards() -> None:
    one, other = linked(*range(10, 60)), Membership(node(OTHER), LIMITS)
    other.handle(Spoke(record(OTHER), b"other"), 0.0)
    for number in range(40, 90):
        other.handle(LinkedUp(record(number)), 0.0)
        other.handle(heard(record(number, 1, number % 2)), 0.0)
    one.handle(LinkedUp(record(OTHER)), 0.0)
    other.handle(LinkedUp(OWN), 0.0)
    one.handle(RecordHeard(record(OTHER), b"other", node(OTHER)), 0.0)
    other.handle(RecordHeard(OWN, b"own", node(ME)), 0.0)
    exchange(one, other, 1.0)
    assert one._exchange.sums() == other._exchange.sums()
    assert one.size == other.size == 82


def test_who_thinks_one_dead_says_so_to_who_does_not() -> None:
    membership = linked(OTHER, THIRD)
    membership.handle(LinkLost(node(THIRD)), 0.0)
    membership.handle(Tick(), 2.0)
    bucket = frozenset({bucket_of(node(THIRD))})
    told = membership.handle(VersionsHeard(bucket, (RecordVersion(node(THIRD), 1, 0, 0),), node(OTHER)), 3.0)
    assert claims(told) == {node(OTHER): [claim(THIRD, dead=True)]}


def test_a_peer_gets_so_many_answers_a_second() -> None:
    membership = linked(OTHER, *range(100, 200))
    answers = [membership.handle(DigestHeard(bytes(512), node(OTHER)), 1.0) for _ in range(100)]
    assert sum(map(bool, answers)) == 8
    assert membership.handle(DigestHeard(bytes(512), node(77)), 1.0) == [], "nor does a stranger"


# -- a larger grid --------------------------------------------------------------------------------------------------


def test_a_large_grid_is_linked_to_a_few_and_to_others_on_demand() -> None:
    membership = core()
    membership.handle(LinkedUp(record(1)), 0.0)
    for number in range(10, 210):
        membership.handle(heard(record(number), 1), 0.0)
    targets = {target for step in range(60) for target in dials(membership.handle(Tick(), step / 4)) if step < 50}
    assert 8 <= len(targets) <= 20
    apart = next(number for number in range(10, 210) if address(number) not in targets)
    assert dials(membership.handle(Wanted(node(apart)), 20.0)) == [address(apart)]
    assert dials(membership.handle(Wanted(node(apart)), 20.0)) == [], "it is being dialled"


def test_all_are_linked_to_who_listens_to_events() -> None:
    membership = core(with_limits(LIMITS, probe_every=1e9))
    membership.handle(LinkedUp(record(1)), 0.0)
    for number in range(10, 210):
        membership.handle(heard(record(number, interest=number % 2), 1), 0.0)
    targets = {target for step in range(60) for target in dials(membership.handle(Tick(), step / 4))}
    assert {address(number) for number in range(11, 210, 2)} <= targets


def test_an_idle_link_on_demand_is_retired_and_others_agree_unless_they_need_it() -> None:
    membership = linked(*range(10, 210))
    membership.handle(Tick(), 0.0)
    chosen = membership._dialling._chosen
    kept = next(iter(chosen))
    extra = next(number for number in range(10, 210) if node(number) not in chosen)
    membership.handle(Wanted(node(extra)), 1.0)
    membership.handle(LinkedUp(record(extra), address(extra)), 1.0)
    assert Retire(node(extra)) not in membership.handle(Tick(), 50.0)
    assert Retire(node(extra)) not in membership.handle(Tick(busy={node(extra)}), 62.0)
    assert Retire(node(extra)) in membership.handle(Tick(), 123.0)
    assert membership.handle(RetireHeard(node(extra)), 200.0) == [Part(node(extra))]
    assert membership.handle(RetireHeard(kept), 200.0) == []
    assert linked(OTHER).handle(RetireHeard(node(OTHER)), 1.0) == [], "in a full mesh all are needed"


def test_now_and_then_one_that_is_not_linked_is_tried() -> None:
    membership = linked(OTHER, limits=APART)
    for number in range(10, 40):
        membership.handle(heard(record(number), OTHER), 0.0)
    for step in range(20):
        for target in dials(membership.handle(Tick(), step / 4)):
            membership.handle(LinkedUp(record(int(target.host.split(".")[3])), target), step / 4)
            membership.handle(Parted(node(int(target.host.split(".")[3]))), step / 4)
    tried = [target for step in range(240) for target in dials(membership.handle(Tick(), 10 + step / 4))]
    assert len(tried) >= 3


# -- hostile peers --------------------------------------------------------------------------------------------------


def test_what_peers_tell_is_bounded() -> None:
    limits = MembershipLimits(max_members=10, max_addresses=50)
    membership = core(limits)
    for number in range(10, 2000):
        membership.handle(Sighted(Sighting(address(number), node(number))), 0.0)
        membership.handle(LinkedUp(record(number)), 0.0)
        membership.handle(heard(record(number + 5000), 10), 0.0)
    assert len(membership.members()) == 10
    assert len(places(membership)) <= 50
    membership.handle(Sighted(Sighting(address(1)), seed=True), 0.0)
    assert address(1) in places(membership), "a seed is the operator's word"


@pytest.mark.parametrize("limits", [LIMITS, APART], ids=["full mesh", "larger grid"])
@pytest.mark.parametrize("where", [(), (address(OTHER),), (address(77),)], ids=["nowhere", "elsewhere", "nobody there"])
def test_one_that_a_peer_has_made_up_is_soon_dead(where: tuple[Address, ...], limits: MembershipLimits) -> None:
    membership = linked(OTHER, limits=limits)
    membership.handle(heard(record(THIRD, addresses=where), OTHER), 0.0)
    for step in range(100):
        for target in dials(membership.handle(Tick(), step / 4)):
            failed = target != address(OTHER)
            membership.handle(DialFailed(target) if failed else LinkedUp(record(OTHER), target), step / 4)
    assert (state(membership, THIRD), state(membership, OTHER)) == (DEAD, ALIVE)


def test_a_grid_that_shrinks_to_a_full_mesh_gets_the_time_to_link() -> None:
    membership = linked(OTHER, 20, limits=with_limits(LIMITS, full=2))
    membership.handle(Parted(node(20)), 0.0)
    membership.handle(Tick(), 100.0)
    membership.handle(heard(record(OTHER, 1, 1, gone=True)), 100.0)
    assert membership.is_full_mesh
    for now in (101.0, 110.0):
        assert changes(membership.handle(Tick(), now)) == []
    assert changes(membership.handle(Tick(), 116.0)) == [(ALIVE, SUSPECT)]


def test_the_dead_do_not_keep_newcomers_out() -> None:
    membership = core(MembershipLimits(max_members=100))
    for number in range(1000, 1100):
        membership.handle(LinkedUp(record(number)), 0.0)
        membership.handle(LinkLost(node(number)), number / 1000)
    membership.handle(Tick(), 60.0)
    membership.handle(LinkedUp(record(7)), 61.0)
    assert state(membership, 7) is ALIVE
    assert state(membership, 1000) is None, "the one that has been dead for longest goes"
    assert state(membership, 1001) is DEAD


def test_those_only_heard_of_do_not_keep_out_who_is_linked() -> None:
    membership = linked(OTHER, limits=MembershipLimits(max_members=50))
    for number in range(1000, 1200):
        membership.handle(heard(record(number), OTHER), 0.0)
    membership.handle(LinkedUp(record(7)), 1.0)
    assert (state(membership, 7), state(membership, OTHER)) == (ALIVE, ALIVE)
    assert len(membership.members()) == 50


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
    assert places(membership) == set()


def test_a_lie_about_where_a_member_is_does_not_hide_it() -> None:
    """A peer says that OTHER's address is THIRD's, who is linked: OTHER must still be dialled when it is lost."""
    membership = linked(OTHER, THIRD)
    membership.handle(Sighted(Sighting(address(OTHER), node(THIRD))), 1.0)
    membership.handle(LinkLost(node(OTHER)), 2.0)
    assert address(OTHER) in {target for step in range(6) for target in dials(membership.handle(Tick(), 2 + step / 2))}


IDS = st.sampled_from([1, 2, 3, 4, 6]).map(node)
COUNTS = st.integers(0, 3)
RECORDS = st.builds(
    lambda number, incarnation, revision, refuted, gone: record(
        number, incarnation, revision, refuted=refuted, gone=gone
    ),
    st.integers(1, 6),
    COUNTS,
    COUNTS,
    COUNTS,
    st.booleans(),
)
EVENTS = st.one_of(
    st.builds(LinkedUp, RECORDS.filter(lambda one: one.id != node(ME))),
    st.builds(LinkLost, IDS),
    st.builds(Parted, IDS),
    st.builds(Wanted, IDS),
    st.builds(Forget, IDS, st.integers(0, 3)),
    st.builds(RetireHeard, IDS),
    st.builds(lambda one, source: RecordHeard(one, b"r", source), RECORDS, IDS),
    st.builds(ClaimHeard, st.builds(Claim, IDS, COUNTS, COUNTS, st.booleans(), st.booleans()), IDS),
    st.builds(DigestHeard, st.binary(min_size=512, max_size=512), IDS),
    st.builds(
        VersionsHeard,
        st.frozensets(st.integers(0, 63)),
        st.lists(st.builds(RecordVersion, IDS, COUNTS, COUNTS, COUNTS), max_size=8).map(tuple),
        IDS,
    ),
    st.builds(Asked, st.lists(IDS, max_size=8).map(tuple), IDS),
    st.builds(Tick, st.dictionaries(IDS, st.floats(0, 20)), st.frozensets(IDS)),
    st.builds(lambda number: DialFailed(address(number)), st.integers(1, 6)),
)


@given(st.lists(st.tuples(EVENTS, st.floats(0, 3)), max_size=60), st.sampled_from([LIMITS, APART]))
def test_whatever_happens_the_tables_agree(events: list[tuple[Event, float]], limits: MembershipLimits) -> None:
    membership, now = core(limits), 0.0
    for event, passed in events:
        now += passed
        for effect in membership.handle(event, now):
            if isinstance(effect, Tell | ShowDigest | ShowVersions | Ask):
                assert effect.to != node(ME)
            if isinstance(effect, Tell):
                assert len(effect.news) <= MAX_NEWS
    rows = membership._rows
    here = [row for row in rows if row.state in (ALIVE, SUSPECT)]
    assert membership.size == len(here) + 1
    assert set(rows.linked) == {row.node for row in rows if row.linked}
    assert set(rows.suspects) == {row.node for row in rows if row.state is SUSPECT}
    assert node(ME) not in rows.by_node
