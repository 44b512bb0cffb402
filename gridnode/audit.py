"""Who changed what: documents of the kind `audit`, each put with the change it tells of; MAX_ENTRIES are kept."""

from typing import Final

import msgspec

from gridnode.errors import LedgerError
from gridnode.ledger import MAX_KIND, MAX_NAME, Document, sign_document

__all__ = ["AUDIT", "MAX_ENTRIES", "AuditEntry", "check_pair", "open_audit", "sign_audit"]

AUDIT: Final = "audit"
MAX_ENTRIES: Final = 500
MAX_TEXT: Final = 255


class AuditEntry(msgspec.Struct, frozen=True):
    """at: unix seconds; by: user@host, as gridctl was told there; source: the address the node saw, empty for its own.

    kind, name, number: of the document that was put, its sequence.
    """

    at: int
    by: str
    source: str
    kind: str
    name: str
    number: int


_decode = msgspec.msgpack.Decoder(AuditEntry).decode


def sign_audit(deploy_key: bytes, entry: AuditEntry, sequence: int) -> Document:
    """The ledger document of an entry; its name comes round, so the ledger stays small. deploy_key: Ed25519 seed."""
    document = sign_document(deploy_key, AUDIT, _name(sequence), sequence, msgspec.msgpack.encode(entry))
    open_audit(document)
    return document


def open_audit(document: Document) -> AuditEntry:
    """The entry in a verified document; LedgerError when it is none."""
    if document.kind != AUDIT or document.name != _name(document.sequence):
        raise LedgerError(f"{document.kind} {document.name[:64]!r} is not an audit entry")
    try:
        entry = _decode(document.body)
    except (msgspec.MsgspecError, RecursionError) as exc:
        raise LedgerError(f"malformed audit entry: {exc}") from exc
    texts = (entry.by, entry.source, entry.name)
    sound = all(len(text) <= MAX_TEXT and (text + "x").isprintable() for text in texts)
    if not sound or len(entry.kind) > MAX_KIND or not (0 <= entry.at < 1 << 53 and 0 < entry.number < 1 << 53):
        raise LedgerError(f"audit entry {document.sequence} out of bounds")
    return entry


def check_pair(document: Document, audit: Document | None) -> None:
    """LedgerError unless the second document is an entry that tells of the first, or there is none."""
    if document.kind == AUDIT:
        raise LedgerError("an audit entry goes with the change that it tells of")
    if audit:
        entry = open_audit(audit)
        if (entry.kind, entry.name, entry.number) != (document.kind, document.name[:MAX_NAME], document.sequence):
            raise LedgerError("the audit entry tells of another change")


def _name(sequence: int) -> str:
    return f"entry-{sequence % MAX_ENTRIES}"
