"""Small files that must survive a crash whole, and the node's own key among them."""

import os
import secrets
from pathlib import Path

from gridnode.errors import CardInvalid

KEY_SIZE = 32


def node_key(path: Path) -> bytes:
    """The node's Ed25519 seed, made at first boot; CardInvalid when the file is damaged."""
    try:
        key = path.read_bytes()
    except FileNotFoundError:
        key = secrets.token_bytes(KEY_SIZE)
        write_durably(path, key)
    if len(key) != KEY_SIZE:
        raise CardInvalid(f"{path} is damaged", hint="remove it: the node makes a new key, and is a new node")
    return key


def write_durably(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Replace the file atomically: written aside, fsynced, renamed."""
    aside = path.with_name(f".{path.name}.new")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    finally:
        aside.unlink(missing_ok=True)
