import asyncio
import itertools
from typing import Any

import pytest

from gridnode.errors import GridError, LinkClosed
from gridnode.identity import PeerIdentity
from gridnode.link.pool import BulkLinks, LinkPool
from gridnode.model import Address, NodeId, Role

A, B, C, D = (NodeId(letter * 40) for letter in "abcd")
HERE, THERE = Address("here", 1), Address("there", 2)


class Wire:
    """What a pool sees of a link."""

    def __init__(self, node: NodeId = B, address: Address | None = None) -> None:
        self.peer = PeerIdentity(node, Role.NODE, "i")
        self.address = address
        self.is_open = True
        self.busy = False
        self.last_heard = 100.0
        self.pings = 0
        self.ended = ""

    def ping(self) -> None:
        self.pings += 1

    def close(self, error: GridError | None = None) -> None:
        self.is_open, self.ended = False, self.ended or "closed"

    def abort(self, error: GridError) -> None:
        self.is_open, self.ended = False, "aborted"

    async def wait_open(self) -> None:
        await asyncio.sleep(0)


def link(wire: Wire) -> Any:
    return wire


def pool(me: NodeId = A) -> Any:
    return LinkPool(me, 2.5)


def test_one_link_a_peer() -> None:
    links, one, other = pool(), Wire(B), Wire(C)
    assert links.add(B, link(one))
    assert links.add(C, link(other))
    assert [links.get(B), links.get(C), len(links)] == [one, other, 2]
    assert links.remove(B, link(one))
    assert not links.remove(B, link(one))
    assert (links.get(B), len(links)) == (None, 1)


@pytest.mark.parametrize("order", list(itertools.permutations(["alice's", "bob's"])), ids=str)
@pytest.mark.parametrize("bobs_order", list(itertools.permutations(["alice's", "bob's"])), ids=str)
def test_both_dialled_and_both_keep_the_same_link(order: tuple[str, ...], bobs_order: tuple[str, ...]) -> None:
    alices, bobs = pool(A), pool(B)
    at_alice = {"alice's": Wire(B, THERE), "bob's": Wire(B)}
    at_bob = {"alice's": Wire(A), "bob's": Wire(A, HERE)}
    for dial in order:
        alices.add(B, link(at_alice[dial]))
    for dial in bobs_order:
        bobs.add(A, link(at_bob[dial]))
    assert alices.get(B) is at_alice["alice's"]
    assert bobs.get(A) is at_bob["alice's"]
    alices.tick(100.0, 0.5)
    bobs.tick(100.0, 0.5)
    assert (at_bob["bob's"].ended, at_alice["bob's"].ended, at_bob["alice's"].ended) == ("closed", "", "")


def test_a_surplus_link_is_closed_by_its_dialler_once_idle() -> None:
    links, dialled, accepted = pool(B), Wire(A, THERE), Wire(A)
    links.add(A, link(dialled))
    links.add(A, link(accepted))
    dialled.busy = True
    links.tick(100.0, 0.5)
    assert dialled.ended == ""
    dialled.busy = False
    links.tick(100.0, 0.5)
    assert dialled.ended == "closed"
    assert not links.remove(A, link(dialled))


def test_a_surplus_link_steps_in() -> None:
    links, main, spare = pool(A), Wire(B, THERE), Wire(B)
    links.add(B, link(main))
    links.add(B, link(spare))
    main.is_open = False
    assert not links.remove(B, link(main))
    assert links.get(B) is spare
    spare.is_open = False
    assert links.remove(B, link(spare))


def test_a_newer_link_replaces_one_that_is_closed_or_of_the_same_direction() -> None:
    links, first, second = pool(B), Wire(A), Wire(A)
    links.add(A, link(first))
    assert links.add(A, link(second))
    second.is_open = False
    third = Wire(A, HERE)
    assert links.add(A, link(third))
    assert links.get(A) is third
    assert not links.remove(A, link(second))


def test_a_peer_that_keeps_dialling_holds_few_links() -> None:
    links, wires = pool(B), [Wire(A) for _ in range(100)]
    for wire in wires:
        links.add(A, link(wire))
    assert links.get(A) is wires[-1]
    assert sum(wire.is_open for wire in wires) <= 5
    assert wires[-1].is_open


def test_who_is_quiet_is_pinged_and_told() -> None:
    links, quiet, late, alive = pool(), Wire(B), Wire(C), Wire(D)
    for node, wire in ((B, quiet), (C, late), (D, alive)):
        links.add(node, link(wire))
    quiet.last_heard, late.last_heard, alive.last_heard = 97.0, 99.5, 99.75
    assert links.tick(100.0, 0.5) == {B: 3.0}
    assert (quiet.pings, late.pings, alive.pings) == (1, 1, 0)
    assert quiet.is_open, "whether that is too long is not the pool's to say"
    links.close()
    assert alive.ended == "closed"


def test_after_a_pause_of_our_own_nobody_is_quiet() -> None:
    links, peer = pool(), Wire(B)
    links.add(B, link(peer))
    links.tick(100.0, 0.5)
    assert links.tick(110.0, 0.5) is None
    assert links.tick(110.5, 0.5) == {B: 10.5}


def test_a_silent_surplus_link_is_dropped() -> None:
    links, dialled, accepted = pool(B), Wire(A, THERE), Wire(A)
    links.add(A, link(dialled))
    links.add(A, link(accepted))
    dialled.busy = True
    links.tick(100.0, 0.5)
    dialled.last_heard = 94.9
    links.tick(100.25, 0.5)
    assert (dialled.ended, accepted.ended) == ("aborted", "")


def test_a_retired_link_gets_no_more_calls_and_is_closed_by_its_dialler_once_idle() -> None:
    links, wire = pool(A), Wire(B, THERE)
    links.add(B, link(wire))
    wire.busy = True
    links.retire(B)
    links.tick(100.0, 0.5)
    assert (links.get(B), wire.is_open) == (None, True)
    wire.busy = False
    links.tick(100.25, 0.5)
    assert wire.ended == "closed"
    assert not links.remove(B, link(wire)), "nobody misses it"


def test_every_link_to_a_dead_peer_is_dropped() -> None:
    links, main, spare, other = pool(A), Wire(B, THERE), Wire(B), Wire(C)
    for node, wire in ((B, main), (B, spare), (C, other)):
        links.add(node, link(wire))
    links.drop(B, "dead")
    assert (main.ended, spare.ended, other.ended) == ("aborted", "aborted", "")


# -- bulk links -----------------------------------------------------------------------------------------------------


class Diallers:
    """Addresses that can be dialled, and who is there."""

    def __init__(self, **there: Wire) -> None:
        self.there = there
        self.dialled: list[str] = []

    async def dial(self, address: Address) -> Any:
        self.dialled.append(address.host)
        await asyncio.sleep(0)
        if address.host not in self.there:
            raise LinkClosed("nobody")
        found = self.there[address.host]
        found.is_open = True
        return link(found)


def at(*hosts: str) -> tuple[Address, ...]:
    return tuple(Address(host, 1) for host in hosts)


async def test_a_bulk_link_is_dialled_once_and_kept() -> None:
    main, dialled = Wire(B), Wire(B)
    dials = Diallers(y=dialled)
    bulk: Any = BulkLinks(dials.dial)
    assert await bulk.get(B, at("x", "y", "z"), link(main)) is dialled
    assert await bulk.get(B, at("x", "y", "z"), link(main)) is dialled
    assert dials.dialled == ["x", "y"]
    bulk.close()
    assert dialled.ended == "closed"
    await bulk.get(B, at("y"), link(main))
    assert dials.dialled == ["x", "y", "y"]


async def test_many_fetches_at_once_share_one_bulk_link() -> None:
    """Or the others would stay open for ever."""
    dials = Diallers(y=Wire(B))
    bulk: Any = BulkLinks(dials.dial)
    found: list[Any] = await asyncio.gather(*(bulk.get(B, at("y"), link(Wire(B))) for _ in range(8)))
    assert len({id(one) for one in found}) == 1
    assert dials.dialled == ["y"]


async def test_whom_no_bulk_link_reaches_is_asked_over_the_main_link() -> None:
    main, stranger = Wire(B), Wire(C)
    bulk: Any = BulkLinks(Diallers(y=stranger).dial)
    assert await bulk.get(B, at("x", "y"), link(main)) is main
    assert stranger.ended == "closed"


async def test_a_fetch_given_up_leaves_no_bulk_link_open() -> None:
    opening = Wire(B)
    reached = asyncio.Event()

    async def wait_open() -> None:
        reached.set()
        await asyncio.Event().wait()

    opening.wait_open = wait_open  # type: ignore[method-assign]
    bulk: Any = BulkLinks(Diallers(y=opening).dial)
    fetch = asyncio.ensure_future(bulk.get(B, at("y"), link(Wire(B))))
    await reached.wait()
    fetch.cancel()
    await asyncio.wait({fetch})
    assert opening.ended == "closed"
