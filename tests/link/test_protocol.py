"""Calls over a link, on both loops and both kinds of transport."""

import asyncio
from typing import Any

import pytest

from gridnode.errors import BodyTooLarge, Forbidden, GridError, LinkClosed
from gridnode.link.protocol import Link
from gridnode.wire import MAX_CALL_BODY, Frame, Kind, Op
from tests.fakes.peers import End, Hop, echo, gone, never, until

BOTH_LOOPS = True
IDLE_BUFFER = 16 * 1024


async def test_many_calls_at_once_both_ways(place: Hop, end: End) -> None:
    near_end = End()
    near = await place.dial(near_end)
    await until(lambda: end.links)
    far = end.links[0]
    asked = [(link, f"{side}-{n}".encode()) for n in range(300) for side, link in (("near", near), ("far", far))]
    replies = await asyncio.gather(*(link.request(Op.INVOKE, body) for link, body in asked))
    assert replies == [body for _, body in asked]
    assert (len(end.calls), len(near_end.calls)) == (300, 300)
    assert not near.busy


async def test_a_call_carries_everything(place: Hop, end: End) -> None:
    near = await place.dial(End())
    replies: list[Any] = []
    call_id = near.call(Op.NODES, "näme", b"body", replies.append, meta=b"{}", deadline_ms=1500)
    await until(lambda: replies)
    assert end.calls == [Frame(Kind.CALL, call_id, Op.NODES, 0, 1500, "näme", b"{}", b"body")]
    assert replies == [Frame(Kind.REPLY, call_id, 0, 0, 0, "", b"{}", b"body")]


async def test_bodies_up_to_the_bound_and_one_byte_more(place: Hop, end: End) -> None:
    near = await place.dial(End())
    largest = bytes(MAX_CALL_BODY)
    assert await near.request(Op.INVOKE, largest) == largest
    with pytest.raises(BodyTooLarge):
        await near.request(Op.INVOKE, largest + b"x")
    end.on_call = lambda link, frame: link.reply(frame.call_id, largest + b"x")
    with pytest.raises(BodyTooLarge):
        await near.request(Op.INVOKE)
    assert len(end.calls) == 2
    assert near.is_open


async def test_the_buffer_grows_for_a_large_frame_and_shrinks_after(place: Hop, end: End) -> None:
    near = await place.dial(End())
    await near.request(Op.INVOKE, bytes(1024 * 1024))
    await near.request(Op.INVOKE, b"small")
    assert [len(link._buffer) for link in (near, end.links[0])] == [IDLE_BUFFER, IDLE_BUFFER]


async def test_errors_arrive_typed(place: Hop, end: End) -> None:
    near = await place.dial(End())
    end.on_call = lambda link, frame: link.reply_error(frame.call_id, Forbidden("no"))
    with pytest.raises(Forbidden, match="no"):
        await near.request(Op.NODES)


async def test_a_callback_that_raises_closes_nothing(place: Hop, end: End) -> None:
    near = await place.dial(End())
    end.on_call = lambda link, frame: 1 / 0  # type: ignore[assignment]
    end.on_event = end.on_call
    with pytest.raises(GridError, match="ZeroDivisionError"):
        await near.request(Op.INVOKE)
    near.event(Op.GOSSIP)
    end.on_call = echo
    raising: list[Any] = []

    def replied(reply: Any) -> None:
        raising.append(reply)
        raise ValueError("in a callback")

    near.call(Op.INVOKE, "", b"", replied)
    assert await near.request(Op.INVOKE, b"still there") == b"still there"
    assert (len(raising), len(end.events), near.is_open) == (1, 1, True)


async def test_a_request_times_out_and_is_cancelled(place: Hop, end: End) -> None:
    near = await place.dial(End())
    cancelled: list[int] = []

    def hold(link: Link, frame: Frame) -> None:
        link.on_cancel(frame.call_id, lambda: cancelled.append(frame.call_id))

    end.on_call = hold
    with pytest.raises(TimeoutError):
        await near.request(Op.INVOKE, timeout=0.05)
    await until(lambda: cancelled)
    assert not near.busy
    assert not end.links[0].busy


async def test_a_cancelled_call_gets_no_reply(place: Hop, end: End) -> None:
    near = await place.dial(End())
    end.on_call = never
    replies: list[Any] = []
    call_id = near.call(Op.INVOKE, "", b"", replies.append)
    await until(lambda: end.calls)
    near.cancel(call_id)
    near.cancel(call_id)
    await until(lambda: not end.links[0].busy)
    end.links[0].reply(call_id, b"late")
    end.on_call = echo
    await near.request(Op.INVOKE)
    assert replies == []


async def test_asking_to_stop_still_waits_for_the_reply(place: Hop, end: End) -> None:
    near = await place.dial(End())
    end.on_call = lambda link, frame: link.on_cancel(frame.call_id, lambda: None)
    replies: list[Any] = []
    near.ask_to_stop(near.call(Op.INVOKE, "", b"", replies.append))
    await until(lambda: end.calls and not end.links[0].busy)
    assert near.busy
    near.close()
    await gone(near)
    assert len(replies) == 1


async def test_closing_ends_every_call_once(place: Hop, end: End) -> None:
    end.on_call = never
    near_end = End(never)
    near = await place.dial(near_end)
    outcomes: list[Any] = []
    cancelled: list[int] = []
    for n in range(20):
        near.call(Op.INVOKE, "", b"", lambda reply, n=n: outcomes.append((n, reply)))  # type: ignore[misc]
    await until(lambda: len(end.calls) == 20)
    far = end.links[0]
    for frame in end.calls:
        far.on_cancel(frame.call_id, lambda n=frame.call_id: cancelled.append(n))  # type: ignore[misc]
    near.close(LinkClosed("bye"))
    near.close()
    await gone(near)
    await gone(far)
    assert [n for n, _ in outcomes] == list(range(20))
    assert all(isinstance(reply, LinkClosed) for _, reply in outcomes)
    assert sorted(cancelled) == sorted(frame.call_id for frame in end.calls)
    assert (len(end.closes), len(near_end.closes)) == (1, 1)
    with pytest.raises(LinkClosed):
        near.call(Op.INVOKE, "", b"", outcomes.append)


async def test_what_was_queued_is_sent_before_the_close(place: Hop, end: End) -> None:
    near = await place.dial(End())
    for _ in range(10):
        near.event(Op.LEAVE, bytes(10_000))
    near.close()
    await until(lambda: end.closes)
    assert len(end.events) == 10
