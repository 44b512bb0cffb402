"""What a link does about a peer that sends garbage, sends too much, or does not read."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gridnode import wire
from gridnode.errors import Forbidden, FrameInvalid, LinkClosed, NoCapacity
from gridnode.link import LinkLimits
from gridnode.link.protocol import Link
from gridnode.wire import HEADER, Frame, Kind, Op
from tests.fakes.peers import HELLO, SMALL, End, Hop, Raw, call, gone, hop, never, until

BOTH_LOOPS = True
IDLE_BUFFER = 16 * 1024


async def test_partial_and_joined_frames(place: Hop, end: End) -> None:
    raw = await place.raw()
    sent = b"".join(wire.encode(frame) for frame in (HELLO, *(call(n, bytes(n * 7)) for n in range(1, 40))))
    for at in range(0, len(sent), 97):
        raw.send(sent[at : at + 97])
        await raw.writer.drain()
        await asyncio.sleep(0)
    await raw.frame()
    assert [await raw.frame() for _ in range(39)] == [Frame(Kind.REPLY, n, body=bytes(n * 7)) for n in range(1, 40)]


GARBAGE = {
    "noise": b"\xde\xad\xbe\xef" * 20,
    "http": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" + b" " * 20,
    "a call": wire.encode(call(1)),
    "a ping": wire.encode(Frame(Kind.PING, 0)),
    "too long": HEADER.pack(wire.MAX_HELLO + 1, 0, Kind.HELLO, 0, 0, 0, 0, 0),
    "lying lengths": HEADER.pack(3, 0, Kind.HELLO, 0, 0, 0, 200, 0) + b"123",
}
LATER = {
    "noise": b"\xde\xad\xbe\xef" * 20,
    "a second hello": wire.encode(HELLO),
    "an unknown kind": wire.encode(Frame(99, 1)),
    "too long": HEADER.pack(wire.MAX_LENGTH + 1, 1, Kind.CALL, 0, 1, 0, 0, 0),
    "a name that is no text": HEADER.pack(2, 1, Kind.CALL, 0, 1, 0, 2, 0) + b"\xff\xff",
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE)
async def test_the_first_frame_must_be_a_hello(place: Hop, end: End, garbage: bytes) -> None:
    raw = await place.raw(garbage)
    frames = await raw.frames_to_the_end()
    assert isinstance(await gone(place.accepted[0]), FrameInvalid)
    assert [frame.kind for frame in frames] in ([Kind.HELLO], [])
    assert (end.links, end.calls, end.closes) == ([], [], [])


@pytest.mark.parametrize("garbage", LATER.values(), ids=LATER)
async def test_garbage_after_the_hello_closes_the_link(place: Hop, end: End, garbage: bytes) -> None:
    raw = await place.raw(HELLO, call(1, b"before"), garbage)
    frames = await raw.frames_to_the_end()
    assert isinstance(await gone(end.links[0]), FrameInvalid)
    assert len(end.closes) == 1
    assert len(end.calls) == 1
    assert [frame.body for frame in frames if frame.kind == Kind.REPLY] == [b"before"]


async def test_nothing_after_the_garbage_is_taken(place: Hop, end: End) -> None:
    """Nor anything before it twice, while TLS still closes."""
    raw = await place.raw(HELLO, call(1), Frame(99, 0))
    await raw.frame()
    await keep_sending(raw, place.accepted[0], lambda n: call(n + 1, bytes(500)))
    await gone(place.accepted[0])
    assert [frame.call_id for frame in end.calls] == [1]


async def test_no_hello_in_time(small: Hop, end: End) -> None:
    raw = await small.raw(wire.encode(HELLO)[:10])
    await raw.frames_to_the_end()
    assert "no hello" in (await gone(small.accepted[0])).message
    assert end.closes == []


async def test_a_peer_that_goes_away_before_its_hello(place: Hop, end: End) -> None:
    raw = await place.raw()
    await raw.frame()
    raw.writer.transport.abort()
    assert isinstance(await gone(place.accepted[0]), LinkClosed)
    assert (end.links, end.closes) == ([], [])


async def test_a_refused_hello_reaches_the_dialler(place: Hop, end: End) -> None:
    end.refuse = Forbidden("not you")
    near = await place.dial_only(End())
    await gone(near)
    assert end.closes == []
    assert not place.accepted[0].is_open


async def test_waiting_to_open_raises_what_closed_the_link(small: Hop) -> None:
    refusing = End(refuse=Forbidden("not them"))
    with pytest.raises(Forbidden, match="not them"):
        await small.dial(refusing)
    assert refusing.closes == []


async def test_a_call_id_in_use_closes_the_link(place: Hop, end: End) -> None:
    end.on_call = never
    raw = await place.raw(HELLO, call(7), call(7))
    await raw.frames_to_the_end()
    assert "already in use" in (await gone(end.links[0])).message


async def test_a_call_id_can_be_used_again_once_answered(place: Hop, end: End) -> None:
    raw = await place.raw(HELLO, call(7, b"a"), call(7, b"b"))
    assert [frame.body for frame in [await raw.frame() for _ in range(3)][1:] if frame] == [b"a", b"b"]


async def test_replies_and_cancels_of_unknown_calls_are_dropped(place: Hop, end: End) -> None:
    raw = await place.raw(HELLO, Frame(Kind.REPLY, 99), Frame(Kind.CANCEL, 99), call(1, b"x"))
    await raw.frame()
    reply = await raw.frame()
    assert reply
    assert reply.body == b"x"


async def test_pings_are_answered(place: Hop, end: End) -> None:
    raw = await place.raw(HELLO, Frame(Kind.PING, 5))
    await raw.frame()
    assert await raw.frame() == Frame(Kind.PONG, 5)
    near = await place.dial(End())
    near.last_heard = 0.0
    near.ping()
    await until(lambda: near.last_heard)


@pytest.mark.parametrize("flood", [Kind.EVENT, Kind.PING, Kind.PONG])
async def test_a_flood_of_events_closes_the_link(small: Hop, end: End, flood: Kind) -> None:
    raw = await small.raw(HELLO, *[Frame(flood, 0)] * (SMALL.max_events * 3))
    await raw.frames_to_the_end()
    assert "events in a second" in (await gone(end.links[0])).message
    assert len(end.events) <= SMALL.max_events


async def test_too_many_calls_at_once_are_refused(small: Hop, end: End) -> None:
    end.on_call = never
    near = await small.dial(End())
    replies: list[Any] = []
    for _ in range(SMALL.max_inbound + 3):
        near.call(Op.INVOKE, "", b"", replies.append)
    await until(lambda: len(replies) == 3)
    assert all(isinstance(wire.decode_error(reply.body), NoCapacity) for reply in replies)
    assert len(end.calls) == SMALL.max_inbound


# -- a peer that does not read --------------------------------------------------------------------------------------


async def deaf(place: Hop, *first: Frame) -> Raw:
    raw = await place.raw(HELLO, *first)
    raw.writer.transport.pause_reading()  # type: ignore[attr-defined]
    return raw


async def keep_sending(raw: Raw, link: Link, make: Callable[[int], Frame]) -> None:
    """Until the link is gone, or so much was sent that it clearly never will be."""
    for n in range(500):
        if raw.writer.transport.is_closing() or link._closed.done():
            return
        raw.send(*[make(1000 * n + more) for more in range(1000)])
        await asyncio.sleep(0)


async def test_replies_that_nobody_reads_close_the_link(small: Hop, end: End) -> None:
    end.on_call = lambda link, frame: link.reply(frame.call_id, bytes(4000))
    raw = await deaf(small)
    await until(lambda: end.links)
    await keep_sending(raw, end.links[0], call)
    assert "does not read" in (await gone(end.links[0])).message


async def test_pongs_that_nobody_reads_close_the_link(kind: str, end: End, tmp_path: Path) -> None:
    limits = LinkLimits(max_buffered=64 * 1024, max_events=10**9)
    async with hop(kind, end, tmp_path, limits) as place:
        raw = await deaf(place)
        await until(lambda: end.links)
        await keep_sending(raw, end.links[0], lambda n: Frame(Kind.PING, n))
        assert "does not read" in (await gone(end.links[0])).message


async def test_calls_and_events_to_a_deaf_peer_are_bounded(small: Hop, end: End) -> None:
    await deaf(small)
    await until(lambda: end.links)
    far = end.links[0]

    def call_on() -> None:
        for _ in range(10_000):
            far.call(Op.INVOKE, "", bytes(4096), lambda reply: None)

    with pytest.raises(NoCapacity):
        call_on()
    for _ in range(10_000):
        far.event(Op.GOSSIP, bytes(4096))
    assert far.buffered() < 3 * SMALL.max_buffered
    far.abort(LinkClosed("silent"))
    assert (await gone(far)).message == "silent"


# -- any cut of the stream ------------------------------------------------------------------------------------------


class Wireless(asyncio.Transport):
    """Goes nowhere."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.closing = False

    def write(self, data: Any) -> None:
        self.written.append(bytes(data))

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    abort = close


def feed(link: Link, stream: bytes, cuts: list[int]) -> None:
    """Hand the stream over as an event loop does, cut as given."""
    at = turn = 0
    while at < len(stream):
        room = link.get_buffer(-1)
        size = min(len(room), cuts[turn % len(cuts)], len(stream) - at)
        assert size > 0
        room[:size] = stream[at : at + size]
        link.buffer_updated(size)
        at, turn = at + size, turn + 1


async def test_bytes_that_come_while_closing_are_dropped() -> None:
    """As they do over TLS, until both sides have said goodbye."""
    end = End()
    link = Link(end, LinkLimits())
    link.connection_made(Wireless())
    garbage = wire.encode(Frame(99, 0)) + bytes(IDLE_BUFFER)
    feed(link, wire.encode(HELLO) + wire.encode(call(1)) + garbage + wire.encode(call(2)) * 300 + garbage, [1_000_000])
    link.connection_lost(None)
    assert [frame.call_id for frame in end.calls] == [1]


@settings(deadline=None, max_examples=50)
@given(st.lists(st.binary(max_size=40_000), max_size=8), st.lists(st.integers(1, 30_000), min_size=1, max_size=20))
def test_any_cut_of_a_stream_gives_the_same_frames(bodies: list[bytes], cuts: list[int]) -> None:
    frames = [call(n, body) for n, body in enumerate(bodies)]
    stream = b"".join(wire.encode(frame) for frame in [HELLO, *frames])

    async def calls() -> list[Frame]:
        end = End()
        link = Link(end, LinkLimits())
        link.connection_made(Wireless())
        feed(link, stream, cuts)
        link.connection_lost(None)
        return end.calls

    assert asyncio.run(calls()) == frames
