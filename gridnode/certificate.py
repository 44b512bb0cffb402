"""X.509 certificates and their keys in the one shape a grid uses: version 3, Ed25519, one attribute per RDN.

Chains are judged by OpenSSL in the handshake; this makes them, and reads what it has verified.
"""

import hashlib
import warnings
from datetime import datetime
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

__all__ = [
    "COMMON_NAME",
    "INVALID",
    "ORGANIZATIONAL_UNIT",
    "build",
    "common_name",
    "from_der",
    "from_pem",
    "key_from_pem",
    "key_to_pem",
    "name",
    "public_key",
    "to_pem",
]

MAX_SIZE: Final = 4096
_SIGNATURE_SIZE: Final = 64
COMMON_NAME: Final = NameOID.COMMON_NAME
ORGANIZATIONAL_UNIT: Final = NameOID.ORGANIZATIONAL_UNIT_NAME
INVALID: Final = (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion, InvalidSignature, UserWarning)
"""What reading raises for bytes, names and keys of another shape: the library has no common base for them."""

_SIGNS_CERTIFICATES: Final = x509.KeyUsage(False, False, False, False, False, True, False, False, False)
_SIGNS_HANDSHAKES: Final = x509.KeyUsage(True, False, False, False, False, False, False, False, False)
_BOTH_SIDES: Final = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH])

# A flaw that the library only warns of is refused, and a peer cannot fill stderr with warnings.
warnings.filterwarnings("error", category=UserWarning, module=r"gridnode\.(certificate|identity)\Z")


def name(*attributes: tuple[x509.ObjectIdentifier, str]) -> x509.Name:
    """The name of these attributes, in order, each in an RDN of its own."""
    return x509.Name([x509.NameAttribute(oid, text) for oid, text in attributes])


def common_name(of: x509.Name) -> str:
    """The text of a name that is one common name and nothing else; ValueError otherwise."""
    text = "".join(str(attribute.value) for attribute in of)
    if of != name((COMMON_NAME, text)):
        raise ValueError("not a name of one common name")
    return text


def build(
    subject: x509.Name,
    issuer: x509.Name,
    key: Ed25519PublicKey,
    issuer_key: Ed25519PrivateKey,
    span: tuple[datetime, datetime],
    path_length: int | None = None,
    permitted: x509.Name | None = None,
) -> x509.Certificate:
    """A CA's certificate with a path_length, `permitted` bounding whom it certifies; else a leaf's. Deterministic."""
    is_ca = path_length is not None
    authority = x509.AuthorityKeyIdentifier(_key_id(issuer_key.public_key()).digest, None, None)
    builder = (
        x509.CertificateBuilder(issuer, subject, key, _serial(subject, issuer, key, span), *span)
        .add_extension(_key_id(key), critical=False)
        .add_extension(authority, critical=False)
        .add_extension(x509.BasicConstraints(is_ca, path_length), critical=True)
        .add_extension(_SIGNS_CERTIFICATES if is_ca else _SIGNS_HANDSHAKES, critical=True)
    )
    if not is_ca:
        builder = builder.add_extension(_BOTH_SIDES, critical=False)
    if permitted is not None:
        builder = builder.add_extension(x509.NameConstraints([x509.DirectoryName(permitted)], None), critical=True)
    return builder.sign(issuer_key, None)


def from_der(der: bytes) -> x509.Certificate:
    """The certificate; one of INVALID when it is none of version 3. Its names are parsed, and may fail, on access."""
    if len(der) > MAX_SIZE:
        raise ValueError(f"a certificate of {len(der)} bytes")
    if der[-_SIGNATURE_SIZE - 1 : -_SIGNATURE_SIZE] != b"\0":
        raise ValueError(
            "not a signature of whole bytes: the library would let that pass, and one certificate have two spellings"
        )
    return _version_3(x509.load_der_x509_certificate(der))


def public_key(certificate: x509.Certificate) -> Ed25519PublicKey:
    """Its Ed25519 key; one of INVALID for any other."""
    key = certificate.public_key()
    if not isinstance(key, Ed25519PublicKey):
        raise ValueError("not an Ed25519 key")
    return key


def to_pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(Encoding.PEM).decode()


def from_pem(pem: str) -> x509.Certificate:
    """The first certificate in `pem`, read as `from_der` does."""
    return _version_3(x509.load_pem_x509_certificate(pem.encode()))


def key_to_pem(key: Ed25519PrivateKey) -> str:
    """PKCS #8, not encrypted."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def key_from_pem(pem: str) -> Ed25519PrivateKey:
    """The key in what `key_to_pem` made; one of INVALID for any other text."""
    key = load_pem_private_key(pem.encode(), password=None)
    if not isinstance(key, Ed25519PrivateKey):
        raise ValueError("not an Ed25519 private key")
    return key


def _version_3(certificate: x509.Certificate) -> x509.Certificate:
    if certificate.version is not x509.Version.v3:
        raise ValueError("not a certificate of version 3")
    return certificate


def _key_id(key: Ed25519PublicKey) -> x509.SubjectKeyIdentifier:
    return x509.SubjectKeyIdentifier(hashlib.sha256(key.public_bytes_raw()).digest()[:20])


def _serial(subject: x509.Name, issuer: x509.Name, key: Ed25519PublicKey, span: tuple[datetime, datetime]) -> int:
    """128 bits that differ whenever what is certified does."""
    stamps = "".join(moment.isoformat() for moment in span).encode()
    parts = (subject.public_bytes(), issuer.public_bytes(), key.public_bytes_raw(), stamps)
    return int.from_bytes(hashlib.sha256(b"".join(parts)).digest()[:16], "big")
