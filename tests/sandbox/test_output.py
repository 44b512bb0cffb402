from hypothesis import given
from hypothesis import strategies as st

from gridnode.sandbox import Output
from gridnode.sandbox.output import CUT, MAX_TEXT, last_lines, parse_output, shown

STAMP = b"2026-11-24T03:00:00.000000007Z "
AT = 1_795_489_200_000_000_007


def frame(text: bytes, stream: int = 1, stamp: bytes = STAMP) -> bytes:
    payload = stamp + text
    return bytes([stream, 0, 0, 0]) + len(payload).to_bytes(4, "big") + payload


def test_a_line_has_its_time_its_stream_and_its_text() -> None:
    raw = frame(b"one\n") + frame(b"two\r\n", 2, b"2026-11-24T03:00:01Z ") + frame(b"\n", 1)
    assert parse_output(raw) == (
        [Output(AT, "stdout", "one"), Output(AT + 999_999_993, "stderr", "two"), Output(AT, "stdout", "")],
        3,
    )


def test_parts_of_a_long_line_are_one_line_though_another_stream_comes_between() -> None:
    later = b"2026-11-24T03:00:09.1Z "
    raw = (
        frame(b"a" * 10) + frame(b"err\n", 2) + frame(b"b" * 10, 1, later) + frame(b"c\n", 1, later) + frame(b"next\n")
    )
    lines, count = parse_output(raw)
    assert [line.text for line in lines] == ["err", "a" * 10 + "b" * 10 + "c", "next"]
    assert lines[1].time == AT
    assert count == 5


def test_a_line_without_an_end_is_shown_too() -> None:
    assert parse_output(frame(b"no end"))[0] == [Output(AT, "stdout", "no end")]


def test_the_end_of_a_line_that_began_before_is_not_taken_for_a_line() -> None:
    raw = frame(b"end of one\n") + frame(b"err\n", 2) + frame(b"two\n") + frame(b"warn\n", 2)
    lines, is_all = last_lines(raw, 4)
    assert ([line.text for line in lines], is_all) == (["two", "warn"], False)
    assert last_lines(raw, 5) == (parse_output(raw)[0], True)


def test_a_long_line_is_cut() -> None:
    lines, _ = parse_output(frame(b"x" * 16_384) * 100 + frame(b"\n") + frame(b"y" * MAX_TEXT + b"\n"))
    assert [line.text for line in lines] == ["x" * MAX_TEXT + CUT, "y" * MAX_TEXT]


def test_bytes_that_are_not_text_are_replaced() -> None:
    assert shown(b"\xff\xfea\n") == "\ufffd\ufffda"


def test_what_is_malformed_is_passed_over() -> None:
    good = frame(b"good\n")
    bad = [frame(b"x\n", 7), frame(b"x\n", 1, b"yesterday "), frame(b"x\n", 1, b"2026-13-45T99:00:00Z ")]
    for one in bad:
        lines, count = parse_output(one + good)
        assert [line.text for line in lines] == ["good"]
        assert count == 2
    assert parse_output(good + good[:-1])[0] == parse_output(good)[0]


@given(st.binary(max_size=300), st.lists(st.binary(max_size=30), max_size=5))
def test_garbage_is_bounded(raw: bytes, texts: list[bytes]) -> None:
    lines, count = parse_output(raw + b"".join(frame(text) for text in texts))
    assert len(lines) <= count + 2
    assert all(len(line.text) <= MAX_TEXT + 1 for line in lines)
