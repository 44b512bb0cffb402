"""The listening end of links: so many that have proven nothing yet, and not one more."""

import asyncio
import errno
import socket
import ssl
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial

import structlog

__all__ = ["Door"]

log = structlog.get_logger()

MAX_UNPROVEN = 256
MAX_OF_ONE_HOST = 64
_AT_ONCE = 16
_BACKLOG = 256
_NO_ROOM = 0.1
_UNSENT = 128 * 1024
"""Bytes the kernel takes ahead of what it can send; the rest waits where it can still be put in order."""


class Door:
    """Accepts on a host and port from the start; raises OSError. timeout: seconds a handshake may take.

    A connection is unproven until its TLS handshake is done. Past the bound of one host the newest goes, past that of
    all the oldest: who connects and says nothing takes neither memory nor others' place for long.
    """

    def __init__(
        self, host: str, port: int, new: Callable[[], asyncio.BaseProtocol], context: ssl.SSLContext, timeout: float
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._new = new
        self._context = context
        self._timeout = timeout
        self._unproven: dict[asyncio.Task[None], str] = {}
        self._hosts: Counter[str] = Counter()
        self._resuming: dict[socket.socket, asyncio.TimerHandle] = {}
        self._sockets = list(_listen(host, port))
        for listening in self._sockets:
            self._loop.add_reader(listening.fileno(), self._accept, listening)

    @property
    def port(self) -> int:
        return int(self._sockets[0].getsockname()[1])

    def close(self) -> None:
        """Accept no more, and drop what is unproven."""
        for timer in self._resuming.values():
            timer.cancel()
        for listening in self._sockets:
            self._loop.remove_reader(listening.fileno())
            listening.close()
        self._sockets.clear()
        for job in self._unproven:
            job.cancel()

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(_AT_ONCE):
            try:
                connection, sender = listening.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as exc:  # no descriptors left, as a rule
                log.warning("a connection could not be accepted", error=str(exc))
                self._loop.remove_reader(listening.fileno())
                self._resuming[listening] = self._loop.call_later(_NO_ROOM, self._resume, listening)
                return
            self._admit(connection, sender[0])

    def _resume(self, listening: socket.socket) -> None:
        del self._resuming[listening]
        self._loop.add_reader(listening.fileno(), self._accept, listening)

    def _admit(self, connection: socket.socket, host: str) -> None:
        if self._hosts[host] >= MAX_OF_ONE_HOST:
            connection.close()
            return
        if len(self._unproven) >= MAX_UNPROVEN:
            next(iter(self._unproven)).cancel()
        connection.setblocking(False)
        job = self._loop.create_task(self._prove(connection, host), name="handshake")
        self._unproven[job] = host
        self._hosts[host] += 1
        job.add_done_callback(partial(self._ended, connection))

    async def _prove(self, connection: socket.socket, host: str) -> None:
        try:
            await self._loop.connect_accepted_socket(
                self._new,
                connection,
                ssl=self._context,
                ssl_handshake_timeout=self._timeout,
                ssl_shutdown_timeout=1.0,
            )
        except (OSError, ValueError) as exc:
            log.debug("nobody of the grid", host=host, error=str(exc))

    def _ended(self, connection: socket.socket, job: asyncio.Task[None]) -> None:
        host = self._unproven.pop(job)
        self._hosts[host] -= 1
        if not self._hosts[host]:
            del self._hosts[host]
        if job.cancelled():
            connection.close()


def _listen(host: str, port: int) -> Iterator[socket.socket]:
    """Every address, IPv4 and IPv6, when the host is empty."""
    if not host:
        try:
            yield _open(socket.AF_INET6, ("::", port), dual=socket.has_dualstack_ipv6())
        except OSError as exc:
            if exc.errno == errno.EADDRINUSE:
                raise
            yield _open(socket.AF_INET, ("0.0.0.0", port))
        return
    rows = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    yield _open(rows[0][0], (str(rows[0][4][0]), port))


def _open(family: int, address: tuple[str, int], dual: bool = False) -> socket.socket:
    opened = socket.create_server(address, family=family, backlog=_BACKLOG, dualstack_ipv6=dual)
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT)  # links inherit it
    opened.setblocking(False)
    return opened
