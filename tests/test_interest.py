"""What peers are told of interest: bounded, never too little, and the same on both sides after any changes."""

from hypothesis import given
from hypothesis import strategies as st

from gridnode.event_wire import MAX_INTEREST, decode_interest
from gridnode.interest import Heard, Own, summary
from gridnode.messages import encode
from gridnode.topics import check_pattern, matches
from tests.test_topics import PATTERNS, TOPICS

SETS = st.sets(PATTERNS, max_size=8)


@given(SETS, st.integers(1, 8), TOPICS)
def test_a_summary_is_small_and_misses_nothing(patterns: set[str], limit: int, topic: str) -> None:
    found = summary(patterns, limit)
    assert len(found) <= max(limit, 1)
    for pattern in found:
        check_pattern(pattern)
    if any(matches(pattern, topic) for pattern in patterns):
        assert any(matches(pattern, topic) for pattern in found)


@given(st.lists(st.tuples(SETS, st.booleans())))
def test_a_peer_knows_what_it_was_told_or_that_it_must_ask(changes: list[tuple[set[str], bool]]) -> None:
    own, heard = Own(7), Heard()
    assert heard.take(own.whole())
    for patterns, arrives in changes:
        told = own.update(patterns)
        if told and arrives and not heard.take(decode_interest(encode(told))):
            assert heard.take(decode_interest(encode(own.whole())))
    if heard.version != own.version:
        heard.take(own.whole())
    assert heard.version == own.version
    assert heard.patterns == frozenset(changes[-1][0] if changes else ())


def test_what_is_no_news_is_not_told() -> None:
    own = Own(1)
    assert own.update([]) is None
    assert own.update(["a", "b"])
    assert own.update(["b", "a"]) is None


def test_a_peer_cannot_make_us_remember_more_than_the_bound() -> None:
    own, heard = Own(1), Heard()
    heard.take(own.whole())
    for number in range(10):
        names = {f"t{number}-{one}" for one in range(MAX_INTEREST)}
        told = own.update(names)
        assert told
        heard.take(told.__class__(told.version, told.base, told.add, ()))
        assert len(heard.patterns) <= MAX_INTEREST
