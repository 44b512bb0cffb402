"""Servers and addresses as a Gridfile writes them: text in, checked frozen types out."""

import re
from dataclasses import dataclass
from typing import Final

from gridnode.model import Address

__all__ = ["LINK_PORT", "SSH_PORT", "Server", "parse_address", "parse_host_key", "parse_server"]

LINK_PORT: Final = 7400
SSH_PORT: Final = 22
_USER: Final = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}"
_HOST: Final = r"\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9][A-Za-z0-9._-]{0,252}"
_SERVER: Final = re.compile(rf"(?:({_USER})@)?({_HOST})(?::([0-9]{{1,5}}))?")
_HOST_KEY: Final = re.compile(r"[a-z0-9][a-z0-9@.-]{2,63} [A-Za-z0-9+/]{40,4096}={0,2}")


@dataclass(frozen=True, slots=True)
class Server:
    """One server of the Gridfile, reached by SSH; no user means SSH's own default."""

    host: str
    user: str | None = None
    port: int = SSH_PORT

    def __str__(self) -> str:
        user = f"{self.user}@" if self.user else ""
        return user + self.place

    @property
    def place(self) -> str:
        """Where its SSH server listens: `host`, or `host:port` when that is not 22."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host + (f":{self.port}" if self.port != SSH_PORT else "")


def parse_server(text: str) -> Server | None:
    """`user@host`, `user@host:port`, `host` or `host:port` (IPv6 in brackets); None when it is neither."""
    match = _SERVER.fullmatch(text)
    if not match:
        return None
    port = int(match[3]) if match[3] else SSH_PORT
    return Server(match[2].strip("[]"), match[1], port) if 0 < port < 65536 else None


def parse_address(text: str) -> Address | None:
    """`host` or `host:port` (IPv6 in brackets), port 7400 when not given; None when it is neither."""
    match = _SERVER.fullmatch(text)
    if not match or match[1]:
        return None
    port = int(match[3]) if match[3] else LINK_PORT
    return Address(match[2].strip("[]"), port) if 0 < port < 65536 else None


def parse_host_key(text: str) -> str | None:
    """A public key of an SSH server, `ssh-ed25519 AAAA...` without a comment; None for any other text."""
    return text if _HOST_KEY.fullmatch(text) else None
