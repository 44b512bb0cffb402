import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from gridnode import certificate
from gridnode.certificate import name
from gridnode.errors import CardInvalid, Forbidden, GridfileInvalid, NotAuthenticated, WeakSecret
from gridnode.gridfile import Card, Gridfile, parse_card, render_card, render_secret
from gridnode.identity import (
    DAY,
    Authority,
    authority_of,
    host_prefix,
    issue_leaf,
    mint_card,
    mint_share,
    node_id,
    operator_credentials,
    public_key_of,
    read_leaf,
    seal,
    share_credentials,
    sign,
    unseal,
    verify,
)
from gridnode.model import Role

NOW = 1_800_000_000.0
KEY = b"k" * 32
NONCE = b"n" * 12


def authority(byte: int = 1, name: str = "g") -> Authority:
    return authority_of(Gridfile(name, (), grid_password=render_secret(bytes([byte]) * 32)))


AUTHORITY = authority()
CARD = mint_card(AUTHORITY, "web1", NOW, 30 * DAY, b"e" * 32, labels={"zone": "a"})


def leaf_der(chain: bytes) -> bytes:
    return x509.load_pem_x509_certificates(chain)[0].public_bytes(Encoding.DER)


def test_everything_follows_from_the_secret_alone() -> None:
    again = authority()
    assert again == AUTHORITY
    assert authority(1, "other").ca == AUTHORITY.ca
    other = authority(2)
    keys = {AUTHORITY.ca_key, AUTHORITY.deploy_key, AUTHORITY.network_key, AUTHORITY.host_key}
    assert len(keys | {other.ca_key, other.deploy_key, other.network_key, other.host_key}) == 8
    assert other.tag != AUTHORITY.tag
    assert len(AUTHORITY.tag) == 16


def test_the_derivation_is_frozen() -> None:
    assert AUTHORITY.tag == "ddec333c29590cca"
    assert (
        public_key_of(AUTHORITY.deploy_key).hex() == "20eb826d0a7c0f7dd9f2c87ab96e771e9e9c5c97bb340846689434a71c72b684"
    )
    assert AUTHORITY.network_key.hex() == "c1f2bd969d5829754e69e2cef19677e5611a72c23222c87c3f67637e34d75088"


def test_a_weak_password_needs_insistence() -> None:
    for password, allowed in (("", False), ("", True), ("password", False)):
        with pytest.raises(WeakSecret) as caught:
            authority_of(Gridfile("g", (), grid_password=password, allow_weak_password=allowed, path="a/Gridfile"))
        assert caught.value.message.startswith("a/Gridfile: ")
        assert "gridctl new" in str(caught.value.hint)
    stretched = authority_of(Gridfile("g", (), grid_password="password", allow_weak_password=True))
    salted = authority_of(Gridfile("h", (), grid_password="password", allow_weak_password=True))
    assert stretched.tag != salted.tag


def test_repr_holds_no_secret() -> None:
    credentials = issue_leaf(CARD, KEY, NOW)
    assert repr(AUTHORITY.deploy_key) not in repr(AUTHORITY)
    assert repr(AUTHORITY.network_key) not in repr(AUTHORITY)
    assert "PRIVATE" not in repr(credentials)


def test_a_card_survives_its_text_and_issues_leaves() -> None:
    card = parse_card(render_card(CARD))
    assert card == CARD
    assert card.labels == {"host": "web1", "zone": "a"}
    credentials = issue_leaf(card, KEY, NOW)
    who = read_leaf(leaf_der(credentials.chain))
    assert who.node == node_id(public_key_of(KEY)) == credentials.node
    assert (who.role, who.issuer) == (Role.NODE, credentials.issuer)
    assert who.issuer.startswith(host_prefix(AUTHORITY, "web1") + "-")
    assert "web1" not in who.issuer


def test_cards_of_one_host_have_issuers_of_their_own() -> None:
    again = mint_card(AUTHORITY, "web1", NOW, 30 * DAY, b"f" * 32)
    assert again.issuer_key != CARD.issuer_key
    issuers = {issue_leaf(card, KEY, NOW).issuer for card in (again, CARD)}
    assert len(issuers) == 2
    assert len({issuer[:12] for issuer in issuers}) == 1


def test_a_leaf_lives_within_its_card() -> None:
    chain = x509.load_pem_x509_certificates(issue_leaf(CARD, KEY, NOW).chain)
    assert chain[0].not_valid_before_utc >= chain[1].not_valid_before_utc
    assert chain[0].not_valid_after_utc == chain[1].not_valid_after_utc
    for moment in (NOW + 31 * DAY, NOW - 2 * DAY):
        with pytest.raises(CardInvalid, match="the card is valid from"):
            issue_leaf(CARD, KEY, moment)


def with_part(field: str, value: str) -> Card:
    return replace(CARD, **{field: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("field", ["ca", "issuer", "issuer_key"])
def test_a_card_of_parts_that_do_not_fit_is_refused(field: str) -> None:
    foreign = mint_card(authority(2), "web1", NOW, DAY, b"x" * 32)
    for value in (getattr(foreign, field), "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"):
        with pytest.raises(CardInvalid):
            issue_leaf(with_part(field, value), KEY, NOW)


def test_a_chain_is_only_what_was_read() -> None:
    """A card that an editor cut short or appended to."""
    clean = issue_leaf(CARD, KEY, NOW)
    assert issue_leaf(with_part("issuer", CARD.issuer.rstrip() + "\n"), KEY, NOW) == clean
    assert issue_leaf(with_part("issuer", "text\n" + CARD.issuer.rstrip()), KEY, NOW) == clean
    foreign = authority(2).ca
    assert issue_leaf(with_part("ca", CARD.ca + foreign), KEY, NOW) == clean


def test_operators_are_signed_by_the_ca_for_a_day() -> None:
    credentials = operator_credentials(AUTHORITY, NOW, b"o" * 32)
    who = read_leaf(leaf_der(credentials.chain))
    assert (who.node, who.role) == (credentials.node, Role.OPERATOR)
    leaf = x509.load_pem_x509_certificate(credentials.chain)
    leaf.verify_directly_issued_by(x509.load_pem_x509_certificate(AUTHORITY.ca.encode()))
    assert (leaf.not_valid_after_utc - leaf.not_valid_before_utc).days == 2


def test_entropy_must_suffice() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        mint_card(AUTHORITY, "h", NOW, DAY, b"short")
    with pytest.raises(ValueError, match="32 bytes"):
        operator_credentials(AUTHORITY, NOW, b"short")


def test_a_leaf_whose_subject_is_not_its_keys_is_refused() -> None:
    for der in (b"", leaf_der(CARD.ca.encode()), leaf_der(CARD.issuer.encode())):
        with pytest.raises(NotAuthenticated):
            read_leaf(der)


def made(subject: x509.Name, issuer: x509.Name, public: Ed25519PublicKey | EllipticCurvePublicKey) -> bytes:
    """DER of a leaf made without this project's own code."""
    start, end = datetime(2026, 1, 1, tzinfo=UTC), datetime(2030, 1, 1, tzinfo=UTC)
    builder = x509.CertificateBuilder(issuer, subject, public, 7, start, end)
    return builder.sign(Ed25519PrivateKey.from_private_bytes(KEY), None).public_bytes(Encoding.DER)


OU, CN = NameOID.ORGANIZATIONAL_UNIT_NAME, NameOID.COMMON_NAME
PUBLIC = Ed25519PrivateKey.from_private_bytes(KEY).public_key()
ID = node_id(PUBLIC.public_bytes_raw())
NODE, OPERATOR = name((OU, "node"), (CN, ID)), name((OU, "operator"), (CN, ID))
ISSUER, CA = name((CN, "0123456789ab-01234567")), name((CN, f"gridcontrol {AUTHORITY.tag}"))


def test_a_leaf_of_the_one_shape_is_read_whoever_made_it() -> None:
    assert read_leaf(made(NODE, ISSUER, PUBLIC)).role is Role.NODE
    assert read_leaf(made(OPERATOR, CA, PUBLIC)).role is Role.OPERATOR
    assert read_leaf(made(name((OU, "user"), (CN, ID)), ISSUER, PUBLIC)).role is Role.USER


@pytest.mark.parametrize(
    ("subject", "issuer"),
    [
        (OPERATOR, ISSUER),
        (NODE, CA),
        (name((OU, "user"), (CN, ID)), CA),
        (name((OU, "local"), (CN, ID)), ISSUER),
        (name((OU, "NODE"), (CN, ID)), ISSUER),
        (name((OU, "node"), (CN, ID.upper())), ISSUER),
        (name((CN, ID), (OU, "node")), ISSUER),
        (x509.Name([x509.RelativeDistinguishedName(NODE)]), ISSUER),
        (name((OU, "node"), (OU, "operator"), (CN, ID)), ISSUER),
        (NODE, name((OU, "gridcontrol"), (CN, "x"))),
        (NODE, name((OU, f"gridcontrol {AUTHORITY.tag}"))),
        (NODE, x509.Name([])),
    ],
)
def test_a_leaf_of_other_names_is_refused(subject: x509.Name, issuer: x509.Name) -> None:
    with pytest.raises(NotAuthenticated):
        read_leaf(made(subject, issuer, PUBLIC))


def test_a_leaf_of_another_kind_of_key_is_refused() -> None:
    with pytest.raises(NotAuthenticated, match="not one of a grid"):
        read_leaf(made(NODE, ISSUER, generate_private_key(SECP256R1()).public_key()))


def test_a_name_the_library_warns_of_is_refused_in_silence() -> None:
    """A common name of 70 bytes, under Python's own warning filters."""
    long = made(name((OU, "x" * 70)), ISSUER, PUBLIC).replace(b"\x55\x04\x0b", b"\x55\x04\x03").hex()
    code = (
        "from gridnode.identity import NotAuthenticated, read_leaf\n"
        f"try:\n    read_leaf(bytes.fromhex('{long}'))\n"
        "except NotAuthenticated as exc:\n    print(exc.__cause__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Attribute's length")
    assert done.stderr == ""


@given(st.binary(max_size=400))
def test_garbage_for_a_leaf_is_refused(der: bytes) -> None:
    with pytest.raises(NotAuthenticated):
        read_leaf(der)


LEAF = leaf_der(issue_leaf(CARD, KEY, NOW).chain)


@given(st.integers(0, len(LEAF) - 1), st.integers(0, 255))
def test_a_damaged_leaf_is_refused_or_read(at: int, byte: int) -> None:
    try:
        read_leaf(LEAF[:at] + bytes([byte]) + LEAF[at + 1 :])
    except NotAuthenticated:
        return


def test_signatures_hold_in_their_context_only() -> None:
    seed, public = AUTHORITY.deploy_key, public_key_of(AUTHORITY.deploy_key)
    signature = sign(seed, b"ledger", b"payload")
    assert verify(public, b"ledger", b"payload", signature)
    assert not verify(public, b"other", b"payload", signature)
    assert not verify(public, b"ledger", b"payload!", signature)
    assert not verify(public_key_of(KEY), b"ledger", b"payload", signature)


@given(st.binary(max_size=80), st.binary(max_size=80))
def test_garbage_never_verifies(public: bytes, signature: bytes) -> None:
    assert not verify(public, b"ledger", b"payload", signature)


@given(st.binary(max_size=300))
def test_seals_open_for_the_same_key_context_and_time(payload: bytes) -> None:
    sealed = seal(KEY, payload, NOW, NONCE)
    assert len(sealed) == len(payload) + 36
    assert unseal(KEY, sealed, NOW + 3000) == unseal(KEY, sealed, NOW - 3000) == payload
    assert unseal(KEY, sealed, NOW + 3700) is None
    assert unseal(KEY, sealed, NOW - 3700) is None
    assert unseal(KEY, sealed, NOW + 11, window=10) is None
    assert unseal(b"x" * 32, sealed, NOW) is None
    assert unseal(KEY, sealed, NOW, context=b"dht") is None


@given(st.binary(max_size=100), st.integers(0, 60))
def test_garbage_and_cut_seals_do_not_open(garbage: bytes, cut: int) -> None:
    assert unseal(KEY, garbage, NOW) is None
    sealed = seal(KEY, b"payload", NOW, NONCE)
    assert unseal(KEY, sealed[: min(cut, len(sealed) - 1)], NOW) is None
    assert unseal(KEY, sealed + garbage + b"x", NOW) is None


def test_the_import_starts_nothing() -> None:
    code = "import sys, gridnode.identity; print({'asyncio', 'ssl'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_share_makes_a_user_of_limited_time() -> None:
    share = mint_share(AUTHORITY, "alice", NOW, DAY, b"u" * 32)
    credentials = share_credentials(share, NOW)
    assert (credentials.role, share.deploy_key) == (Role.USER, public_key_of(AUTHORITY.deploy_key))
    assert credentials.issuer.startswith(host_prefix(AUTHORITY, "user/alice") + "-")
    who = read_leaf(certificate.from_pem(share.certificate).public_bytes(Encoding.DER))
    assert (who.node, who.role, who.issuer, who.until) == (
        credentials.node,
        Role.USER,
        credentials.issuer,
        int(NOW) + DAY,
    )
    with pytest.raises(NotAuthenticated, match="was good until"):
        share_credentials(share, NOW + DAY)


def test_parts_of_two_shares_are_refused() -> None:
    one, other = (mint_share(AUTHORITY, "alice", NOW, DAY, seed * 32) for seed in (b"u", b"v"))
    for broken in (replace(one, key=other.key), replace(one, certificate=other.certificate), replace(one, key=one.ca)):
        with pytest.raises(GridfileInvalid):
            share_credentials(broken, NOW)


def test_a_users_gridfile_has_no_authority() -> None:
    share = mint_share(AUTHORITY, "alice", NOW, DAY, b"u" * 32)
    with pytest.raises(Forbidden, match="alice's, a user's"):
        authority_of(Gridfile("g", (), share=share))
