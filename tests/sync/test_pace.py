from gridnode.sync.pace import Pace


def test_it_is_unknown_at_first() -> None:
    assert Pace().note(1000, 5.0) == 0


def test_a_steady_count() -> None:
    pace = Pace()
    assert [pace.note(n * 100, n * 0.5) for n in range(8)][1:] == [200] * 7


def test_what_was_long_ago_does_not_count() -> None:
    pace = Pace()
    for n in range(10):
        pace.note(n * 1_000_000, n)
    for n in range(10, 15):
        rate = pace.note(9_000_000, n)
    assert rate == 0


def test_it_keeps_little_however_often_it_is_told() -> None:
    pace = Pace()
    for n in range(10_000):
        rate = pace.note(n, n / 1000)
    assert 990 <= rate <= 1010
    assert len(pace._marks) < 40
