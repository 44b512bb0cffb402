"""A release's way to the nodes: bars for a person, lines for a file."""

import io

import pytest

from gridctl.arriving import Telling
from gridctl.follow import Arrival
from gridctl.render import Progress, drawn, way
from gridnode.model import NodeId


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def fetching(name: str, have: int, rate: int = 0, total: int = 1_000_000) -> Arrival:
    return Arrival(NodeId(name * 40), name, "fetching", have=have, total=total, rate=rate)


@pytest.mark.parametrize(
    ("have", "total", "rate", "text"),
    [
        (0, 0, 0, ""),
        (400, 1000, 0, "40%"),
        (400_000, 1_000_000, 100_000, "40%, 100.0 KB/s, 6s left"),
        (1000, 1000, 100, "100%"),
        (999_999, 1_000_000, 1_000_000, "99%, 1.0 MB/s, 1s left"),
    ],
)
def test_how_far_and_how_long(have: int, total: int, rate: int, text: str) -> None:
    assert way(have, total, rate) == text


def test_a_bar_is_as_wide_as_it_should_be() -> None:
    assert drawn(5, 10, 10) == "[#####     ]"
    assert drawn(0, 0, 3) == "[   ]"
    assert drawn(20, 10, 3) == "[###]"


def test_lines_where_nobody_watches() -> None:
    now = [0.0]
    stream = io.StringIO()
    telling = Telling(Progress(stream), True, lambda: now[0])
    for seconds, have in ((0, 0), (1, 100_000), (5, 500_000), (6, 600_000), (10, 900_000)):
        now[0] = float(seconds)
        telling.tell(fetching("a", have, 100_000 if seconds else 0))
    telling.tell(Arrival(NodeId("a" * 40), "a", "active", final=True))
    assert stream.getvalue().splitlines() == [
        "a: fetching",
        "a: fetching 50%, 100.0 KB/s, 5s left",
        "a: fetching 90%, 100.0 KB/s, 1s left",
        "a: active",
    ]


def test_of_a_release_that_was_there_only_slow_fetches_are_told() -> None:
    stream = io.StringIO()
    telling = Telling(Progress(stream), False, lambda: 0.0)
    telling.tell(fetching("a", 10))
    telling.tell(Arrival(NodeId("a" * 40), "a", "active", final=True))
    assert stream.getvalue() == ""


def test_a_bar_for_each_node_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("LINES", "20")
    now = [0.0]
    monkeypatch.setattr("gridctl.render.time.monotonic", lambda: now[0])
    stream = Terminal()
    progress = Progress(stream)
    telling = Telling(progress, False)
    now[0] = 1.0
    telling.tell(fetching("a", 500_000, 100_000))
    assert stream.getvalue() == f"\r\x1b[Ka {drawn(1, 2)} 50%, 100.0 KB/s, 5s left"
    now[0] = 2.0
    telling.tell(fetching("bb", 0))
    assert stream.getvalue().endswith(f"\nbb {drawn(0, 1)} 0%")
    before = len(stream.getvalue())
    now[0] = 3.0
    telling.tell(fetching("bb", 500_000))
    assert stream.getvalue()[before:].startswith("\r\x1b[1A\x1b[J"), "two lines are taken away"
    progress.clear()
    assert stream.getvalue().endswith("\r\x1b[1A\x1b[J")
