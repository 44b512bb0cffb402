from gridnode.model import Claim, NodeId, NodeRecord
from gridnode.swim.rumours import BUCKETS, MAX_NEWS, Rumours, bucket_of, differing, mark_of, sums_of, times

IDS = [NodeId(f"{number * 7919 % 256:02x}{number:038x}") for number in range(300)]
RECORDS = [NodeRecord(node, "n", 1, 0, (), "1", 0) for node in IDS]


def test_a_rumour_is_told_a_few_times_and_never_twice_to_one() -> None:
    rumours = Rumours()
    rumours.spread(IDS[0], b"news", 1000, IDS[1])
    told = [peer for peer in IDS[1:] + IDS[1:] if rumours.take(peer)[0]]
    assert len(told) == len(set(told)) == times(1000) - 1, "who told it counts as told"
    assert IDS[1] not in told
    assert len(rumours) == 0


def test_a_newer_record_replaces_an_older_one_and_the_claim_about_it() -> None:
    rumours = Rumours()
    rumours.accuse(Claim(IDS[0], 1, 0), 10, None)
    rumours.spread(IDS[0], b"old", 10, None)
    rumours.spread(IDS[0], b"new", 10, None)
    assert rumours.take(IDS[1]) == ((b"new",), ())


def test_a_node_is_not_told_its_own_record_but_what_is_claimed_of_it() -> None:
    rumours = Rumours()
    rumours.spread(IDS[0], b"own", 10, None)
    rumours.accuse(Claim(IDS[0], 1, 0), 10, None)
    assert rumours.take(IDS[0]) == ((), (Claim(IDS[0], 1, 0),))


def test_a_message_and_the_whole_are_bounded() -> None:
    rumours = Rumours()
    for number in range(10_000):
        rumours.spread(NodeId(f"{number:040x}"), b"x", 100, None)
    assert len(rumours) <= 8192
    assert len(rumours.take(IDS[0])[0]) == MAX_NEWS


def test_sums_differ_where_what_is_known_does() -> None:
    marks = [(record.id, mark_of(record)) for record in RECORDS]
    newer = NodeRecord(IDS[7], "n", 1, 1, (), "1", 0)
    ours = sums_of(marks)
    assert differing(ours, sums_of(reversed(marks))) == frozenset()
    assert differing(ours, sums_of(marks[1:])) == {bucket_of(IDS[0])}
    assert differing(ours, sums_of([*marks[:7], (newer.id, mark_of(newer)), *marks[8:]])) == {bucket_of(IDS[7])}
    assert differing(ours, sums_of([])) == {bucket_of(node) for node in IDS}
    assert {bucket_of(node) for node in IDS} == set(range(BUCKETS))
