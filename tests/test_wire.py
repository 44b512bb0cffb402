import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridnode import wire
from gridnode.errors import CallTimeout, FrameInvalid, GridError, NoCapacity, TaskRaised, error_from
from gridnode.wire import HEADER, HEADER_SIZE, MAX_CALL_BODY, MAX_LENGTH, MAX_META, MAX_NAME, Frame, Kind, Op

NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
FRAMES = st.builds(
    Frame,
    st.integers(0, 255),
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**16 - 1),
    st.integers(0, 255),
    st.integers(0, 2**32 - 1),
    NAMES,
    st.binary(max_size=200),
    st.binary(max_size=2000),
)


@given(FRAMES)
def test_frames_go_round(frame: Frame) -> None:
    raw = wire.encode(frame)
    assert wire.needed(memoryview(raw)) == len(raw)
    assert wire.decode(memoryview(raw)) == frame


def test_the_layout_is_version_1() -> None:
    raw = wire.encode(Frame(Kind.CALL, 258, Op.INVOKE, 0, 1500, "é", b"{}", b"[1]"))
    assert raw.hex() == "00000007" + "0000000000000102" + "02" + "00" + "0001" + "000005dc" + "0002" + "0002" + (
        "c3a9" + "7b7d" + "5b315d"
    )
    assert HEADER_SIZE == 24


@given(st.binary(max_size=300))
def test_garbage_is_only_ever_frame_invalid(raw: bytes) -> None:
    try:
        wire.decode(memoryview(raw))
    except FrameInvalid:
        pass
    else:
        assert wire.needed(memoryview(raw)) == len(raw)


@given(FRAMES, st.integers(0, 400), st.integers(0, 255))
def test_a_damaged_frame_is_a_frame_or_frame_invalid(frame: Frame, at: int, byte: int) -> None:
    raw = bytearray(wire.encode(frame))
    raw[at % len(raw)] = byte
    try:
        wire.decode(memoryview(raw))
    except FrameInvalid:
        return


@pytest.mark.parametrize("cut", [0, 1, HEADER_SIZE - 1, HEADER_SIZE, HEADER_SIZE + 2, -1])
def test_a_truncated_frame_is_frame_invalid(cut: int) -> None:
    raw = wire.encode(Frame(Kind.CALL, 1, 1, 0, 0, "echo", b"{}", b"body"))
    with pytest.raises(FrameInvalid):
        wire.decode(memoryview(raw[:cut]))


@pytest.mark.parametrize(
    ("name_len", "meta_len", "rest"),
    [
        (MAX_NAME + 1, 0, b"n" * 300),
        (0, MAX_META + 1, b"m" * 5000),
        (5, 0, b"1234"),
        (2, 3, b"1234"),
        (2, 0, b"\xff\xfe"),
        (2, 0, b"\xed\xa0"),
    ],
)
def test_lengths_that_lie_are_frame_invalid(name_len: int, meta_len: int, rest: bytes) -> None:
    raw = HEADER.pack(len(rest), 1, Kind.CALL, 0, 1, 0, name_len, meta_len) + rest
    with pytest.raises(FrameInvalid):
        wire.decode(memoryview(raw))


@pytest.mark.parametrize(
    "frame",
    [
        Frame(Kind.CALL, 1, name="n" * (MAX_NAME + 1)),
        Frame(Kind.CALL, 1, name="é" * 128),
        Frame(Kind.CALL, 1, meta=b"m" * (MAX_META + 1)),
        Frame(Kind.CALL, 1, body=b"b" * (MAX_LENGTH + 1)),
        Frame(Kind.CALL, 2**64),
        Frame(Kind.CALL, -1),
    ],
)
def test_a_frame_out_of_bounds_is_not_encoded(frame: Frame) -> None:
    with pytest.raises(FrameInvalid):
        wire.encode(frame)


def test_the_largest_call_fits() -> None:
    frame = Frame(Kind.CALL, 2**64 - 1, 1, 0, 0, "n" * MAX_NAME, b"m" * MAX_META, b"b" * MAX_CALL_BODY)
    assert wire.decode(memoryview(wire.encode(frame))) == frame


def test_deadlines_are_clamped() -> None:
    for given_ms, sent in ((-5, 0), (2**40, 2**32 - 1)):
        raw = wire.encode(Frame(Kind.CALL, 1, deadline_ms=given_ms))
        assert wire.decode(memoryview(raw)).deadline_ms == sent


def test_a_length_past_the_bound_is_refused_before_it_is_read() -> None:
    head = HEADER.pack(MAX_LENGTH + 1, 1, 2, 0, 1, 0, 0, 0)
    with pytest.raises(FrameInvalid):
        wire.needed(memoryview(head))
    with pytest.raises(FrameInvalid):
        wire.needed(memoryview(HEADER.pack(wire.MAX_HELLO + 1, 0, 1, 0, 0, 0, 0, 0)), wire.MAX_HELLO)


def test_errors_go_round_typed() -> None:
    for error in (NoCapacity("full"), TaskRaised("ValueError: x", trace="Traceback…"), CallTimeout("late")):
        back = wire.decode_error(wire.encode_error(error))
        assert (type(back), back.message, back.trace) == (type(error), error.message, error.trace)


def test_long_errors_are_cut_and_keep_the_end_of_the_trace() -> None:
    raw = wire.encode_error(TaskRaised("m" * 100_000, trace="a" * 100_000 + "the end"))
    back = wire.decode_error(raw)
    assert len(raw) < 64 * 1024
    assert len(back.message) == MAX_META
    assert back.trace
    assert back.trace.endswith("the end")


def test_an_unknown_code_is_a_plain_error() -> None:
    assert type(error_from("of the future", "m")) is GridError
    assert type(wire.decode_error(b'{"code":"of the future","message":"m","more":1}')) is GridError


DEEP = b'{"more":' + b"[" * 20_000 + b"]" * 20_000 + b',"code":"call","message":"m"}'


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"[]", b"\xff", b'{"code":1,"message":2}', json.dumps({"code": "x"}).encode(), DEEP]
)
def test_a_malformed_error_is_frame_invalid(body: bytes) -> None:
    assert isinstance(wire.decode_error(body), FrameInvalid)


@given(st.binary(max_size=200))
def test_garbage_errors_never_raise(body: bytes) -> None:
    assert isinstance(wire.decode_error(body), GridError)
