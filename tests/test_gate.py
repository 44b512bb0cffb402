"""Links end when their peer is revoked or its certificate's time is over, over real TLS."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs

from gridnode.errors import GridError
from gridnode.gate import WARN_WITHIN, Gate
from gridnode.identity import DAY, Credentials, host_prefix
from gridnode.ledger import Document
from gridnode.link.protocol import Link
from gridnode.revocation import Revocation, sign_revocation
from gridnode.wire import Op
from tests.fakes.peers import ALICE, AUTHORITY, BOB, NOW, OPERATOR, USER, End, Hop, hop, until

FOREVER = NOW + 1000 * DAY


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def gate(clock: Clock) -> Gate:
    return Gate(clock, ALICE.issuer, FOREVER)


@pytest.fixture
async def place(gate: Gate, tmp_path: Path) -> AsyncIterator[Hop]:
    async with hop("tls", End(), tmp_path) as place:
        place.identify = gate.identify
        yield place


def revoked(what: str) -> list[Document]:
    prefix = host_prefix(AUTHORITY, what)
    return [sign_revocation(AUTHORITY.deploy_key, prefix, Revocation(int(NOW) + 1, what), 1)]


def host_of(credentials: Credentials) -> str:
    return next(name for name in ("alice", "bob") if credentials.issuer.startswith(host_prefix(AUTHORITY, name)))


async def dial(place: Hop, credentials: Credentials = BOB) -> Link:
    return await place.dial(End(), credentials=credentials)


async def test_an_open_link_ends_when_its_peer_is_revoked_and_others_stay(place: Hop, gate: Gate) -> None:
    bob, operator = await dial(place), await dial(place, OPERATOR)
    gate.follow(revoked("somebody"))
    assert bob.is_open
    gate.follow(revoked(host_of(BOB)))
    await bob.wait_closed()
    assert await operator.request(Op.NODES) == b""
    with pytest.raises(GridError):
        await dial(place)


async def test_a_user_is_revoked_by_name(place: Hop, gate: Gate) -> None:
    user, bob = await dial(place, USER), await dial(place)
    gate.follow(revoked("user/alice"))
    await user.wait_closed()
    assert bob.is_open


async def test_a_link_ends_with_the_certificate_of_its_peer(place: Hop, gate: Gate, clock: Clock) -> None:
    link = await dial(place)
    clock.now = NOW + DAY - 1
    gate.tick()
    assert await link.request(Op.NODES) == b""
    clock.now = NOW + DAY
    gate.tick()
    await link.wait_closed()


async def test_closed_links_are_forgotten(place: Hop, gate: Gate) -> None:
    link = await dial(place)
    assert len(gate) == 1
    link.close()
    await link.wait_closed()
    await until(lambda: place.accepted[0].is_closing or not place.accepted[0].is_open)
    gate.tick()
    assert len(gate) == 0


def test_a_node_says_once_a_day_that_its_own_card_ends(clock: Clock) -> None:
    gate = Gate(clock, ALICE.issuer, NOW + WARN_WITHIN)
    with capture_logs() as said:
        gate.tick()
        gate.tick()
        clock.now += DAY
        gate.tick()
    assert [entry["days"] for entry in said] == [30.0, 29.0]


def test_a_node_says_that_it_was_revoked_itself(gate: Gate) -> None:
    with capture_logs() as said:
        gate.follow(revoked(host_of(ALICE)))
        gate.follow(revoked(host_of(ALICE)))
        gate.follow([replace(revoked("x")[0], body=b"")])
    assert [entry["log_level"] for entry in said] == ["error", "error"]
    assert "this node was revoked" in said[0]["event"]
