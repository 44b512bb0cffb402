"""The replicated set of documents signed by the operator: merge, digest, difference.

Of two documents with one (kind, name) the higher sequence wins, then the smaller hash: every ledger that has seen
the same documents, in whatever order, holds the same ones. Kinds this version does not know are kept and passed on.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Final

import msgspec

from gridnode import task_bounds
from gridnode.errors import LedgerError, SignatureInvalid
from gridnode.identity import public_key_of, sign, verify
from gridnode.model import Order, Release, TaskSpec

__all__ = [
    "Digest",
    "Document",
    "Key",
    "Ledger",
    "SealedSecret",
    "decode_digest",
    "decode_documents",
    "document_hash",
    "encode_digest",
    "encode_documents",
    "history_name",
    "newest",
    "open_order",
    "open_release",
    "open_sealed",
    "sign_document",
    "sign_order",
    "sign_release",
    "sign_secret",
    "verifier",
]

RELEASE: Final = "release"
CURRENT: Final = "current"
ORDER: Final = "order"
SECRET: Final = "secret"
MAX_SECRET: Final = 64 * 1024
MAX_HISTORY: Final = 50
"""Releases a ledger remembers besides the current one."""
MAX_INSTANCES: Final = 1024
MAX_DOCUMENTS: Final = 10_000
MAX_BODY: Final = 1024 * 1024
MAX_NAME: Final = 255
MAX_KIND: Final = 32
MAX_TOTAL: Final = 64 * 1024 * 1024
MAX_BATCH: Final = 4 * 1024 * 1024
MAX_SEQUENCE: Final = (1 << 53) - 1
MAX_TASKS: Final = 1000
_OVERHEAD: Final = 256
_CONTEXT: Final = b"ledger"
_KIND: Final = re.compile(r"[a-z][a-z0-9-]*")
_ROOT: Final = re.compile(r"[0-9a-f]{64}")
_TASK: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./-]{0,127}")

Key = tuple[str, str]
"""A document's (kind, name)."""
Digest = dict[Key, tuple[int, bytes]]
"""What a ledger holds: (kind, name) → (sequence, document_hash)."""


class Document(msgspec.Struct, frozen=True):
    """author: hex of the deploy public key; signature: by it, over every other field."""

    kind: str
    name: str
    sequence: int
    body: bytes
    author: str
    signature: bytes = b""


class SealedSecret(msgspec.Struct, frozen=True):
    """A secret's document. created: unix seconds; box: identity.seal_secret's."""

    created: int
    box: bytes


class _DigestEntry(msgspec.Struct, frozen=True, array_like=True):
    kind: str
    name: str
    sequence: int
    hash: bytes


_decode_documents = msgspec.msgpack.Decoder(list[Document]).decode
_decode_digest = msgspec.msgpack.Decoder(list[_DigestEntry]).decode
_decode_release = msgspec.msgpack.Decoder(Release).decode
_decode_sealed = msgspec.msgpack.Decoder(SealedSecret).decode
_decode_order = msgspec.msgpack.Decoder(Order).decode


class Ledger:
    """The documents one node holds, the winning one per (kind, name). It never goes back."""

    def __init__(self) -> None:
        self._documents: dict[Key, tuple[Document, bytes]] = {}

    def merge(self, documents: Iterable[Document], verified: Callable[[Document], bool]) -> list[Document]:
        """Accept the documents that win, and return them; one bad signature or bound refuses the whole batch."""
        won: dict[Key, tuple[Document, bytes]] = {}
        for document in documents:
            _check_bounds(document)
            key, digest = (document.kind, document.name), document_hash(document)
            held = won.get(key) or self._documents.get(key)
            if held and not _wins(document, digest, held):
                continue
            if not verified(document):
                raise SignatureInvalid(f"{document.kind} {document.name!r} is not signed by this grid's operator")
            won[key] = (document, digest)
        merged = self._documents | won
        if len(merged) > MAX_DOCUMENTS or sum(_size(document) for document, _ in merged.values()) > MAX_TOTAL:
            raise LedgerError(f"the ledger is full: {MAX_DOCUMENTS} documents, {MAX_TOTAL} bytes")
        self._documents = merged
        return [document for document, _ in won.values()]

    def digest(self) -> Digest:
        """What this ledger holds, for another to compare with."""
        return {key: (document.sequence, digest) for key, (document, digest) in self._documents.items()}

    def newer_than(self, digest: Digest, limit: int = MAX_BATCH) -> list[Document]:
        """The documents that win over what `digest` shows; past `limit` bytes the rest waits for the next exchange."""
        lacking: list[Document] = []
        size = 0
        for key, (document, own) in self._documents.items():
            sequence, theirs = digest.get(key, (0, b""))
            if document.sequence < sequence or (document.sequence == sequence and own >= theirs):
                continue
            size += _size(document)
            if lacking and size > limit:
                break
            lacking.append(document)
        return lacking

    def latest(self, kind: str, name: str) -> Document | None:
        """The document held under (kind, name)."""
        held = self._documents.get((kind, name))
        return held[0] if held else None

    def documents(self, kind: str = "") -> list[Document]:
        """Everything held, or all of one kind, for encode_documents and a file."""
        return [document for document, _ in self._documents.values() if kind in ("", document.kind)]


def document_hash(document: Document) -> bytes:
    """SHA-256 of what the signature covers, 32 bytes."""
    return hashlib.sha256(_canonical(document)).digest()


def verifier(deploy_public_key: bytes) -> Callable[[Document], bool]:
    """The check `merge` needs: signed by the holder of this raw Ed25519 key."""
    author = deploy_public_key.hex()

    def verified(document: Document) -> bool:
        signed = _canonical(document)
        return document.author == author and verify(deploy_public_key, _CONTEXT, signed, document.signature)

    return verified


def encode_documents(documents: Iterable[Document]) -> bytes:
    return msgspec.msgpack.encode(list(documents))


def decode_documents(raw: bytes, limit: int = MAX_TOTAL) -> list[Document]:
    """The documents in `raw`, each within its bounds, signatures unchecked; LedgerError when malformed."""
    if len(raw) > limit + _OVERHEAD * MAX_DOCUMENTS:
        raise LedgerError(f"{len(raw)} bytes of documents, at most {limit} allowed")
    try:
        documents = _decode_documents(raw)
    except (msgspec.MsgspecError, RecursionError) as exc:
        raise LedgerError(f"malformed documents: {exc}") from exc
    if len(documents) > MAX_DOCUMENTS:
        raise LedgerError(f"more than {MAX_DOCUMENTS} documents")
    for document in documents:
        _check_bounds(document)
    return documents


def newest(documents: Iterable[Document], limit: int = MAX_BATCH) -> list[Document]:
    """Those of the highest sequences first, as many as `limit` bytes hold."""
    chosen: list[Document] = []
    for document in sorted(documents, key=lambda document: -document.sequence):
        limit -= _size(document)
        if limit < 0:
            break
        chosen.append(document)
    return chosen


def encode_digest(digest: Digest) -> bytes:
    return msgspec.msgpack.encode([(*key, *value) for key, value in digest.items()])


def decode_digest(raw: bytes) -> Digest:
    """The Digest in `raw`; LedgerError when malformed."""
    try:
        entries = _decode_digest(raw)
    except (msgspec.MsgspecError, RecursionError) as exc:
        raise LedgerError(f"malformed digest: {exc}") from exc
    if len(entries) > MAX_DOCUMENTS:
        raise LedgerError(f"a digest of more than {MAX_DOCUMENTS} documents")
    return {(entry.kind, entry.name): (entry.sequence, entry.hash) for entry in entries}


def history_name(sequence: int) -> str:
    """Under which name a release stays known after another took over; names come round, so the ledger stays small."""
    return f"history-{sequence % MAX_HISTORY}"


def sign_release(deploy_key: bytes, release: Release, name: str = CURRENT) -> Document:
    """The ledger document of a release: the grid's current one, or under its history_name. deploy_key: Ed25519 seed."""
    _check_release(release)
    return _sign(deploy_key, RELEASE, name, release.sequence, msgspec.msgpack.encode(release))


def open_release(document: Document) -> Release:
    """The release in a verified document; LedgerError when it is no release or out of bounds."""
    if document.kind != RELEASE or document.name not in (CURRENT, history_name(document.sequence)):
        raise LedgerError(f"{document.kind} {document.name!r} is not a release")
    try:
        release = _decode_release(document.body)
    except (msgspec.MsgspecError, RecursionError) as exc:
        raise LedgerError(f"malformed release: {exc}") from exc
    if release.sequence != document.sequence:
        raise LedgerError(f"release {release.sequence} in a document of sequence {document.sequence}")
    _check_release(release)
    return release


def sign_order(deploy_key: bytes, task: str, order: Order, sequence: int) -> Document:
    """The ledger document of what an operator wants of a task file, by its name. deploy_key: Ed25519 seed."""
    _check_order(task, order)
    return _sign(deploy_key, ORDER, task, sequence, msgspec.msgpack.encode(order))


def open_order(document: Document) -> Order:
    """The order in a verified document, of the task file `document.name`; LedgerError when it is none."""
    if document.kind != ORDER:
        raise LedgerError(f"{document.kind} {document.name!r} is not an order")
    try:
        order = _decode_order(document.body)
    except (msgspec.MsgspecError, RecursionError) as exc:
        raise LedgerError(f"malformed order: {exc}") from exc
    _check_order(document.name, order)
    return order


def sign_secret(deploy_key: bytes, name: str, sealed: SealedSecret | None, sequence: int) -> Document:
    """The ledger document of a secret, or of its removal. deploy_key: Ed25519 seed."""
    document = _sign(deploy_key, SECRET, name, sequence, msgspec.msgpack.encode(sealed) if sealed else b"")
    open_sealed(document)
    return document


def open_sealed(document: Document) -> SealedSecret | None:
    """The sealed secret in a verified document, None for a removed one; LedgerError when it is no secret."""
    try:
        sealed = _decode_sealed(document.body) if document.body else None
    except (msgspec.MsgspecError, RecursionError) as exc:
        raise LedgerError(f"malformed secret: {exc}") from exc
    checks = {
        "kind": document.kind == SECRET,
        "name": task_bounds.is_secret(document.name),
        "created": sealed is None or 0 <= sealed.created <= MAX_SEQUENCE,
        "size": sealed is None or len(sealed.box) <= MAX_SECRET + _OVERHEAD,
    }
    _refuse(checks, f"secret {document.name[:64]!r}")
    return sealed


def sign_document(deploy_key: bytes, kind: str, name: str, sequence: int, body: bytes) -> Document:
    """A document of any kind, within its bounds. deploy_key: Ed25519 seed."""
    return _sign(deploy_key, kind, name, sequence, body)


def _sign(deploy_key: bytes, kind: str, name: str, sequence: int, body: bytes) -> Document:
    unsigned = Document(kind, name, sequence, body, public_key_of(deploy_key).hex())
    _check_bounds(unsigned, signed=False)
    return msgspec.structs.replace(unsigned, signature=sign(deploy_key, _CONTEXT, _canonical(unsigned)))


def _canonical(document: Document) -> bytes:
    return msgspec.msgpack.encode((document.kind, document.name, document.sequence, document.body, document.author))


def _wins(document: Document, digest: bytes, held: tuple[Document, bytes]) -> bool:
    return document.sequence > held[0].sequence or (document.sequence == held[0].sequence and digest < held[1])


def _size(document: Document) -> int:
    return len(document.body) + _OVERHEAD


def _check_bounds(document: Document, signed: bool = True) -> None:
    checks = {
        "kind": len(document.kind) <= MAX_KIND and _KIND.fullmatch(document.kind),
        "name": 0 < len(document.name.encode()) <= MAX_NAME,
        "sequence": 0 < document.sequence <= MAX_SEQUENCE,
        "body": len(document.body) <= MAX_BODY,
        "author": _ROOT.fullmatch(document.author),
        "signature": len(document.signature) == 64 or not signed,
    }
    _refuse(checks, "document")


def _check_release(release: Release) -> None:
    checks = {
        "project": 0 < len(release.project.encode()) <= MAX_NAME and release.project.isprintable(),
        "root": _ROOT.fullmatch(release.root),
        "sequence": 0 < release.sequence <= MAX_SEQUENCE,
        "created": 0 <= release.created <= MAX_SEQUENCE,
        "size": 0 <= release.size <= MAX_SEQUENCE,
        "files": 0 <= release.files <= MAX_SEQUENCE,
        "tasks": len(release.tasks) <= MAX_TASKS,
        "task names": len({task.name for task in release.tasks}) == len(release.tasks),
    }
    _refuse(checks, "release")
    for task in release.tasks:
        _check_task(task)


def _check_order(task: str, order: Order) -> None:
    checks = {
        "task": _TASK.fullmatch(task),
        "instances": order.instances is None or 0 <= order.instances <= MAX_INSTANCES,
        "restarts": 0 <= order.restarts <= MAX_SEQUENCE,
    }
    _refuse(checks, f"order for {task[:64]!r}")


def _check_task(task: TaskSpec) -> None:
    _refuse(dict.fromkeys(task_bounds.refused(task)), f"task {task.name[:64]!r}")


def _refuse(checks: Mapping[str, object], what: str) -> None:
    """LedgerError naming the checks that failed."""
    failed = [name for name, passed in checks.items() if not passed]
    if failed:
        raise LedgerError(f"{what} out of bounds: {', '.join(failed)}")
