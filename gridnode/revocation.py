"""Whom the grid shuts out: documents of the kind `revocation`, each named by the host_prefix of a server or a user.

An issuer's id says for whom and when it was minted: a revocation covers those minted until it was made, so that a card
minted later, for the same server under new management, is good.
"""

import re
from collections.abc import Iterable
from typing import Final

import msgspec

from gridnode.errors import LedgerError
from gridnode.ledger import Document, sign_document

__all__ = ["REVOCATION", "Revocation", "Revocations", "minted_at", "open_revocation", "sign_revocation"]

REVOCATION: Final = "revocation"
MAX_TEXT: Final = 255
_PREFIX: Final = re.compile(r"[0-9a-f]{12}")
_ISSUER: Final = re.compile(r"(?P<prefix>[0-9a-f]{12})-(?:(?P<minted>[0-9a-f]{1,12})-)?[0-9a-f]{8}")


class Revocation(msgspec.Struct, frozen=True):
    """until: unix seconds, whatever was minted by then is shut out. what: for people, a host or `user/NAME`."""

    until: int
    what: str = ""
    by: str = ""


_decode = msgspec.msgpack.Decoder(Revocation).decode


class Revocations:
    """Those that a ledger holds."""

    def __init__(self) -> None:
        self._until: dict[str, int] = {}

    def follow(self, documents: Iterable[Document]) -> list[Document]:
        """Take what the ledger holds; the documents that this version cannot read come back."""
        unreadable = []
        for document in documents:
            try:
                self._until[document.name] = open_revocation(document).until
            except LedgerError:
                unreadable.append(document)
        return unreadable

    def cover(self, issuer: str) -> bool:
        """Whether what this issuer signed is shut out. Of one in an older form its time is not known: it is."""
        found = _ISSUER.fullmatch(issuer)
        until = self._until.get(found["prefix"]) if found else None
        return until is not None and minted_at(issuer) <= until


def minted_at(issuer: str) -> int:
    """When an issuer was minted, unix seconds; 0 when its id does not say."""
    found = _ISSUER.fullmatch(issuer)
    return int(found["minted"], 16) if found and found["minted"] else 0


def sign_revocation(deploy_key: bytes, prefix: str, revocation: Revocation, sequence: int) -> Document:
    """The ledger document that shuts out a host_prefix. deploy_key: Ed25519 seed."""
    document = sign_document(deploy_key, REVOCATION, prefix, sequence, msgspec.msgpack.encode(revocation))
    open_revocation(document)
    return document


def open_revocation(document: Document) -> Revocation:
    """The revocation in a verified document; LedgerError when it is none."""
    if document.kind != REVOCATION or not _PREFIX.fullmatch(document.name):
        raise LedgerError(f"{document.kind} {document.name[:64]!r} is not a revocation")
    try:
        revocation = _decode(document.body)
    except (msgspec.MsgspecError, RecursionError) as exc:
        raise LedgerError(f"malformed revocation: {exc}") from exc
    texts = (revocation.what, revocation.by)
    if not 0 < revocation.until < 1 << 53 or any(len(one) > MAX_TEXT or not (one + "x").isprintable() for one in texts):
        raise LedgerError(f"revocation {document.name!r} out of bounds")
    return revocation
