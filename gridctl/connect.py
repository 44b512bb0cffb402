"""One link to whichever node of the grid answers first."""

import asyncio
import contextlib
import socket
import ssl
import threading
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

from gridctl.subscription import Inbox
from gridnode import messages, wire
from gridnode.errors import Forbidden, FrameInvalid, GridError, LinkClosed, NotAuthenticated
from gridnode.identity import PeerIdentity
from gridnode.link import LinkLimits
from gridnode.link.client import dial, dial_local, dial_through
from gridnode.link.protocol import Link
from gridnode.link.tls import peer_identity
from gridnode.messages import MAX_TEXT, Hello
from gridnode.model import Address, NodeRecord, Role
from gridnode.wire import Frame, Op

__all__ = ["ClientEnd", "connect", "connect_local", "first", "through"]

Opener = Callable[[Address], Awaitable[tuple[Link, "ClientEnd"]]]
"""Opens a link to an address; raises a GridError."""

PATIENCE = 3.0
"""Seconds for all addresses together."""
STAGGER = 0.15
"""Seconds after which the next address is tried while the ones before it have not answered."""
_LIMITS = LinkLimits(max_events=50_000)
"""A node sends each subscription up to 500 batches of events a second."""


class ClientEnd:
    """Our end of a link to a node: we ask, it answers. record: what the node said of itself.

    seen: the address at which the node sees us. via: `direct` or `ssh`.
    inboxes: where events go, by the name they come under.
    on_closed: told when a link that was open has gone. on_leave: told when its node is about to go.
    local: the other end is a socket of this machine, which shows no certificate.
    """

    def __init__(self, local: bool = False) -> None:
        self.record: NodeRecord | None = None
        self.seen = ""
        self.via = "direct"
        self.on_closed: Callable[[GridError | None], None] = lambda error: None
        self.on_leave: Callable[[], None] = lambda: None
        self._local = local
        self.inboxes: dict[str, Inbox] = {}

    def hello(self, link: Link) -> bytes:
        return messages.encode_hello(Hello(wire.VERSION))

    def opened(self, link: Link, body: bytes) -> None:
        hello = messages.decode_hello(body)
        if hello.version != wire.VERSION:
            raise FrameInvalid(f"the node speaks wire version {hello.version}, this gridctl {wire.VERSION}")
        if not self._local and (link.peer is None or link.peer.role is not Role.NODE):
            raise NotAuthenticated("what answers there is not a node")
        self.record = hello.record
        self.seen = hello.seen if len(hello.seen) <= MAX_TEXT and hello.seen.isprintable() else ""

    def called(self, link: Link, frame: Frame) -> None:
        raise Forbidden("no calls on this link")

    def heard(self, link: Link, frame: Frame) -> None:
        if frame.op == Op.LEAVE:
            self.on_leave()
        inbox = self.inboxes.get(frame.name) if frame.op == Op.EVENTS else None
        if inbox:
            inbox.take(frame.body)

    def closed(self, link: Link, error: GridError | None) -> None:
        self.on_closed(error)


async def connect(addresses: Sequence[Address], context: ssl.SSLContext) -> tuple[Link, ClientEnd]:
    """The first open link; NotAuthenticated when a node refused us, else LinkClosed, naming every address tried."""
    if not addresses:
        raise LinkClosed("no address to connect to", hint="list the grid's servers, or `seeds`, in the Gridfile")
    winner, failures = await first(addresses, partial(_to_port, context), STAGGER, PATIENCE)
    if winner:
        return winner
    raise _nobody(failures, addresses)


async def first(
    addresses: Sequence[Address], opener: Opener, stagger: float, patience: float
) -> tuple[tuple[Link, ClientEnd] | None, dict[Address, GridError]]:
    """The first link that opens within `patience` seconds, if any, and why others did not."""
    race = _Race(opener, stagger)
    winner = None
    try:
        async with asyncio.timeout(patience):
            winner = await race.run(addresses)
    except TimeoutError:
        pass
    finally:
        await race.stop()
    return winner, race.failures


async def connect_local(path: Path) -> tuple[Link, ClientEnd]:
    """A link to the node of this machine over its socket; Forbidden where we may not open it, else LinkClosed."""
    end = ClientEnd(local=True)
    link = await dial_local(path, end, _LIMITS)
    try:
        async with asyncio.timeout(PATIENCE):
            await link.wait_open()
    except TimeoutError as exc:
        link.abort(LinkClosed("no hello"))
        raise LinkClosed(f"{path}: no answer within {PATIENCE:g} s") from exc
    except BaseException:
        link.close()
        raise
    return link, end


class _Race:
    """Tries addresses in order, each a little after the one before, or at once when that one has failed."""

    def __init__(self, opener: Opener, stagger: float) -> None:
        self.failures: dict[Address, GridError] = {}
        self._opener = opener
        self._stagger = stagger
        self._tries: dict[asyncio.Task[tuple[Link, ClientEnd]], Address] = {}

    async def run(self, addresses: Iterable[Address]) -> tuple[Link, ClientEnd] | None:
        waiting = iter(addresses)
        left = True
        while left or self._tries:
            address = next(waiting, None)
            left = address is not None
            if address:
                self._tries[asyncio.ensure_future(self._opener(address))] = address
            if not self._tries:
                break
            done, _ = await asyncio.wait(
                self._tries, timeout=self._stagger if left else None, return_when=asyncio.FIRST_COMPLETED
            )
            for job in done:
                won = self._settle(job)
                if won:
                    return won
        return None

    def _settle(self, job: asyncio.Task[tuple[Link, ClientEnd]]) -> tuple[Link, ClientEnd] | None:
        address = self._tries.pop(job)
        error = job.exception()
        if error is None:
            return job.result()
        if not isinstance(error, GridError):
            raise error
        self.failures[address] = error
        return None

    async def stop(self) -> None:
        """Give up what is still under way, and close links that came second."""
        for job in self._tries:
            job.cancel()
        for outcome in await asyncio.gather(*self._tries, return_exceptions=True):
            if isinstance(outcome, tuple):
                outcome[0].close()


async def _to_port(context: ssl.SSLContext, address: Address) -> tuple[Link, ClientEnd]:
    error: GridError = LinkClosed(f"{address}: no such host")
    for found in await _resolve(address):
        try:
            return await _opened(found, partial(_dial, found, context))
        except GridError as exc:
            error = error if isinstance(error, NotAuthenticated) else exc
    raise error


async def through(path: Path, address: Address, context: ssl.SSLContext) -> tuple[Link, ClientEnd]:
    """An open link to the node at `address` through a socket of this machine; raises a GridError."""
    return await _opened(address, lambda end: dial_through(path, address, end, context, _identify, _LIMITS))


async def _opened(address: Address, dialled: Callable[[ClientEnd], Awaitable[Link]]) -> tuple[Link, ClientEnd]:
    end = ClientEnd()
    link = await dialled(end)
    try:
        await link.wait_open()
    except LinkClosed as exc:  # a node that refuses a certificate hangs up without a word, after our handshake
        raise NotAuthenticated(
            f"{address}: it does not accept this Gridfile's certificate, or is just stopping"
        ) from exc
    except BaseException:
        link.close()
        raise
    return link, end


def _dial(address: Address, context: ssl.SSLContext, end: ClientEnd) -> Awaitable[Link]:
    return dial(address, end, context, _identify, _LIMITS)


def _identify(transport: asyncio.BaseTransport) -> PeerIdentity:
    return peer_identity(transport.get_extra_info("ssl_object"))


async def _resolve(address: Address) -> list[Address]:
    """The host's addresses. In a thread of its own, which nobody joins: a slow DNS server would hold up the exit."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[list[Address]] = loop.create_future()

    def settle(found: list[Address], error: OSError | None) -> None:
        if not answer.done() and error:
            answer.set_exception(LinkClosed(f"{address}: {error.strerror or error}"))
        elif not answer.done():
            answer.set_result(found)

    def look_up() -> None:
        found, error = [], None
        try:
            entries = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
            found = [Address(str(entry[4][0]), address.port) for entry in entries]
        except OSError as exc:
            error = exc
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, found, error)

    if _is_literal(address.host):
        return [address]
    threading.Thread(target=look_up, name="resolve", daemon=True).start()
    return await answer


def _is_literal(host: str) -> bool:
    for family in (socket.AF_INET, socket.AF_INET6):
        with contextlib.suppress(OSError):
            socket.inet_pton(family, host)
            return True
    return False


def _nobody(failures: dict[Address, GridError], addresses: Sequence[Address]) -> GridError:
    """Why there is no link: a refusal weighs more than silence."""
    refused = [error for error in failures.values() if isinstance(error, NotAuthenticated)]
    if refused:
        return NotAuthenticated(
            f"not let in: {_listed(failures, addresses)}",
            hint="is this the Gridfile of that grid? --gridfile PATH names another",
        )
    return LinkClosed(
        f"no node answered: {_listed(failures, addresses)}",
        hint="is gridnode running there, and may this machine reach its port? `seeds` in the Gridfile says where",
    )


def _listed(failures: dict[Address, GridError], addresses: Sequence[Address]) -> str:
    reasons = [f"{address}: {_reason(address, failures.get(address))}" for address in addresses[:10]]
    more = [f"and {len(addresses) - 10} more"] if len(addresses) > 10 else []
    return "; ".join(reasons + more)


def _reason(address: Address, error: GridError | None) -> str:
    cause = error.__cause__ if error else None
    if error is None:
        return f"no answer within {PATIENCE:g} s"
    if isinstance(cause, ConnectionRefusedError):
        return "connection refused"
    if isinstance(cause, ssl.SSLCertVerificationError):
        return "its certificate is not of this Gridfile's grid"
    return error.message.removeprefix(f"{address}: ") or f"it hung up ({type(cause).__name__})"
