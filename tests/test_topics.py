"""Topics against a naive matcher, and queues that lose the oldest and say so."""

import json
from itertools import zip_longest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridnode.errors import BodyInvalid, BodyTooLarge, TopicInvalid
from gridnode.topics import (
    MAX_PAYLOAD,
    MAX_TOLD,
    Backlog,
    Event,
    Table,
    as_json,
    check_pattern,
    check_payload,
    check_topic,
    matches,
)

WORDS = st.sampled_from(["a", "b", "orders", "x-1"])
TOPICS = st.lists(WORDS, min_size=1, max_size=5).map(".".join)
PATTERNS = st.builds(
    lambda words, rest: ".".join([*words, *rest]),
    st.lists(st.one_of(WORDS, st.just("*")), min_size=1, max_size=4),
    st.sampled_from([[], [">"]]),
)


def naive(pattern: str, topic: str) -> bool:
    for want, word in zip_longest(pattern.split("."), topic.split(".")):
        if want == ">":
            return word is not None
        if want is None or word is None or want not in ("*", word):
            return False
    return True


def event(topic: str = "a", payload: bytes = b"1", number: int = 0) -> Event:
    return Event(topic, payload, f"{number:x}", 1.0)


@pytest.mark.parametrize("topic", ["a", "orders.created", "A_b-c:9", ".".join("x" * 16), "x" * 200])
def test_topics(topic: str) -> None:
    check_topic(topic)
    check_pattern(topic)
    assert matches(topic, topic)


@pytest.mark.parametrize(
    "text",
    ["", ".", "a.", ".a", "a..b", "a b", "é", "a\n", "a/b", "a*", "a.b*", ".".join("x" * 17), "x" * 201, '"', "a.>.b"],
)
def test_neither_topics_nor_patterns(text: str) -> None:
    for check in (check_topic, check_pattern):
        with pytest.raises(TopicInvalid):
            check(text)


@pytest.mark.parametrize(
    "pattern", [">", "*", "a.*", "a.>", "*.b", "*.*.>", ".".join("*" * 16), ".".join("x" * 15) + ".>"]
)
def test_patterns_are_no_topics(pattern: str) -> None:
    check_pattern(pattern)
    with pytest.raises(TopicInvalid):
        check_topic(pattern)


@given(st.text(max_size=20))
def test_any_text_is_judged(text: str) -> None:
    try:
        check_topic(text)
    except TopicInvalid:
        return
    assert text.isascii()
    assert matches(">", text)


@given(PATTERNS, TOPICS)
def test_one_pattern_matches_as_the_naive_one(pattern: str, topic: str) -> None:
    check_pattern(pattern)
    assert matches(pattern, topic) is naive(pattern, topic)


@given(st.lists(st.tuples(st.integers(0, 4), st.lists(PATTERNS, max_size=4))), TOPICS)
def test_a_table_that_changes_matches_as_the_naive_one(changes: list[tuple[int, list[str]]], topic: str) -> None:
    table: Table[int] = Table()
    held: dict[int, list[str]] = {}
    for who, patterns in changes:
        table.put(who, patterns)
        held[who] = patterns
    found = table.match(topic)
    assert len(found) == len(set(found))
    assert set(found) == {who for who, patterns in held.items() if any(naive(one, topic) for one in patterns)}
    assert table.patterns() == {one for patterns in held.values() for one in patterns}
    for who in held:
        table.put(who, [])
    assert table.all() == []
    assert table._root.is_bare


def test_what_does_not_match_costs_nothing() -> None:
    """Counted in look-ups of words, which are steadier than time."""

    class Counting(dict[str, object]):
        looks = 0

        def __contains__(self, key: object) -> bool:
            Counting.looks += 1
            return super().__contains__(key)

    def looks(others: int) -> int:
        table: Table[int] = Table()
        for number in range(others):
            table.put(number, [f"other{number}.*.created", f"orders.x{number}.>"])
        table.put(-1, ["orders.*"])
        table._root.words = Counting(table._root.words)  # type: ignore[assignment]
        orders = table._root.words["orders"]
        orders.words = Counting(orders.words)  # type: ignore[assignment]
        Counting.looks = 0
        assert table.match("orders.created") == [-1]
        return Counting.looks

    assert looks(10) == looks(10_000)


@pytest.mark.parametrize("body", [b"", b"{", b"nan", b"1 2", b'"\xff"', b'"a\nb"'])
def test_payloads_that_are_no_json(body: bytes) -> None:
    with pytest.raises(BodyInvalid):
        check_payload("a", body)


def test_the_largest_payload_and_one_byte_more() -> None:
    check_payload("a", b'"%s"' % (b"x" * (MAX_PAYLOAD - 2)))
    with pytest.raises(BodyTooLarge):
        check_payload("a", b'"%s"' % (b"x" * (MAX_PAYLOAD - 1)))


@given(
    st.recursive(st.none() | st.integers() | st.text(), lambda inner: st.lists(inner, max_size=3)), st.integers(0, 9)
)
def test_an_event_is_one_line_of_json(value: object, dropped: int) -> None:
    line = as_json(event(payload=json.dumps(value, indent=1).encode()), dropped)
    assert b"\n" not in line
    expected = {"topic": "a", "data": value, "id": "0", "time": 1.0} | ({"dropped": dropped} if dropped else {})
    assert json.loads(line) == expected


@given(st.lists(st.integers(0, 3)), st.integers(1, 5), st.integers(1, 5))
def test_a_backlog_keeps_order_and_counts_what_it_lost(sizes: list[int], room: int, take: int) -> None:
    backlog = Backlog(max_events=room)
    got: list[int] = []
    lost = 0
    for number, size in enumerate(sizes):
        backlog.push(event("t", b"x" * size, number))
        assert len(backlog) <= room
        if size == 0:
            batch = backlog.take(take, 1 << 20)
            lost += sum(batch.dropped.values())
            got += [int(one.id, 16) for one in batch.events]
    while backlog:
        batch = backlog.take(take, 1)
        lost += sum(batch.dropped.values())
        got += [int(one.id, 16) for one in batch.events]
    assert got == sorted(got)
    assert len(got) + lost == len(sizes)
    assert backlog.dropped == lost
    assert not backlog.has_news


def test_a_backlog_is_bounded_in_bytes_but_holds_one_of_any_size() -> None:
    backlog = Backlog(max_bytes=1000)
    backlog.push(event(payload=b"x" * 5000, number=1))
    assert len(backlog) == 1
    backlog.push(event(payload=b"y", number=2))
    batch = backlog.take(10, 10)
    assert ([one.id for one in batch.events], batch.dropped) == (["2"], {"a": 1})


def test_what_was_lost_is_told_once_and_by_topic_up_to_a_bound() -> None:
    backlog = Backlog()
    for number in range(MAX_TOLD + 5):
        backlog.missed(f"t{number}", 2)
    assert backlog.has_news
    dropped = backlog.take(1, 1).dropped
    assert len(dropped) == MAX_TOLD + 1
    assert (dropped["t0"], dropped[""]) == (2, 10)
    assert backlog.take(1, 1).dropped == {}
    assert backlog.dropped == 2 * (MAX_TOLD + 5)
    backlog.missed("b", 3)
    backlog.push(event(number=9))
    taken, lost = backlog.next()
    assert (taken.id, lost) == ("9", 3)
    backlog.push(event())
    backlog.drop()
    assert (len(backlog), backlog.take(1, 1).dropped) == (0, {"a": 1})
