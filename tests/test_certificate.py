import subprocess
import sys
from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st

from gridnode.certificate import (
    COMMON_NAME,
    INVALID,
    MAX_SIZE,
    ORGANIZATIONAL_UNIT,
    build,
    common_name,
    from_der,
    from_pem,
    key_from_pem,
    key_to_pem,
    name,
    public_key,
    to_pem,
)

KEY, ISSUER_KEY = (Ed25519PrivateKey.from_private_bytes(seed * 32) for seed in (b"s", b"i"))
PUBLIC = KEY.public_key()
SPAN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), datetime(2050, 1, 1, tzinfo=UTC)
SUBJECT = name((ORGANIZATIONAL_UNIT, "node"), (COMMON_NAME, "ab" * 20))
ISSUER = name((COMMON_NAME, "issuer"))
LEAF = build(SUBJECT, ISSUER, PUBLIC, ISSUER_KEY, SPAN)
DER = LEAF.public_bytes(Encoding.DER)


def test_a_leaf_says_what_openssl_is_to_check() -> None:
    assert LEAF.version is x509.Version.v3
    assert LEAF.subject.rfc4514_string() == "CN=" + "ab" * 20 + ",OU=node"
    assert (LEAF.not_valid_before_utc, LEAF.not_valid_after_utc) == SPAN
    assert 0 < LEAF.serial_number < 1 << 128
    constraints = LEAF.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert constraints.value == x509.BasicConstraints(ca=False, path_length=None)
    usage = LEAF.extensions.get_extension_for_class(x509.KeyUsage)
    assert usage.critical
    assert (usage.value.digital_signature, usage.value.key_cert_sign) == (True, False)
    purposes = LEAF.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert {purpose.dotted_string[-1] for purpose in purposes} == {"1", "2"}
    ISSUER_KEY.public_key().verify(LEAF.signature, LEAF.tbs_certificate_bytes)


def test_key_identifiers_link_a_chain() -> None:
    ca = build(ISSUER, ISSUER, ISSUER_KEY.public_key(), ISSUER_KEY, SPAN, path_length=1)
    own = ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    for certificate in (ca, LEAF):
        above = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
        assert (above.key_identifier, above.authority_cert_issuer) == (own, None)
    assert LEAF.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest != own


@pytest.mark.parametrize(("path_length", "unit"), [(0, "node"), (1, None)])
def test_so_does_an_issuer(path_length: int, unit: str | None) -> None:
    permitted = name((ORGANIZATIONAL_UNIT, unit)) if unit else None
    made = build(ISSUER, ISSUER, PUBLIC, KEY, SPAN, path_length, permitted)
    made.verify_directly_issued_by(made)
    constraints = made.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert constraints.value == x509.BasicConstraints(ca=True, path_length=path_length)
    usage = made.extensions.get_extension_for_class(x509.KeyUsage)
    assert usage.critical
    assert (usage.value.digital_signature, usage.value.key_cert_sign) == (False, True)
    limits = [extension for extension in made.extensions if isinstance(extension.value, x509.NameConstraints)]
    assert [extension.critical for extension in limits] == [True] * bool(permitted)
    assert [extension.value for extension in limits] == (
        [x509.NameConstraints([x509.DirectoryName(permitted)], None)] if permitted else []
    )


def test_the_same_arguments_make_the_same_certificate() -> None:
    assert build(SUBJECT, ISSUER, PUBLIC, ISSUER_KEY, SPAN) == LEAF
    serials = {
        LEAF.serial_number,
        build(ISSUER, ISSUER, PUBLIC, ISSUER_KEY, SPAN).serial_number,
        build(SUBJECT, SUBJECT, PUBLIC, ISSUER_KEY, SPAN).serial_number,
        build(SUBJECT, ISSUER, ISSUER_KEY.public_key(), ISSUER_KEY, SPAN).serial_number,
        build(SUBJECT, ISSUER, PUBLIC, ISSUER_KEY, (SPAN[0], SPAN[0])).serial_number,
    }
    assert len(serials) == 5


def test_certificates_and_keys_survive_the_round_trip() -> None:
    assert from_der(DER) == from_pem(to_pem(LEAF)) == LEAF
    assert public_key(LEAF) == PUBLIC
    pem = key_to_pem(KEY)
    assert key_from_pem(pem).private_bytes_raw() == KEY.private_bytes_raw()
    assert pem.encode() == KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=16))
def test_common_names(text: str) -> None:
    assert common_name(name((COMMON_NAME, text))) == text
    for other in (name((ORGANIZATIONAL_UNIT, text)), name((COMMON_NAME, text), (COMMON_NAME, text)), name()):
        with pytest.raises(INVALID):
            common_name(other)


@given(st.binary(max_size=300))
def test_garbage_is_no_certificate(der: bytes) -> None:
    with pytest.raises(INVALID):
        from_der(der)


@given(st.integers(0, len(DER) - 1), st.integers(0, 255))
def test_a_damaged_certificate_fails_with_nothing_else(at: int, byte: int) -> None:
    for cut in (DER[:at], DER + b"\0" * (at + 1)):
        with pytest.raises(INVALID):
            from_der(cut)
    try:
        damaged = from_der(DER[:at] + bytes([byte]) + DER[at + 1 :])
        assert common_name(damaged.issuer)
        assert (len(damaged.subject.rdns), len(public_key(damaged).public_bytes_raw())) == (2, 32)
    except INVALID:
        return


def test_size_is_bounded() -> None:
    huge = build(x509.Name([*SUBJECT] * 100), ISSUER, PUBLIC, ISSUER_KEY, SPAN).public_bytes(Encoding.DER)
    assert len(huge) > MAX_SIZE
    with pytest.raises(ValueError, match="bytes"):
        from_der(huge)


def test_other_keys_and_texts_are_refused() -> None:
    other = generate_private_key(SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    for bad in ("", "é", to_pem(LEAF), other, key_to_pem(KEY).replace("\nM", "\nA")):
        with pytest.raises(INVALID):
            key_from_pem(bad)
        with pytest.raises(INVALID):
            from_pem(bad.replace("CERTIFICATE", "KEY"))


def test_what_the_library_only_warns_of_is_refused_in_silence() -> None:
    """Under Python's own warning filters, which are not this test run's."""
    serial = DER.index(bytes.fromhex("a003020102")) + 7
    negative = (DER[:serial] + b"\x81" + DER[serial + 1 :]).hex()
    code = (
        "import sys\nfrom gridnode.certificate import INVALID, from_der\n"
        f"try:\n    from_der(bytes.fromhex('{negative}'))\nexcept INVALID as exc:\n    print(type(exc).__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout.strip(), done.stderr) == ("CryptographyDeprecationWarning", "")
