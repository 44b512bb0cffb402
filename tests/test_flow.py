"""Credit of streams: what may be sent, and when more is allowed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridnode.errors import FrameInvalid
from gridnode.flow import FIRST_ITEMS, FIRST_SIZE, MAX_ITEMS, MAX_SIZE, Credit, Meter, Window


@given(
    st.integers(FIRST_ITEMS, MAX_ITEMS),
    st.integers(FIRST_SIZE, MAX_SIZE),
    st.lists(st.integers(0, 3 * FIRST_SIZE), min_size=1, max_size=400),
    st.integers(0, 50),
)
def test_a_reader_that_takes_all_is_never_waited_for(items: int, size: int, sent: list[int], behind: int) -> None:
    """Nor is more under way than it said, but for the last item of those that fill the window."""
    window, meter = Window(), Meter(items, size)
    under_way: list[int] = []
    for one in sent:
        while not window.is_open or len(under_way) > behind:
            assert under_way, "the window is shut and nothing is there to be taken"
            credit = meter.took(under_way.pop(0))
            if credit:
                window.add(credit)
        window.spend(one)
        under_way.append(one)
        assert len(under_way) <= items
        assert sum(under_way[:-1]) < size


def test_a_window_has_two_bounds() -> None:
    window = Window()
    for _ in range(FIRST_ITEMS):
        assert window.is_open
        window.spend(1)
    assert not window.is_open
    with pytest.raises(FrameInvalid):
        window.spend(0)
    window = Window()
    window.spend(FIRST_SIZE + 5_000_000)
    assert not window.is_open
    window.add(Credit(1, 5_000_000))
    assert not window.is_open
    window.add(Credit(1, 1))
    assert window.is_open


@pytest.mark.parametrize("credit", [(0, 1), (MAX_ITEMS, 0), (1, MAX_SIZE), (1, -1)])
def test_more_than_there_may_be_is_refused(credit: tuple[int, int]) -> None:
    with pytest.raises(FrameInvalid):
        Window().add(Credit(*credit))


def test_a_short_stream_costs_no_credit() -> None:
    meter = Meter()
    assert [meter.took(100) for _ in range(FIRST_ITEMS // 2 - 1)] == [None] * (FIRST_ITEMS // 2 - 1)
    assert meter.took(100) == Credit(FIRST_ITEMS // 2, 100 * FIRST_ITEMS // 2)


def test_a_wide_window_opens_with_the_first_credit() -> None:
    credits = [credit for _ in range(1000) if (credit := Meter(1000, FIRST_SIZE * 4).took(FIRST_SIZE))]
    assert credits[0] == Credit(1 + 1000 - FIRST_ITEMS, FIRST_SIZE * 4)
