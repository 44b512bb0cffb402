"""Each piece once before any again."""

from gridnode.model import NodeId
from gridnode.sync.ration import Ration

A, B, C = (NodeId(letter * 40) for letter in "abc")
ALL = 0b1111


def test_a_piece_that_another_gets_now_is_refused_while_others_are_fresh() -> None:
    ration = Ration(ALL)
    assert ration.take(0, A, {A: 0, B: 0}, 0.0) == 0
    assert ration.take(0, B, {A: 0, B: 0}, 0.1) == 0b0001
    assert ration.take(1, B, {A: 0, B: 0}, 0.1) == 0


def test_the_same_peer_may_ask_again() -> None:
    ration = Ration(ALL)
    assert [ration.take(0, A, {A: 0, B: 0}, now) for now in (0.0, 0.1, 9.0)] == [0, 0, 0]


def test_a_piece_that_did_not_arrive_is_given_to_another() -> None:
    ration = Ration(ALL)
    ration.take(0, A, {A: 0, B: 0}, 0.0)
    assert ration.take(0, B, {A: 0, B: 0}, 1.9) != 0
    assert ration.take(0, B, {A: 0, B: 0}, 2.1) == 0


def test_one_that_arrived_is_had_there_however_long_ago() -> None:
    ration = Ration(ALL)
    ration.take(0, A, {A: 0, B: 0}, 0.0)
    assert ration.take(0, B, {A: 0b0001, B: 0}, 100.0) == 0b0001


def test_a_peer_that_is_gone_gives_nothing() -> None:
    ration = Ration(ALL)
    ration.take(0, A, {A: 0, B: 0}, 0.0)
    assert ration.take(0, B, {B: 0}, 0.1) == 0


def test_once_all_were_given_none_is_refused() -> None:
    ration = Ration(ALL)
    for piece in range(4):
        ration.take(piece, A, {A: 0, B: 0}, 0.0)
    assert ration.take(0, B, {A: 0, B: 0}, 0.1) == 0


def test_what_nobody_lacks_does_not_count_as_fresh() -> None:
    ration = Ration(ALL)
    ration.take(0, A, {A: 0b1110, B: 0b1110}, 0.0)
    assert ration.take(0, B, {A: 0b1110, B: 0b1110}, 0.1) == 0
