import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gridnode import wire
from gridnode.errors import BodyTooLarge, LinkClosed, NoCapacity, NodeLost, NotAuthenticated, TaskNotFound, TaskRaised
from gridnode.identity import Credentials, operator_credentials
from gridnode.link import LinkLimits, client
from gridnode.link.client import RemoteInvoker, dial
from gridnode.link.protocol import Link
from gridnode.link.tls import client_context
from gridnode.model import Address, Invocation, InvocationId, Outcome, TaskName
from gridnode.wire import Frame, Kind
from tests.fakes.peers import ALICE, BOB, FOREIGN, NOW, OPERATOR, TLS_IDENTITY, End, Hop, hop, never, until


@pytest.fixture
def end() -> End:
    return End()


@pytest.fixture
async def place(end: End, tmp_path: Path) -> AsyncIterator[Hop]:
    async with hop("tls", end, tmp_path) as place:
        yield place


async def reach(address: Address, credentials: Credentials = BOB) -> Link:
    return await dial(address, End(), client_context(credentials), TLS_IDENTITY, LinkLimits())


# -- dialling -------------------------------------------------------------------------------------------------------


async def test_each_side_knows_the_other(place: Hop, end: End) -> None:
    near = await place.dial(End(), credentials=OPERATOR)
    await until(lambda: end.links)
    assert near.peer
    assert end.links[0].peer
    assert (near.peer.node, near.address) == (ALICE.node, place.address)
    assert (end.links[0].peer.node, end.links[0].peer.role, end.links[0].address) == (OPERATOR.node, "operator", None)


HOSTILE = [
    Address("127.0.0.1", 70_000),
    Address("127.0.0.1", -1),
    Address("127.0.0.1", 2**70),
    Address("127.0.0.1", 0),
    Address("a\0b", 7400),
    Address("a" * 300, 7400),
    Address("..", 7400),
    Address("\udcff", 7400),
    Address("", 1),
    Address("no-such-host.invalid", 7400),
]


@pytest.mark.parametrize("address", HOSTILE, ids=ascii)
async def test_an_address_that_cannot_be_dialled_is_link_closed(address: Address) -> None:
    with pytest.raises(LinkClosed):
        await reach(address)


async def test_nobody_listens() -> None:
    server = await asyncio.start_server(lambda r, w: None, "127.0.0.1", 0)
    address = Address(*server.sockets[0].getsockname())
    server.close()
    await server.wait_closed()
    with pytest.raises(LinkClosed):
        await reach(address)


async def test_one_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_SSL_TIMEOUT", 0.2)
    writers = []
    server = await asyncio.start_server(lambda r, w: writers.append(w), "127.0.0.1", 0)
    with pytest.raises(LinkClosed):
        await reach(Address(*server.sockets[0].getsockname()))
    for writer in writers:
        writer.transport.abort()
    server.close()


async def test_one_that_speaks_no_tls() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH_9.2\r\n" * 10)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    with pytest.raises((NotAuthenticated, LinkClosed)):
        await reach(Address(*server.sockets[0].getsockname()))
    server.close()


async def test_a_stranger_never_gets_past_the_hello(place: Hop, end: End) -> None:
    stranger = operator_credentials(FOREIGN, NOW, b"p" * 32)
    with pytest.raises((NotAuthenticated, LinkClosed)):
        await (await place.dial_only(End(), credentials=stranger)).wait_open()
    assert end.links == []


async def test_an_operator_of_another_grid_trusts_no_node_of_this_one(place: Hop) -> None:
    with pytest.raises(NotAuthenticated):
        await reach(place.address, operator_credentials(FOREIGN, NOW, b"p" * 32))


# -- invoking -------------------------------------------------------------------------------------------------------


def invocation(body: bytes = b"1", deadline: float = 1e9, meta: bytes = b'{"id":"i"}') -> Invocation:
    return Invocation(InvocationId("i"), TaskName("echo"), body, deadline, meta)


class Calls:
    """Invokes over a link and keeps the outcomes."""

    def __init__(self, link: Link) -> None:
        self.invoker = RemoteInvoker(link, ALICE.node, lambda: 0.0)
        self.outcomes: list[Outcome] = []

    async def outcome(self, call: Invocation | None = None) -> Outcome:
        self.invoker.invoke(call or invocation(), self.outcomes.append)
        await until(lambda: self.outcomes)
        assert len(self.outcomes) == 1
        return self.outcomes.pop()


@pytest.fixture
async def near(place: Hop) -> Link:
    return await place.dial(End())


async def test_a_result(near: Link, end: End) -> None:
    end.on_call = lambda link, frame: link.reply(frame.call_id, b"2", b'{"node":"other","instance":"ab"}')
    outcome = await Calls(near).outcome(invocation(deadline=1.5))
    assert (outcome.body, outcome.error, outcome.node, outcome.instance) == (b"2", None, ALICE.node, "ab")
    frame = end.calls[0]
    assert (frame.name, frame.body, frame.meta, frame.deadline_ms) == ("echo", b"1", b'{"id":"i"}', 1500)


@pytest.mark.parametrize(
    ("error", "started"),
    [(NoCapacity("full"), False), (TaskNotFound("no"), False), (TaskRaised("E", trace="T"), True)],
    ids=repr,
)
async def test_an_error_says_whether_it_started(near: Link, end: End, error: Any, started: bool) -> None:
    end.on_call = lambda link, frame: link.reply_error(frame.call_id, error)
    outcome = await Calls(near).outcome()
    assert outcome.error
    assert (type(outcome.error), outcome.error.trace, outcome.started) == (type(error), error.trace, started)
    assert outcome.node == ALICE.node


async def test_a_link_lost_with_the_call_inside(near: Link, end: End) -> None:
    end.on_call = lambda link, frame: link.abort(LinkClosed("gone"))
    outcome = await Calls(near).outcome()
    assert isinstance(outcome.error, NodeLost)
    assert outcome.started


async def test_a_call_that_was_never_sent_has_not_started(near: Link) -> None:
    too_large = await Calls(near).outcome(invocation(bytes(wire.MAX_CALL_BODY + 1)))
    near.close()
    closed = await Calls(near).outcome()
    assert isinstance(too_large.error, BodyTooLarge)
    assert isinstance(closed.error, LinkClosed)
    assert (too_large.started, closed.started) == (False, False)


GARBAGE = [b"{", b"[]", b"\xff" * 10, b'{"node":1}', b'{"x":' + b"[" * 4000, b"m" * 4096]


@pytest.mark.parametrize("meta", GARBAGE)
@pytest.mark.parametrize("flags", [0, wire.FLAG_ERROR])
async def test_garbage_in_a_reply_is_still_an_outcome(near: Link, end: End, meta: bytes, flags: int) -> None:
    end.on_call = lambda link, frame: link._send(Frame(Kind.REPLY, frame.call_id, 0, flags, meta=meta, body=meta * 9))
    outcome = await Calls(near).outcome()
    assert outcome.instance is None
    assert bool(outcome.error) == bool(flags)


async def test_cancel_reaches_the_other_side_and_no_outcome_follows(near: Link, end: End) -> None:
    end.on_call = never
    outcomes: list[Outcome] = []
    cancel = RemoteInvoker(near, ALICE.node, lambda: 0.0).invoke(invocation(), outcomes.append)
    await until(lambda: end.calls)
    cancel()
    cancel()
    await until(lambda: not end.links[0].busy)
    near.close()
    await near.wait_closed()
    cancel()
    assert outcomes == []


async def test_a_deadline_already_past_is_still_one(near: Link, end: End) -> None:
    await Calls(near).outcome(invocation(deadline=-5.0))
    assert end.calls[0].deadline_ms == 1
