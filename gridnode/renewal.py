"""Cards that last longer: documents of the kind `renewal`, each a new certificate for the issuer that a card holds.

The key stays on its server, so what travels is public: nothing is sealed, and who sees it can do nothing with it. The
issuer's id stays too, so a revocation of its host covers what was renewed.
"""

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding

from gridnode import certificate
from gridnode.certificate import ORGANIZATIONAL_UNIT
from gridnode.errors import LedgerError, NotAuthenticated
from gridnode.gridfile import Card
from gridnode.identity import CLOCK_SKEW, Authority
from gridnode.ledger import Document, sign_document
from gridnode.model import Role

__all__ = ["RENEWAL", "issuer_id", "open_renewal", "renew_issuer", "renewed", "renewed_card", "sign_renewal"]

RENEWAL: Final = "renewal"


def issuer_id(pem: str) -> str:
    """The id of the issuer that a card holds; NotAuthenticated when it is none."""
    try:
        return certificate.common_name(certificate.from_pem(pem).subject)
    except certificate.INVALID as exc:
        raise NotAuthenticated("a node shows an issuer that cannot be read") from exc


def renew_issuer(authority: Authority, pem: str, now: float, ttl: float) -> bytes:
    """A certificate (DER) for the same issuer, key and role, good for `ttl` s; NotAuthenticated for a stranger's."""
    ca, ca_key = certificate.from_pem(authority.ca), Ed25519PrivateKey.from_private_bytes(authority.ca_key)
    permitted = certificate.name((ORGANIZATIONAL_UNIT, Role.NODE.value))
    try:
        issuer = certificate.from_pem(pem)
        issuer.verify_directly_issued_by(ca)
        certificate.common_name(issuer.subject)
        constraints = issuer.extensions.get_extension_for_class(x509.NameConstraints).value
        is_of_nodes = constraints == x509.NameConstraints([x509.DirectoryName(permitted)], None)
        key = certificate.public_key(issuer)
    except (*certificate.INVALID, x509.ExtensionNotFound) as exc:
        raise NotAuthenticated("a node shows an issuer that this grid did not make") from exc
    if not is_of_nodes:
        raise NotAuthenticated("a node shows an issuer that is not one of nodes")
    span = (_time(now - CLOCK_SKEW), _time(now + ttl))
    made = certificate.build(issuer.subject, ca.subject, key, ca_key, span, path_length=0, permitted=permitted)
    return made.public_bytes(Encoding.DER)


def renewed_card(card: Card, der: bytes) -> Card:
    """The card with this certificate for its issuer; the card itself when it is another's, or ends no later."""
    try:
        ours, theirs = certificate.from_pem(card.issuer), certificate.from_der(der)
        theirs.verify_directly_issued_by(certificate.from_pem(card.ca))
        same = ours.subject == theirs.subject and certificate.public_key(ours) == certificate.public_key(theirs)
    except certificate.INVALID:
        return card
    if not same or theirs.not_valid_after_utc <= ours.not_valid_after_utc:
        return card
    return replace(card, issuer=certificate.to_pem(theirs))


def renewed(card: Card, documents: Iterable[Document]) -> tuple[Card, bytes]:
    """The card with the certificate that the ledger has for its issuer, and that in DER; nothing when there is none."""
    name = issuer_id(card.issuer)
    for document in documents:
        if document.name == name:
            der = open_renewal(document)
            later = renewed_card(card, der)
            return later, der if later is not card else b""
    return card, b""


def sign_renewal(deploy_key: bytes, der: bytes, sequence: int) -> Document:
    """The ledger document, named by the issuer's id. deploy_key: Ed25519 seed."""
    document = sign_document(deploy_key, RENEWAL, _name_of(der), sequence, der)
    open_renewal(document)
    return document


def open_renewal(document: Document) -> bytes:
    """The certificate (DER) in a verified document; LedgerError when it is none of an issuer so named."""
    if document.kind != RENEWAL or len(document.body) > certificate.MAX_SIZE:
        raise LedgerError(f"{document.kind} {document.name[:64]!r} is not a renewal")
    if _name_of(document.body) != document.name:
        raise LedgerError(f"the renewal {document.name[:64]!r} is of another issuer")
    return document.body


def _name_of(der: bytes) -> str:
    try:
        return certificate.common_name(certificate.from_der(der).subject)
    except certificate.INVALID as exc:
        raise LedgerError("a renewal that holds no certificate of an issuer") from exc


def _time(now: float) -> datetime:
    return datetime.fromtimestamp(int(now), UTC)
