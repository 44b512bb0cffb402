"""Keys that follow from a secret, and what is sealed with them: for all nodes of a grid, and nobody else. Pure."""

import struct
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

__all__ = ["DOMAIN", "KEY_SIZE", "NONCE_SIZE", "SEAL_WINDOW", "derive", "open_secret", "seal", "seal_secret", "unseal"]

DOMAIN: Final = b"gridcontrol/1 "
SEAL_WINDOW: Final = 3600
NONCE_SIZE: Final = 12
KEY_SIZE: Final = 32
_STAMP: Final = struct.Struct(">Q")


def derive(secret: bytes, purpose: str, size: int = KEY_SIZE) -> bytes:
    """What follows from a secret for one purpose; ValueError when the secret is short."""
    if len(secret) < KEY_SIZE:
        raise ValueError(f"a secret of at least {KEY_SIZE} bytes is needed, not {len(secret)}")
    return HKDF(hashes.SHA256(), size, salt=None, info=DOMAIN + purpose.encode()).derive(secret)


def seal(network_key: bytes, payload: bytes, now: float, nonce: bytes, context: bytes = b"mdns") -> bytes:
    """`payload` and its time, encrypted for this grid's nodes (+36 bytes). nonce: 12 random bytes, never reused."""
    stamped = _STAMP.pack(int(now * 1000)) + payload
    return nonce + ChaCha20Poly1305(network_key).encrypt(nonce, stamped, DOMAIN + b"seal " + context)


def unseal(
    network_key: bytes, sealed: bytes, now: float, context: bytes = b"mdns", window: float = SEAL_WINDOW
) -> bytes | None:
    """The payload, or None when it was not sealed with this key and context within `window` seconds of now."""
    nonce, box = sealed[:NONCE_SIZE], sealed[NONCE_SIZE:]
    if len(nonce) < NONCE_SIZE:
        return None
    try:
        stamped = ChaCha20Poly1305(network_key).decrypt(nonce, box, DOMAIN + b"seal " + context)
    except InvalidTag:
        return None
    if len(stamped) < _STAMP.size or abs(_STAMP.unpack_from(stamped)[0] / 1000 - now) > window:
        return None
    return stamped[_STAMP.size :]


def seal_secret(network_key: bytes, name: str, value: bytes, nonce: bytes) -> bytes:
    """A secret for this grid's nodes, good only under its name (+28 bytes). nonce: 12 random bytes, never reused."""
    return nonce + _secret_box(network_key).encrypt(nonce, value, DOMAIN + b"secret " + name.encode())


def open_secret(network_key: bytes, name: str, sealed: bytes) -> bytes | None:
    """The value, or None when it was not sealed with this key under this name."""
    nonce, box = sealed[:NONCE_SIZE], sealed[NONCE_SIZE:]
    if len(nonce) < NONCE_SIZE:
        return None
    try:
        return _secret_box(network_key).decrypt(nonce, box, DOMAIN + b"secret " + name.encode())
    except InvalidTag:
        return None


def _secret_box(network_key: bytes) -> ChaCha20Poly1305:
    return ChaCha20Poly1305(derive(network_key, "ledger secrets"))
