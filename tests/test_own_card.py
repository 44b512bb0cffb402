"""A node whose card is renewed: new handshakes show the longer one, open links stay, and a restart remembers."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from gridnode.errors import CardInvalid
from gridnode.gridfile import Card
from gridnode.identity import DAY, Credentials, mint_card
from gridnode.ledger import Document
from gridnode.link.protocol import Link
from gridnode.own_card import ISSUER, OwnCard
from gridnode.renewal import renew_issuer, sign_renewal
from gridnode.wire import Op
from tests.fakes.peers import AUTHORITY, NOW, End, Hop, hop


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def card() -> Card:
    return mint_card(AUTHORITY, "web1", NOW, DAY, b"e" * 32)


@pytest.fixture
def own(card: Card, clock: Clock, tmp_path: Path) -> OwnCard:
    return OwnCard(card, tmp_path, clock)


def renewal(card: Card, ttl: float = 100 * DAY) -> Document:
    return sign_renewal(AUTHORITY.deploy_key, renew_issuer(AUTHORITY, card.issuer, NOW, ttl), 1)


@pytest.fixture
async def place(own: OwnCard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Hop]:
    monkeypatch.setattr("tests.fakes.peers.server_context", lambda credentials: own.server_context)
    async with hop("tls", End(), tmp_path) as place:
        yield place


def until(link: Link) -> float:
    assert link.peer
    return link.peer.until


async def test_new_handshakes_show_the_renewed_card_and_open_links_stay(place: Hop, own: OwnCard, card: Card) -> None:
    told: list[Credentials] = []
    own.on_renewed = told.append
    before = await place.dial(End())
    assert until(before) == int(NOW) + DAY
    own.follow([renewal(card)])
    after = await place.dial(End())
    assert until(after) == int(NOW) + 100 * DAY
    assert after.peer == before.peer, "the same node"
    assert await before.request(Op.NODES, b"still") == b"still"
    assert [one.until for one in told] == [int(NOW) + 100 * DAY]
    own.follow([renewal(card)])
    assert len(told) == 1


def test_a_restart_after_the_first_cards_end_remembers_the_renewal(
    own: OwnCard, card: Card, clock: Clock, tmp_path: Path
) -> None:
    own.follow([renewal(card)])
    assert (tmp_path / ISSUER).stat().st_mode & 0o777 == 0o600
    clock.now = NOW + 50 * DAY
    again = OwnCard(card, tmp_path, clock)
    assert again.credentials.until == int(NOW) + 100 * DAY
    assert again.credentials.node == own.credentials.node
    (tmp_path / ISSUER).write_bytes(b"torn")
    with pytest.raises(CardInvalid, match="valid from"):
        OwnCard(card, tmp_path, clock)


def test_what_was_remembered_of_another_card_is_left_out(
    own: OwnCard, card: Card, clock: Clock, tmp_path: Path
) -> None:
    own.follow([renewal(card)])
    other = mint_card(AUTHORITY, "web1", NOW, 2 * DAY, b"f" * 32)
    assert OwnCard(other, tmp_path, clock).credentials.until == int(NOW) + 2 * DAY


def test_a_renewal_that_cannot_be_kept_is_said_and_changes_nothing(
    own: OwnCard, card: Card, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("gridnode.own_card.write_durably", refuse)
    with capture_logs() as said:
        own.follow([renewal(card)])
    assert [entry["log_level"] for entry in said] == ["error"]
    assert own.credentials.until == int(NOW) + DAY
