"""Container images in the ledger: documents of the kind `image`, each named by the reference that tasks may name."""

import re
from typing import Final

import msgspec

from gridnode.errors import LedgerError
from gridnode.ledger import Document, sign_document
from gridnode.model import Image

__all__ = ["IMAGE", "MAX_BY", "canonical", "open_image", "sign_image"]

IMAGE: Final = "image"
"""Kind of the ledger documents."""
MAX_BY: Final = 255
_HEX: Final = re.compile(r"[0-9a-f]{64}")
_ID: Final = re.compile(r"(?:sha256:)?[0-9a-f]{64}")
_PART: Final = r"[a-z0-9]+(?:(?:\.|_{1,2}|-+)[a-z0-9]+)*"
_REFERENCE: Final = re.compile(
    rf"(?P<repository>(?:[a-z0-9.-]+:[0-9]{{1,5}}/)?{_PART}(?:/{_PART})*)(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{{0,127}}))?"
)
_HUB: Final = ("docker.io/library/", "docker.io/")

_decode_image = msgspec.msgpack.Decoder(Image).decode


def canonical(reference: str) -> str | None:
    """The reference with its tag, as grid and nodes know the image by; None for an id, a digest and garbage."""
    for prefix in _HUB:
        reference = reference.removeprefix(prefix)
    found = _REFERENCE.fullmatch(reference) if len(reference) <= 240 else None
    if found is None or _ID.fullmatch(reference):
        return None
    return f"{found['repository']}:{found['tag'] or 'latest'}"


def sign_image(deploy_key: bytes, name: str, image: Image | None, sequence: int) -> Document:
    """The ledger document of an image, or of its removal. name: canonical; deploy_key: Ed25519 seed."""
    body = msgspec.msgpack.encode(image) if image else b""
    document = sign_document(deploy_key, IMAGE, name, sequence, body)
    open_image(document)
    return document


def open_image(document: Document) -> Image | None:
    """The image in a verified document, None for a removed one; LedgerError when it is no image."""
    if document.kind != IMAGE or canonical(document.name) != document.name:
        raise LedgerError(f"{document.kind} {document.name[:64]!r} is not an image")
    try:
        image = _decode_image(document.body) if document.body else None
    except (msgspec.MsgspecError, RecursionError) as exc:
        raise LedgerError(f"malformed image: {exc}") from exc
    if image and not _is_sound(image):
        raise LedgerError(f"image {document.name[:64]!r} out of bounds")
    return image


def _is_sound(image: Image) -> bool:
    hashes = all(_HEX.fullmatch(text) for text in (image.id, image.manifest, image.root))
    counts = 0 < image.size < 1 << 53 and 0 <= image.created < 1 << 53
    return hashes and counts and len(image.by) <= MAX_BY and (image.by == "" or image.by.isprintable())
