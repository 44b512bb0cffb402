"""Directories that the grid keeps for tasks, in the ledger: documents of the kind `files`, named as tasks name them."""

import re
from typing import Final

import msgspec

from gridnode.errors import LedgerError
from gridnode.ledger import Document, sign_document
from gridnode.model import FileSet
from gridnode.task_bounds import is_files

__all__ = ["FILES", "open_files", "sign_files"]

FILES: Final = "files"
"""Kind of the ledger documents."""
MAX_BY: Final = 255
_ROOT: Final = re.compile(r"[0-9a-f]{64}")

_decode = msgspec.msgpack.Decoder(FileSet).decode


def sign_files(deploy_key: bytes, name: str, files: FileSet | None, sequence: int) -> Document:
    """The ledger document of a directory, or of its removal. deploy_key: Ed25519 seed."""
    document = sign_document(deploy_key, FILES, name, sequence, msgspec.msgpack.encode(files) if files else b"")
    open_files(document)
    return document


def open_files(document: Document) -> FileSet | None:
    """The directory in a verified document, None for a removed one; LedgerError when it is none."""
    if document.kind != FILES or not is_files(document.name):
        raise LedgerError(f"{document.kind} {document.name[:64]!r} is no directory of files")
    try:
        files = _decode(document.body) if document.body else None
    except (msgspec.MsgspecError, RecursionError) as exc:
        raise LedgerError(f"malformed files: {exc}") from exc
    if files and not _is_sound(files):
        raise LedgerError(f"files {document.name[:64]!r} out of bounds")
    return files


def _is_sound(files: FileSet) -> bool:
    counts = all(0 <= number < 1 << 53 for number in (files.size, files.count, files.created))
    return bool(_ROOT.fullmatch(files.root)) and counts and len(files.by) <= MAX_BY and (files.by + "x").isprintable()
