"""A node that goes is left in order: no new calls over its link, and those under way come to their end."""

from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from gridctl.connect import ClientEnd
from gridctl.links import Links
from gridnode.errors import GridError
from gridnode.link.protocol import Link
from gridnode.model import Address
from gridnode.wire import Frame, Op
from tests.fakes.peers import OPERATOR, End, Hop, hop, until


class Holding(End):
    """Keeps what it is asked, to answer it later."""

    def __init__(self) -> None:
        super().__init__()
        self.held: list[tuple[Link, Frame]] = []
        self.on_call = lambda link, frame: self.held.append((link, frame))


@pytest.fixture
def far() -> Holding:
    return Holding()


@pytest.fixture
async def place(far: Holding, tmp_path: Path) -> AsyncIterator[Hop]:
    async with hop("tls", far, tmp_path) as place:
        yield place


def dialler(place: Hop) -> Any:
    async def dial(addresses: Sequence[Address]) -> tuple[Link, ClientEnd]:
        end = ClientEnd()
        return await place.dial(end, credentials=OPERATOR), end

    return dial


async def test_a_node_that_goes_gets_no_more_calls_and_answers_those_it_has(place: Hop, far: Holding) -> None:
    dial = dialler(place)
    links = Links(await dial(()), dial, (), 1)
    replies: list[Frame | GridError] = []
    old = links.main
    old.link.call(Op.INVOKE, "echo", b"", replies.append)
    await until(lambda: far.held)
    place.accepted[0].event(Op.LEAVE)
    await until(lambda: old not in links.lanes)
    assert (await links.ready(5.0)) is not old
    assert old.link.is_open
    link, frame = far.held[0]
    link.reply(frame.call_id, b"in the end")
    await old.link.wait_closed()
    assert [reply.body for reply in replies if isinstance(reply, Frame)] == [b"in the end"]
    await links.close()


async def test_a_link_without_calls_is_left_at_once(place: Hop) -> None:
    dial = dialler(place)
    links = Links(await dial(()), dial, (), 1)
    old = links.main
    place.accepted[0].event(Op.LEAVE)
    await old.link.wait_closed()
    assert (await links.ready(5.0)).link.is_open
    await links.close()


async def test_closing_ends_links_that_are_being_left_too(place: Hop, far: Holding) -> None:
    dial = dialler(place)
    links = Links(await dial(()), dial, (), 1)
    old = links.main
    old.link.call(Op.INVOKE, "echo", b"", lambda reply: None)
    await until(lambda: far.held)
    place.accepted[0].event(Op.LEAVE)
    await until(lambda: old not in links.lanes)
    await links.close()
    await old.link.wait_closed()
