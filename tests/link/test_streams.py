"""Streams over a link: items in order, credit, and a peer that keeps to no rule."""

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gridnode import wire
from gridnode.errors import FrameInvalid, GridError, LinkClosed
from gridnode.flow import FIRST_ITEMS, FIRST_SIZE, Credit, Stream
from gridnode.link import LinkLimits
from gridnode.link.protocol import Link
from gridnode.link.reader import Reader
from gridnode.link.streams import MAX_LEFT
from gridnode.wire import Frame, Kind, Op
from tests.fakes.peers import HELLO, End, Hop, call, gone, until
from tests.link.test_protocol_hostile import Wireless, feed

BOTH_LOOPS = True


class Producer:
    """Sends numbered items as its reader allows."""

    def __init__(self, count: int, size: int = 10) -> None:
        self.count, self.size, self.sent = count, size, 0
        self.stopped = False

    def __call__(self, link: Link, frame: Frame) -> None:
        link.streams.serve(frame.call_id, lambda credit: self.go_on(link, frame.call_id))
        link.on_cancel(frame.call_id, self.stop)
        self.go_on(link, frame.call_id)

    def stop(self) -> None:
        self.stopped = True

    def go_on(self, link: Link, call_id: int) -> None:
        while self.sent < self.count and link.streams.may_send(call_id):
            link.part(call_id, b"%0*d" % (self.size, self.sent))
            self.sent += 1
        if self.sent == self.count:
            link.reply(call_id, b"end")


Answers = Reader[Frame | GridError]


def ask(link: Link, reader: Answers) -> int:
    return link.call(Op.INVOKE, "t", b"", reader.end, stream=reader.stream)


async def all_of(reader: Answers) -> list[bytes]:
    items = []
    async with asyncio.timeout(20):
        while (item := await reader.next()) is not None:
            items.append(item)
    return items


@pytest.mark.parametrize(("count", "size"), [(0, 1), (1, 1), (5000, 20), (40, 200_000)])
async def test_items_come_in_order_and_the_reply_last(place: Hop, end: End, count: int, size: int) -> None:
    end.on_call = Producer(count, size)
    near = await place.dial(End())
    reader: Answers = Reader()
    ask(near, reader)
    assert await all_of(reader) == [b"%0*d" % (size, number) for number in range(count)]
    assert isinstance(reader.outcome, Frame)
    assert reader.outcome.body == b"end"
    assert (near.busy, near.streams.reading, end.links[0].streams.sending) == (False, {}, {})


async def test_a_reader_that_takes_nothing_stops_the_producer(place: Hop, end: End) -> None:
    end.on_call = producer = Producer(10_000)
    near = await place.dial(End())
    reader: Answers = Reader(items=200)
    ask(near, reader)
    await until(lambda: producer.sent)
    assert producer.sent == FIRST_ITEMS
    for _ in range(FIRST_ITEMS):
        await reader.next()
    await until(
        lambda: producer.sent == FIRST_ITEMS // 2 + 200
    )  # what was taken when it last allowed more, and its window
    assert len(await all_of(reader)) == 10_000 - FIRST_ITEMS


async def test_many_streams_and_calls_share_a_link(place: Hop, end: End) -> None:
    def either(link: Link, frame: Frame) -> None:
        Producer(300)(link, frame) if frame.flags & wire.FLAG_STREAM else link.reply(frame.call_id, frame.body)

    end.on_call = either
    near = await place.dial(End())
    readers: list[Answers] = [Reader() for _ in range(20)]
    for reader in readers:
        ask(near, reader)
    assert await near.request(Op.INVOKE, b"meanwhile") == b"meanwhile"
    assert {len(items) for items in await asyncio.gather(*map(all_of, readers))} == {300}


async def test_giving_up_tells_the_producer_and_late_items_are_dropped(place: Hop, end: End) -> None:
    end.on_call = producer = Producer(10_000)
    near = await place.dial(End())
    reader: Answers = Reader()
    call_id = ask(near, reader)
    near.cancel(call_id)
    await until(lambda: producer.stopped)
    end.links[0].part(call_id, b"late")
    end.on_call = lambda link, frame: link.reply(frame.call_id, b"x")
    assert await near.request(Op.INVOKE) == b"x"
    assert (near.is_open, near.streams.reading) == (True, {})


async def test_a_lost_link_is_the_end_of_its_streams(place: Hop, end: End) -> None:
    end.on_call = Producer(10_000)
    near = await place.dial(End())
    reader: Answers = Reader()
    ask(near, reader)
    await until(lambda: end.calls)
    end.links[0].abort(LinkClosed("gone"))
    await gone(near)
    await all_of(reader)
    assert isinstance(reader.outcome, LinkClosed)


def raises(item: bytes) -> None:
    raise ValueError("in a callback")


async def test_a_callback_that_raises_closes_nothing(place: Hop, end: End) -> None:
    end.on_call = Producer(3)
    near = await place.dial(End())
    reader: Answers = Reader()
    near.call(Op.INVOKE, "t", b"", reader.end, stream=Stream(raises))
    assert await all_of(reader) == []
    assert near.is_open


# -- a peer that keeps to no rule -----------------------------------------------------------------------------------

PART, CREDIT = Frame(Kind.PART, 1, body=b"1"), wire.encode_credit(Credit(1, 1))


async def hears(*frames: Frame, limits: LinkLimits | None = None) -> tuple[Link, Answers]:
    """A link with one stream asked for, call 1, once the other side has sent `frames`."""
    link, reader = Link(End(), limits or LinkLimits()), Answers()
    link.connection_made(Wireless())
    feed(link, wire.encode(HELLO), [1000])
    ask(link, reader)
    feed(link, b"".join(map(wire.encode, frames)), [60_000])
    return link, reader


@pytest.mark.parametrize(
    ("frames", "said"),
    [
        ([PART] * (FIRST_ITEMS + 1), "past what its reader allowed"),
        ([Frame(Kind.PART, 1, body=bytes(FIRST_SIZE)), PART], "past what its reader allowed"),
        ([Frame(Kind.PART, 7)] * 3000, "events in a second"),
        ([Frame(Kind.REPLY, 1), *[PART] * 3000], "events in a second"),
        ([Frame(Kind.CREDIT, 9, body=CREDIT)] * 3000, "events in a second"),
        ([Frame(Kind.CREDIT, 9, body=b"")], "a credit of 0 bytes"),
    ],
)
async def test_who_sends_past_its_credit_loses_the_link(frames: list[Frame], said: str) -> None:
    link, reader = await hears(*frames)
    assert not link.is_open
    assert link.error
    assert said in link.error.message
    assert len(reader._waiting) <= FIRST_ITEMS
    link.connection_lost(None)


@pytest.mark.parametrize("credit", [(0, 1), (2**32 - 1, 1), (1, 2**32 - 1)])
async def test_a_reader_that_allows_too_much_loses_the_link(credit: tuple[int, int]) -> None:
    end = End(Producer(10**9))
    link = Link(end, LinkLimits())
    link.connection_made(Wireless())
    feed(
        link, b"".join(map(wire.encode, (HELLO, call(1), Frame(Kind.CREDIT, 1, body=wire.CREDIT.pack(*credit))))), [999]
    )
    assert isinstance(link.error, FrameInvalid)
    link.connection_lost(None)


async def test_items_of_a_stream_given_up_are_no_stray_ones_until_its_credit_is_spent() -> None:
    link, _ = await hears(limits=LinkLimits(max_events=2))
    link.cancel(1)
    feed(link, wire.encode(PART) * FIRST_ITEMS, [1000])
    assert link.is_open
    feed(link, wire.encode(PART), [1000])
    assert isinstance(link.error, FrameInvalid)
    link.connection_lost(None)


async def test_what_is_remembered_of_streams_given_up_is_bounded() -> None:
    link, _ = await hears()
    for _ in range(3 * MAX_LEFT):
        link.cancel(ask(link, Answers()))
    assert len(link.streams._left) == MAX_LEFT
    link.connection_lost(None)


FRAMES = st.builds(
    Frame,
    st.sampled_from([Kind.PART, Kind.CREDIT, Kind.REPLY, Kind.CALL, Kind.CANCEL]),
    st.integers(0, 3),
    st.just(Op.INVOKE),
    st.integers(0, 3),
    body=st.one_of(st.just(CREDIT), st.binary(max_size=40_000)),
)


@settings(deadline=None, max_examples=100)
@given(st.lists(FRAMES, max_size=60))
def test_any_frames_leave_no_more_than_was_allowed(frames: list[Frame]) -> None:
    async def check() -> None:
        link, reader = await hears(*frames)
        assert len(reader._waiting) <= FIRST_ITEMS
        assert sum(map(len, list(reader._waiting)[:-1])) <= FIRST_SIZE
        assert link.is_open or isinstance(link.error, FrameInvalid)
        link.connection_lost(None)
        assert (link.streams.reading, link.streams.sending) == ({}, {})

    asyncio.run(check())


async def test_a_reader_that_is_closed_keeps_nothing() -> None:
    reader: Reader[Any] = Reader()
    reader.stream.take(b"1")
    reader.close()
    reader.stream.take(b"2")
    reader.end("over")
    reader.end("again")
    assert await reader.next() is None
    assert reader.outcome == "over"
