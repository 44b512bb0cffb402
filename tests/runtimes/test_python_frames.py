"""The runtime's own half of the wire format, in process."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gridnode import wire
from gridnode.runtimes import python as runtime
from gridnode.runtimes import python_frames as form
from gridnode.wire import Frame, Kind, Op


def test_the_runtime_speaks_the_wire_protocol() -> None:
    assert form.HEADER.format == wire.HEADER.format
    assert (form.VERSION, form.FLAG_ERROR, form.OP_INVOKE) == (wire.VERSION, wire.FLAG_ERROR, Op.INVOKE)
    assert (form.HELLO, form.CALL, form.REPLY) == (Kind.HELLO, Kind.CALL, Kind.REPLY)
    assert (form.CANCEL, form.PING, form.PONG) == (Kind.CANCEL, Kind.PING, Kind.PONG)
    assert wire.MAX_CALL_BODY == form.MAX_BODY
    assert form.MAX_FRAME >= wire.MAX_LENGTH


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)
frames = st.builds(
    Frame,
    st.integers(0, 255),
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**16 - 1),
    st.just(0),
    st.integers(0, 2**32 - 1),
    st.text(max_size=60),
    st.binary(max_size=300),
    st.one_of(st.binary(max_size=300), st.integers(0, 200_000).map(bytes)),
)


def feed(inbox: form.Inbox, stream: bytes, sizes: list[int]) -> list[form.Frame]:
    """Everything that comes out of `stream` in pieces of these sizes, repeated."""
    out: list[form.Frame] = []
    at = turn = 0
    while at < len(stream):
        space = inbox.space()
        assert len(space)
        piece = stream[at : at + min(sizes[turn % len(sizes)], len(space))]
        space[: len(piece)] = piece
        out += inbox.received(len(piece))
        at, turn = at + len(piece), turn + 1
    return out


@given(st.lists(frames, max_size=8), st.lists(st.integers(1, 100_000), min_size=1, max_size=5))
def test_frames_come_out_as_they_went_in_however_they_are_cut(sent: list[Frame], sizes: list[int]) -> None:
    inbox = form.Inbox()
    got = feed(inbox, b"".join(wire.encode(frame) for frame in sent), sizes if max(sizes) > 500 else [*sizes, 5000])
    want = [(f.kind, f.call_id, f.op, f.deadline_ms, f.name.encode(), f.meta, f.body, f.flags) for f in sent]
    assert [tuple(frame) for frame in got] == want
    assert len(inbox.space()) == form.BUFFER_SIZE


@given(st.binary(max_size=2000))
def test_garbage_is_an_error_or_waits_for_more_in_bounded_space(garbage: bytes) -> None:
    inbox = form.Inbox()
    try:
        feed(inbox, garbage, [700])
    except ValueError:
        return
    assert len(inbox.space()) <= form.MAX_FRAME + form.HEADER_SIZE


@given(values)
def test_any_json_value_is_answered_as_it_came(value: Any) -> None:
    handlers = {b"echo": runtime.Handler("echo", lambda event: event, 1, False)}
    call = form.Frame(form.CALL, 9, form.OP_INVOKE, 0, b"echo", b"", json.dumps(value).encode())
    reply = wire.decode(memoryview(runtime.answer(handlers, call)))
    assert (reply.kind, reply.call_id, reply.flags, json.loads(reply.body)) == (Kind.REPLY, 9, 0, value)
