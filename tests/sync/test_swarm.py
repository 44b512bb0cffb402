"""Which piece is asked of whom: windows, silence, the end, peers that refuse, miss, fail and lie."""

import random
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from gridnode.model import NodeId
from gridnode.sync.swarm import (
    Announced,
    Ask,
    Drop,
    Effect,
    Event,
    Failed,
    Gained,
    Gone,
    Got,
    Lied,
    Missed,
    Refused,
    Swarm,
    SwarmLimits,
    Tick,
)

A, B, C = (NodeId(letter * 40) for letter in "abc")
KB = 1024


def swarm(pieces: int, size: int = 256 * KB, limits: SwarmLimits | None = None, seed: int = 1) -> Swarm:
    return Swarm([size] * pieces, (1 << pieces) - 1, random.Random(seed).randrange, limits)


def asks(effects: list[Effect], peer: NodeId | None = None) -> list[int]:
    return [one.piece for one in effects if isinstance(one, Ask) and peer in (None, one.peer)]


def everything(pieces: int) -> int:
    return (1 << pieces) - 1


def test_a_peer_is_asked_for_one_piece_until_it_shows_what_it_can_do() -> None:
    assert len(asks(swarm(20).handle(Announced(A, everything(20)), 0.0))) == 1


def test_what_it_is_asked_at_once_grows_while_it_keeps_up() -> None:
    one = swarm(400)
    waiting = asks(one.handle(Announced(A, everything(400)), 0.0))
    most, now = 0, 0.0
    while waiting:
        now += 0.01
        done, waiting = waiting, []
        for piece in done:
            waiting += asks(one.handle(Got(A, piece, 256 * KB), now))
        most = max(most, len(waiting))
    assert one.missing == 0
    assert 16 <= most <= 32, "8 MiB"


def test_it_stays_small_where_the_uplink_is_shared() -> None:
    one = swarm(100)
    waiting = asks(one.handle(Announced(A, everything(100)), 0.0))
    now, most = 0.02, 1
    waiting += asks(one.handle(Got(A, waiting.pop(0), 256 * KB), now))
    while waiting:  # each takes five times as long as the first
        now += 0.1
        waiting += asks(one.handle(Got(A, waiting.pop(0), 256 * KB), now))
        most = max(most, len(waiting))
    assert most <= 2


def test_no_more_is_asked_of_all_than_in_all() -> None:
    one = swarm(100, limits=SwarmLimits(in_all=1024 * KB))
    effects = [effect for n in range(20) for effect in one.handle(Announced(NodeId(f"{n:040x}"), everything(100)), 0.0)]
    assert len(asks(effects)) == 4


def test_the_rarest_comes_first() -> None:
    one = swarm(8)
    one.handle(Announced(B, 0b1111_0111), 0.0)
    assert asks(one.handle(Announced(A, 0b1111_1111), 0.0), A) == [3]


def test_among_equals_chance_decides() -> None:
    first = {tuple(asks(swarm(64, seed=seed).handle(Announced(A, everything(64)), 0.0))) for seed in range(20)}
    assert len(first) > 8


def test_no_piece_is_asked_twice_while_others_are_left() -> None:
    one = swarm(30)
    effects = [*one.handle(Announced(A, everything(30)), 0.0), *one.handle(Announced(B, everything(30)), 0.0)]
    assert len(set(asks(effects))) == len(asks(effects)) == 2


def test_what_a_peer_gains_is_asked_of_it() -> None:
    one = swarm(4)
    assert one.handle(Announced(A, 0), 0.0) == []
    assert one.handle(Gained(A, 0b100), 0.0) == [Ask(A, 2)]
    assert one.is_idle is False


def test_a_silent_peers_piece_is_asked_elsewhere_and_may_still_come() -> None:
    one = swarm(1)
    assert one.handle(Announced(A, 1), 0.0) == [Ask(A, 0)]
    assert one.handle(Announced(B, 1), 0.1) == []
    assert asks(one.handle(Tick(), 1.9), B) in ([], [0])
    other = swarm(9)
    (piece,) = asks(other.handle(Announced(A, everything(9)), 0.0))
    assert asks(other.handle(Announced(B, 1 << piece), 0.1)) == []
    assert asks(other.handle(Tick(), 1.9)) == []
    assert other.handle(Tick(), 2.1) == [Ask(B, piece)]
    assert Drop(B, piece) in other.handle(Got(A, piece, 9), 2.2)


def test_a_peer_that_delivers_is_not_silent() -> None:
    one = swarm(9, limits=SwarmLimits(window=512 * KB))
    first, second = asks(one.handle(Announced(A, everything(9)), 0.0))
    one.handle(Announced(B, 1 << second), 0.0)
    one.handle(Got(A, first, 256 * KB), 1.9)
    assert asks(one.handle(Tick(), 3.0), B) == []


def test_a_request_is_dropped_in_the_end() -> None:
    one = swarm(1)
    one.handle(Announced(A, 1), 0.0)
    assert one.handle(Tick(), 3.0) == []
    effects = one.handle(Tick(), 61.0)
    assert effects[0] == Drop(A, 0)
    assert asks(effects) == [0], "there is nobody else"


def test_near_the_end_a_second_peer_is_asked_for_what_takes_long() -> None:
    one = swarm(2)
    (piece,) = asks(one.handle(Announced(A, 0b11), 0.0))
    assert asks(one.handle(Announced(B, 0b11), 0.0)) == [1 - piece]
    assert one.handle(Got(B, 1 - piece, 256 * KB), 0.1) == []
    assert one.handle(Tick(), 0.4) == []
    assert one.handle(Tick(), 0.6) == [Ask(B, piece)]
    assert one.handle(Got(B, piece, 256 * KB), 0.7) == [Drop(A, piece)]


def test_at_most_eight_duplicates() -> None:
    one = swarm(8, limits=SwarmLimits(window=8 * 256 * KB, silence=1000.0, duplicates=3))
    assert len(asks(one.handle(Announced(A, everything(8)), 0.0))) == 8
    assert len(asks(one.handle(Announced(B, everything(8)), 0.0))) == 0
    assert len(asks(one.handle(Tick(), 5.0), B)) in (0, 3)
    small = swarm(3, limits=SwarmLimits(window=8 * 256 * KB, silence=1000.0, duplicates=3))
    small.handle(Announced(A, everything(3)), 0.0)
    small.handle(Announced(B, everything(3)), 0.0)
    assert len(asks(small.handle(Tick(), 5.0), B)) == 3
    assert len(asks(small.handle(Announced(C, everything(3)), 6.0))) == 0


def test_what_is_given_to_others_is_left_alone_for_a_while() -> None:
    one = swarm(4)
    (piece,) = asks(one.handle(Announced(A, 0b1111), 0.0))
    given = 0b1111 & ~(1 << (piece + 1) % 4)
    assert asks(one.handle(Refused(A, piece, given), 0.1)) == [(piece + 1) % 4]
    assert asks(one.handle(Got(A, (piece + 1) % 4, 9), 0.2)) == []
    assert len(asks(one.handle(Tick(), 0.7))) == 1


def test_a_busy_peer_is_asked_again_a_moment_later() -> None:
    one = swarm(4)
    (piece,) = asks(one.handle(Announced(A, 0b1111), 0.0))
    assert asks(one.handle(Refused(A, piece), 0.0)) == []
    assert len(asks(one.handle(Tick(), 0.2))) == 1


def test_what_a_peer_does_not_hold_is_not_asked_of_it_again() -> None:
    one = swarm(1)
    one.handle(Announced(A, 1), 0.0)
    assert one.handle(Missed(A, 0), 0.1) == []
    assert one.handle(Tick(), 100.0) == []
    assert one.handle(Gained(A, 1), 101.0) == [Ask(A, 0)], "unless it says that it does now"


def test_after_a_failure_a_peer_is_left_alone_for_a_moment() -> None:
    one = swarm(1)
    one.handle(Announced(A, 1), 0.0)
    assert one.handle(Failed(A, 0), 0.1) == []
    assert one.handle(Tick(), 0.5) == [Ask(A, 0)]


def test_a_liar_is_never_asked_again() -> None:
    one = swarm(3)
    (piece,) = asks(one.handle(Announced(A, 0b111), 0.0))
    one.handle(Announced(B, 0), 0.0)
    assert one.handle(Lied(A), 0.1) == [Drop(A, piece)]
    assert one.handle(Announced(A, 0b111), 0.2) == []
    assert one.handle(Gained(A, 0b111), 0.2) == []
    assert len(asks(one.handle(Gained(B, 0b111), 0.3), B)) == 1


def test_what_was_asked_of_a_lost_peer_is_asked_of_another() -> None:
    one = swarm(1)
    one.handle(Announced(A, 1), 0.0)
    one.handle(Announced(B, 1), 0.0)
    assert one.handle(Gone(A), 0.1) == [Drop(A, 0), Ask(B, 0)]


def test_bits_of_pieces_that_are_not_there_are_passed_over() -> None:
    one = swarm(2)
    assert set(asks(one.handle(Announced(A, 1 << 70_000 | 0b01), 0.0))) == {0}


EVENTS: list[Callable[[NodeId, int, int], Event]] = [
    lambda peer, piece, bits: Announced(peer, bits),
    lambda peer, piece, bits: Gained(peer, bits),
    lambda peer, piece, bits: Gone(peer),
    lambda peer, piece, bits: Got(peer, piece, 1000),
    Refused,
    lambda peer, piece, bits: Missed(peer, piece),
    lambda peer, piece, bits: Failed(peer, piece),
    lambda peer, piece, bits: Tick(),
]


@given(
    st.lists(
        st.tuples(
            st.integers(0, 7), st.sampled_from([A, B, C]), st.integers(0, 9), st.integers(0, 1023), st.floats(0, 5)
        )
    ),
    st.integers(0, 99),
)
def test_whatever_peers_say_it_asks_only_for_what_is_missing_and_ends(
    told: list[tuple[int, NodeId, int, int, float]], seed: int
) -> None:
    one, now = swarm(10, seed=seed), 0.0
    running: set[tuple[NodeId, int]] = set()

    def take(effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Ask):
                assert one.missing >> effect.piece & 1
                assert (effect.peer, effect.piece) not in running
                running.add((effect.peer, effect.piece))
            else:
                running.discard((effect.peer, effect.piece))

    for kind, peer, piece, bits, seconds in told:
        now += seconds
        event = EVENTS[kind](peer, piece, bits)
        if isinstance(event, Got | Refused | Missed | Failed):
            if (peer, piece) not in running:
                continue
            running.discard((peer, piece))
        take(one.handle(event, now))
    take(one.handle(Announced(C, 1023), now))
    for _ in range(200):
        now += 0.7
        take(one.handle(Tick(), now))
        for peer, piece in sorted(running):
            if peer == C and (peer, piece) in running:
                running.discard((peer, piece))
                take(one.handle(Got(peer, piece, 1000), now))
    assert one.missing == 0
    assert not running
    assert one.is_idle
