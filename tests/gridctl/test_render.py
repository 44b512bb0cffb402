import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridctl.render import Progress, clean, paint, percent, print_json, size, span, table


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 KB"), (12_345_678, "12.3 MB"), (10**13, "10.0 TB")]
)
def test_sizes(count: int, text: str) -> None:
    assert size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-5, "0s"), (0, "0s"), (3.9, "3s"), (60, "1m"), (125, "2m 5s"), (3600, "1h"), (90_061, "1d 1h"), (86_460, "1d")],
)
def test_spans(seconds: float, text: str) -> None:
    assert span(seconds) == text


def test_percent() -> None:
    assert (percent(2, 5), percent(0, 0)) == ("40%", "")


@given(st.text())
def test_nothing_that_steers_a_terminal_is_printed(text: str) -> None:
    cleaned = clean(text)
    assert not any(ord(char) < 32 and char not in "\t\n" for char in cleaned)
    assert not any(0x7F <= ord(char) <= 0x9F for char in cleaned)
    assert clean(cleaned) == cleaned


def test_clean_shows_what_it_takes_out() -> None:
    assert clean("a\x1b[31mb\r\n\u202ec\t") == "a\\x1b[31mb\\x0d\n\\x202ec\t"


@given(st.lists(st.tuples(st.text(max_size=9), st.text(max_size=9)), max_size=5))
def test_a_table_has_one_line_per_row(rows: list[tuple[str, str]]) -> None:
    lines = table(("A", "B"), rows)
    assert len(lines) == len(rows) + 1
    assert not any("\n" in line for line in lines)


def test_columns_are_aligned() -> None:
    assert table(("NAME", "X"), [("a", "1"), ("longer", "2")]) == ["NAME    X", "a       1", "longer  2"]


def test_colour_only_where_it_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    assert paint("x", "red", Terminal()) == "\x1b[31mx\x1b[0m"
    assert paint("x", "red", io.StringIO()) == "x"
    monkeypatch.setenv("NO_COLOR", "1")
    assert paint("x", "red", Terminal()) == "x"
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert paint("x", "red", Terminal()) == "x"


def test_progress_without_a_terminal_is_lines_only() -> None:
    stream = io.StringIO()
    progress = Progress(stream)
    progress.bar("sending", 1, 2)
    progress.line("done\x1b", "green")
    assert stream.getvalue() == "done\\x1b\n"


def test_progress_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    now = [0.0]
    monkeypatch.setattr("gridctl.render.time.monotonic", lambda: now[0])
    stream = Terminal()
    progress = Progress(stream)
    progress.bar("sending", 0, 2000)
    assert stream.getvalue() == ""
    now[0] = 1.0
    progress.bar("sending", 1000, 2000)
    progress.bar("sending", 1001, 2000)
    assert stream.getvalue() == f"\r\x1b[Ksending [{'#' * 14}{' ' * 14}] 1.0 KB of 2.0 KB"
    progress.line("done")
    assert stream.getvalue().endswith("\r\x1b[Kdone\n")
    now[0] = 2.0
    progress.bar("empty", 0, 0)
    assert "empty [" in stream.getvalue()


@given(st.text())
def test_printed_json_is_json_and_steers_no_terminal(text: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdout", out := io.StringIO())
        print_json({"text": text})
    printed = out.getvalue()
    assert json.loads(printed) == {"schema": 1, "text": text}
    assert all(" " <= char <= "~" for char in printed.removesuffix("\n"))
