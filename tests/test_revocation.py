"""Who is shut out: by prefix and by when it was minted; garbage is refused, and never lets anybody in."""

import contextlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridnode.errors import LedgerError
from gridnode.identity import DAY, host_prefix, issue_leaf, mint_card, public_key_of
from gridnode.ledger import Document, sign_document, verifier
from gridnode.revocation import REVOCATION, Revocation, Revocations, minted_at, open_revocation, sign_revocation
from tests.fakes.peers import AUTHORITY

NOW = 1_800_000_000
SEED = b"s" * 32
WEB1 = host_prefix(AUTHORITY, "web1")


def issuer(host: str, now: float) -> str:
    return issue_leaf(mint_card(AUTHORITY, host, now, DAY, b"e" * 32), b"k" * 32, now).issuer


def document(until: int, prefix: str = WEB1, sequence: int = 1) -> Document:
    return sign_revocation(SEED, prefix, Revocation(until, "web1", "me@here"), sequence)


@pytest.mark.parametrize(
    ("host", "minted", "covered"),
    [("web1", NOW - 9, True), ("web1", NOW, True), ("web1", NOW + 1, False), ("web2", 1, False)],
)
def test_a_revocation_covers_what_was_minted_for_the_host_until_then(host: str, minted: int, covered: bool) -> None:
    revocations = Revocations()
    assert not revocations.cover(issuer(host, minted))
    assert revocations.follow([document(NOW)]) == []
    assert revocations.cover(issuer(host, minted)) is covered


def test_an_issuer_that_does_not_say_when_is_covered() -> None:
    revocations = Revocations()
    revocations.follow([document(NOW)])
    assert minted_at(f"{WEB1}-01234567") == 0
    assert revocations.cover(f"{WEB1}-01234567")


def test_a_later_revocation_covers_later_cards() -> None:
    revocations = Revocations()
    revocations.follow([document(NOW)])
    revocations.follow([document(NOW + 10, sequence=2)])
    assert revocations.cover(issuer("web1", NOW + 5))


@given(st.text())
def test_any_other_text_is_no_issuer(text: str) -> None:
    revocations = Revocations()
    revocations.follow([document(NOW)])
    assert revocations.cover(text) is False
    assert minted_at(text) == 0


def test_a_document_comes_back_as_it_was() -> None:
    signed = document(NOW)
    assert open_revocation(signed) == Revocation(NOW, "web1", "me@here")
    assert verifier(public_key_of(SEED))(signed)


@pytest.mark.parametrize(
    "broken",
    [
        sign_document(SEED, "order", WEB1, 1, msgspec.msgpack.encode(Revocation(NOW))),
        sign_document(SEED, REVOCATION, "web1", 1, msgspec.msgpack.encode(Revocation(NOW))),
        sign_document(SEED, REVOCATION, WEB1, 1, msgspec.msgpack.encode(Revocation(0))),
        sign_document(SEED, REVOCATION, WEB1, 1, msgspec.msgpack.encode(Revocation(1 << 60))),
        sign_document(SEED, REVOCATION, WEB1, 1, msgspec.msgpack.encode(Revocation(NOW, "x" * 256))),
        sign_document(SEED, REVOCATION, WEB1, 1, msgspec.msgpack.encode(Revocation(NOW, by="\x1b[2J"))),
    ],
)
def test_what_is_no_revocation_is_refused_and_told(broken: Document) -> None:
    with pytest.raises(LedgerError):
        open_revocation(broken)
    assert Revocations().follow([broken]) == [broken]


@given(st.binary(max_size=200))
def test_garbage_is_a_ledger_error(body: bytes) -> None:
    with contextlib.suppress(LedgerError):
        assert open_revocation(sign_document(SEED, REVOCATION, WEB1, 1, body)).until > 0
