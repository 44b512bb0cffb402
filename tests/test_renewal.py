"""Cards that last longer: only the grid's own issuers of nodes, only longer, and a revocation still covers them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from gridnode import certificate
from gridnode.errors import CardInvalid, LedgerError, NotAuthenticated
from gridnode.gridfile import Card
from gridnode.identity import DAY, host_prefix, issue_leaf, mint_card, mint_share, public_key_of
from gridnode.ledger import Document, sign_document, verifier
from gridnode.renewal import (
    RENEWAL,
    issuer_id,
    open_renewal,
    renew_issuer,
    renewed,
    renewed_card,
    sign_renewal,
)
from gridnode.revocation import Revocation, Revocations, sign_revocation
from tests.fakes.peers import AUTHORITY, FOREIGN

NOW = 1_800_000_000
SEED = AUTHORITY.deploy_key


def card(host: str = "web1", entropy: bytes = b"e" * 32) -> Card:
    return mint_card(AUTHORITY, host, NOW, DAY, entropy)


def longer(of: Card, ttl: float = 365 * DAY) -> bytes:
    return renew_issuer(AUTHORITY, of.issuer, NOW, ttl)


def test_a_renewed_card_makes_leaves_of_the_same_node_that_last_longer() -> None:
    before = issue_leaf(card(), b"k" * 32, NOW)
    later = renewed_card(card(), longer(card()))
    after = issue_leaf(later, b"k" * 32, NOW + 300 * DAY)
    assert (after.node, after.issuer, after.key) == (before.node, before.issuer, before.key)
    assert before.until == NOW + DAY
    assert after.until == NOW + 365 * DAY
    assert later.issuer_key == card().issuer_key
    with pytest.raises(CardInvalid):
        issue_leaf(card(), b"k" * 32, NOW + 300 * DAY)


def test_an_older_one_a_strangers_and_anothers_change_nothing() -> None:
    mine = card()
    for der in (
        longer(mine, DAY / 2),
        longer(card("web1", b"f" * 32)),
        renew_issuer(FOREIGN, mint_card(FOREIGN, "web1", NOW, DAY, b"e" * 32).issuer, NOW, 365 * DAY),
        b"",
        b"\x30" * 100,
    ):
        assert renewed_card(mine, der) is mine
    once = renewed_card(mine, longer(mine))
    assert renewed_card(once, longer(mine, 100 * DAY)) is once


@pytest.mark.parametrize(
    "pem",
    [
        mint_card(FOREIGN, "web1", NOW, DAY, b"e" * 32).issuer,
        AUTHORITY.ca,
        "",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    ],
    ids=["a stranger's", "the CA", "nothing", "garbage"],
)
def test_only_issuers_of_nodes_that_the_grid_made_are_renewed(pem: str) -> None:
    with pytest.raises(NotAuthenticated):
        renew_issuer(AUTHORITY, pem, NOW, DAY)


def test_a_users_issuer_is_refused_for_its_role() -> None:
    chain = mint_share(AUTHORITY, "alice", NOW, DAY, b"u" * 32).certificate
    issuer = "-----BEGIN" + chain.split("-----BEGIN")[2]
    assert certificate.from_pem(issuer).issuer == certificate.from_pem(AUTHORITY.ca).subject
    with pytest.raises(NotAuthenticated, match="not one of nodes"):
        renew_issuer(AUTHORITY, issuer, NOW, DAY)


def test_a_document_is_named_by_its_issuer_and_found_by_its_card() -> None:
    mine, other = card(), card("web2", b"f" * 32)
    documents = [sign_renewal(SEED, longer(other), 1), sign_renewal(SEED, longer(mine), 4)]
    assert all(map(verifier(public_key_of(SEED)), documents))
    assert documents[1].name == issuer_id(mine.issuer)
    later, der = renewed(mine, documents)
    assert later.issuer != mine.issuer
    assert der == longer(mine)
    assert renewed(later, documents) == (later, b"")
    assert renewed(mine, documents[:1]) == (mine, b"")


def test_a_revocation_of_the_host_covers_what_was_renewed_after_it() -> None:
    later = renewed_card(card(), renew_issuer(AUTHORITY, card().issuer, NOW + DAY / 2, 365 * DAY))
    revocations = Revocations()
    revocations.follow([sign_revocation(SEED, host_prefix(AUTHORITY, "web1"), Revocation(NOW + 1), 1)])
    assert revocations.cover(issue_leaf(later, b"k" * 32, NOW + DAY / 2).issuer)


def test_a_document_under_another_name_or_kind_is_none() -> None:
    good = sign_renewal(SEED, longer(card()), 1)
    for bad in (
        replace(good, kind="order"),
        replace(good, name="x"),
        replace(good, body=b""),
        replace(good, body=good.body + b"\0" * certificate.MAX_SIZE),
        replace(good, body=longer(card("web2", b"f" * 32))),
    ):
        with pytest.raises(LedgerError):
            open_renewal(bad)


@given(st.binary(max_size=600))
def test_garbage_is_refused(body: bytes) -> None:
    document: Document = sign_document(SEED, RENEWAL, "ab" * 6 + "-1-01234567", 1, body)
    with pytest.raises(LedgerError):
        open_renewal(document)
    assert renewed_card(CARD, body) is CARD


CARD = card()
