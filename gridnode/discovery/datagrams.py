"""A UDP socket, IPv4 and IPv6, that reads no more than it is allowed to: in a flood the kernel drops the rest."""

import asyncio
import contextlib
import socket
from collections.abc import Callable

from gridnode.discovery.rate import TokenBucket
from gridnode.discovery.sealed import MAX_DATAGRAM

__all__ = ["DatagramSocket"]

Contact = tuple[str, int]
_RATE, _BURST = 2000.0, 1000.0
"""Datagrams read a second: a few hundredths of a core, whatever comes."""
_AT_ONCE = 32
_PAUSE = 0.05
_MAPPED = "::ffff:"


class DatagramSocket:
    """Open from the first moment; `on_datagram` gets all that is read. Raises OSError when nobody can listen there."""

    def __init__(self, host: str, port: int, on_datagram: Callable[[bytes, Contact], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_datagram = on_datagram
        self._bucket = TokenBucket(_RATE, _BURST)
        self._resuming: asyncio.TimerHandle | None = None
        self._socket = _open(host, port)
        self._loop.add_reader(self._socket.fileno(), self._read)

    @property
    def port(self) -> int:
        return int(self._socket.getsockname()[1])

    def reaches(self, host: str) -> bool:
        """Whether the socket speaks to addresses of this kind."""
        return self._socket.family == socket.AF_INET6 or ":" not in host

    def send(self, datagram: bytes, to: Contact) -> None:
        """Send, or not: as with every datagram, only an answer tells."""
        host, port = to
        if self._socket.family == socket.AF_INET6 and ":" not in host:
            host = _MAPPED + host
        with contextlib.suppress(OSError):
            self._socket.sendto(datagram, (host, port))

    def close(self) -> None:
        if self._resuming:
            self._resuming.cancel()
        self._loop.remove_reader(self._socket.fileno())
        self._socket.close()

    def _read(self) -> None:
        for _ in range(_AT_ONCE):
            if not self._bucket.take(self._loop.time()):
                self._loop.remove_reader(self._socket.fileno())
                self._resuming = self._loop.call_later(_PAUSE, self._resume)
                return
            try:
                datagram, sender = self._socket.recvfrom(MAX_DATAGRAM + 1)
            except OSError:
                return
            self._on_datagram(datagram, (sender[0].removeprefix(_MAPPED), sender[1]))

    def _resume(self) -> None:
        self._resuming = None
        self._loop.add_reader(self._socket.fileno(), self._read)


def _open(host: str, port: int) -> socket.socket:
    if host:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM, flags=socket.AI_PASSIVE)
        return _bind(found[0][0], found[0][4])
    try:
        return _bind(socket.AF_INET6, ("::", port))
    except OSError:
        return _bind(socket.AF_INET, ("0.0.0.0", port))


def _bind(family: int, address: object) -> socket.socket:
    opened = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    try:
        opened.setblocking(False)
        if family == socket.AF_INET6:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        opened.bind(address)  # type: ignore[arg-type]
    except OSError:
        opened.close()
        raise
    return opened
