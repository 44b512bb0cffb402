from hypothesis import given
from hypothesis import strategies as st

from gridnode.room import Room


def test_room_is_bounded_in_calls_and_bytes() -> None:
    room = Room(3, 100)
    assert [room.take(60), room.take(60), room.take(40), room.take(0), room.take(0)] == [True, False, True, True, False]
    room.give(60)
    assert room.take(60)
    assert str(room) == "3 calls with 9.54e-05 MiB are under way, at most 3 with 9.54e-05 MiB may be"


def test_a_call_larger_than_all_has_room_alone() -> None:
    room = Room(3, 10)
    assert room.take(11)
    assert not room.take(0)


@given(st.lists(st.integers(0, 50), max_size=50), st.integers(1, 9), st.integers(0, 100))
def test_what_is_taken_and_given_back_leaves_nothing(sizes: list[int], calls: int, size: int) -> None:
    room = Room(calls, size)
    taken = [one for one in sizes if room.take(one)]
    assert (room.calls, room.size) == (len(taken), sum(taken))
    assert room.calls <= calls
    assert room.size <= size or len(taken) == 1
    for one in taken:
        room.give(one)
    assert (room.calls, room.size) == (0, 0)
