"""The replicated set of documents signed by the operator: merge, digest, difference.

Of two documents with one (kind, name) the higher sequence wins, then the smaller hash: every ledger that has seen
the same documents, in whatever order, holds the same ones. Kinds this version does not know are kept and passed on.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Final

import msgspec

from gridnode.errors import LedgerError, SignatureInvalid
from gridnode.identity import public_key_of, sign, verify
from gridnode.model import Release, TaskSpec

__all__ = [
    "Digest",
    "Document",
    "Key",
    "Ledger",
    "decode_digest",
    "decode_documents",
    "document_hash",
    "encode_digest",
    "encode_documents",
    "open_release",
    "sign_release",
    "verifier",
]

RELEASE: Final = "release"
CURRENT: Final = "current"
MAX_DOCUMENTS: Final = 10_000
MAX_BODY: Final = 1024 * 1024
MAX_NAME: Final = 255
MAX_KIND: Final = 32
MAX_TOTAL: Final = 64 * 1024 * 1024
MAX_BATCH: Final = 4 * 1024 * 1024
MAX_SEQUENCE: Final = (1 << 53) - 1
MAX_TASKS: Final = 1000
MEMORY_RANGE: Final = (8 * 1024 * 1024, 1 << 40)
CPU_RANGE: Final = (0.01, 1024.0)
TIMEOUT_RANGE: Final = (0.001, 86_400.0)
_OVERHEAD: Final = 256
_CONTEXT: Final = b"ledger"
_KIND: Final = re.compile(r"[a-z][a-z0-9-]*")
_ROOT: Final = re.compile(r"[0-9a-f]{64}")
_TASK: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./-]{0,127}")
_RUNTIME: Final = re.compile(r"[a-z][a-z0-9_-]{0,31}")

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


class _DigestEntry(msgspec.Struct, frozen=True, array_like=True):
    kind: str
    name: str
    sequence: int
    hash: bytes


_decode_documents = msgspec.msgpack.Decoder(list[Document]).decode
_decode_digest = msgspec.msgpack.Decoder(list[_DigestEntry]).decode
_decode_release = msgspec.msgpack.Decoder(Release).decode


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

    def documents(self) -> list[Document]:
        """Everything held, for encode_documents and a file."""
        return [document for document, _ in self._documents.values()]


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


def sign_release(deploy_key: bytes, release: Release) -> Document:
    """The ledger document of a release, the grid's current one. deploy_key: Ed25519 seed."""
    _check_release(release)
    author = public_key_of(deploy_key).hex()
    body = msgspec.msgpack.encode(release)
    unsigned = Document(RELEASE, CURRENT, release.sequence, body, author)
    _check_bounds(unsigned, signed=False)
    return msgspec.structs.replace(unsigned, signature=sign(deploy_key, _CONTEXT, _canonical(unsigned)))


def open_release(document: Document) -> Release:
    """The release in a verified document; LedgerError when it is no release or out of bounds."""
    if (document.kind, document.name) != (RELEASE, CURRENT):
        raise LedgerError(f"{document.kind} {document.name!r} is not a release")
    try:
        release = _decode_release(document.body)
    except (msgspec.MsgspecError, RecursionError) as exc:
        raise LedgerError(f"malformed release: {exc}") from exc
    if release.sequence != document.sequence:
        raise LedgerError(f"release {release.sequence} in a document of sequence {document.sequence}")
    _check_release(release)
    return release


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


def _check_task(task: TaskSpec) -> None:
    checks = {
        "name": _TASK.fullmatch(task.name),
        "file": _is_task_file(task.file),
        "runtime": _RUNTIME.fullmatch(task.runtime),
        "memory": MEMORY_RANGE[0] <= task.memory <= MEMORY_RANGE[1],
        "cpu": CPU_RANGE[0] <= task.cpu <= CPU_RANGE[1],
        "timeout": TIMEOUT_RANGE[0] <= task.timeout <= TIMEOUT_RANGE[1],
    }
    _refuse(checks, f"task {task.name[:64]!r}")


def _is_task_file(path: str) -> bool:
    parts = path.split("/")
    plain = all(part not in {"", ".", ".."} and len(part.encode()) <= MAX_NAME for part in parts)
    return plain and len(parts) > 1 and parts[0] == "tasks" and len(path) <= 1024 and path.isprintable()


def _refuse(checks: Mapping[str, object], what: str) -> None:
    """LedgerError naming the checks that failed."""
    failed = [name for name, passed in checks.items() if not passed]
    if failed:
        raise LedgerError(f"{what} out of bounds: {', '.join(failed)}")
