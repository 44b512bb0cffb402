import itertools

from hypothesis import given
from hypothesis import strategies as st

from gridnode.discovery import sealed
from gridnode.discovery.rate import TokenBucket
from gridnode.discovery.sealed import MAX_DATAGRAM, SealedDatagrams
from gridnode.identity import seal

KEY = b"k" * 32
NOW = 1_800_000_000.0
NONCES = itertools.count(1)


def nonce() -> bytes:
    return next(NONCES).to_bytes(12, "big")


def sealed_by(key: bytes = KEY, now: float = NOW, payload: bytes = b"hello") -> bytes:
    return SealedDatagrams(key).seal(payload, now, nonce())


def test_a_datagram_is_taken_once() -> None:
    end, datagram = SealedDatagrams(KEY), sealed_by()
    assert end.open(datagram, NOW) == b"hello"
    assert end.open(datagram, NOW) is None
    assert end.open(sealed_by(), NOW) == b"hello"


def test_a_replay_is_refused_at_any_later_time() -> None:
    """Also when what is remembered has been turned over in between."""
    for first, later in itertools.product(range(0, 1300, 100), range(0, 1300, 50)):
        end, datagram = SealedDatagrams(KEY), sealed_by(now=NOW + first)
        end.open(sealed_by(now=NOW), NOW)
        assert end.open(datagram, NOW + first) == b"hello"
        end.open(sealed_by(now=NOW + first + later), NOW + first + later)
        assert end.open(datagram, NOW + first + later) is None


def test_what_strangers_seal_or_others_meant_is_nothing() -> None:
    end = SealedDatagrams(KEY)
    assert end.open(sealed_by(b"o" * 32), NOW) is None
    assert end.open(seal(KEY, b"hello", NOW, nonce()), NOW) is None, "an announcement by multicast"
    assert end.open(sealed_by(now=NOW - 400), NOW) is None
    assert end.open(sealed_by(now=NOW + 400), NOW) is None
    assert end.open(sealed_by(payload=bytes(MAX_DATAGRAM)), NOW) is None


@given(st.binary(max_size=200))
def test_garbage_is_nothing(garbage: bytes) -> None:
    assert SealedDatagrams(KEY).open(garbage, NOW) is None


def test_members_fill_no_memory_and_replays_take_nobodys_place() -> None:
    end, replayed = SealedDatagrams(KEY), sealed_by()
    assert end.open(replayed, NOW)
    assert not any(end.open(replayed, NOW) for _ in range(10_000))
    taken = sum(end.open(sealed_by(), NOW) is not None for _ in range(2000))
    assert taken == sealed._BURST - 1
    assert len(end._recent) == sealed._BURST
    assert end.open(sealed_by(now=NOW + 1), NOW + 1) == b"hello"


def test_a_bucket_fills_again() -> None:
    bucket = TokenBucket(rate=10, burst=5)
    assert [bucket.take(0.0) for _ in range(7)] == [True] * 5 + [False] * 2
    assert [bucket.take(0.25) for _ in range(3)] == [True] * 2 + [False]
    assert sum(bucket.take(100.0) for _ in range(50)) == 5
    assert not bucket.take(50.0), "a clock that goes back gives nothing"
