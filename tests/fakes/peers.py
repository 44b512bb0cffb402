"""Ends of links for unit tests: recording ones, raw hostile ones, and credentials of a grid."""

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from gridnode import wire
from gridnode.errors import GridError
from gridnode.gridfile import Gridfile, render_secret
from gridnode.identity import (
    DAY,
    Credentials,
    authority_of,
    issue_leaf,
    mint_card,
    mint_share,
    operator_credentials,
    share_credentials,
)
from gridnode.link import LinkEnd, LinkLimits
from gridnode.link.client import dial
from gridnode.link.protocol import Identify, Link
from gridnode.link.tls import client_context, peer_identity, server_context
from gridnode.model import Address
from gridnode.wire import Frame, Kind, Op

PATIENCE = 10.0
SMALL = LinkLimits(hello_timeout=0.2, max_inbound=4, max_buffered=64 * 1024, max_events=50)
HELLO = Frame(Kind.HELLO, 0, body=b'{"version":1}')
NOW = time.time()
AUTHORITY = authority_of(Gridfile("g", (), grid_password=render_secret(b"\1" * 32)))
FOREIGN = authority_of(Gridfile("h", (), grid_password=render_secret(b"\2" * 32)))
OPERATOR = operator_credentials(AUTHORITY, NOW, b"o" * 32)
USER = share_credentials(mint_share(AUTHORITY, "alice", NOW, DAY, b"u" * 32), NOW)


def node_credentials(name: str) -> Credentials:
    seed = name.encode().ljust(32, b"-")[:32]
    return issue_leaf(mint_card(AUTHORITY, name, NOW, DAY, seed), seed[::-1], NOW)


ALICE, BOB = sorted((node_credentials("alice"), node_credentials("bob")), key=lambda one: one.node)


async def until(condition: Callable[[], object], what: str = "", seconds: float = PATIENCE) -> None:
    """Poll until it holds; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"never came to be: {what or condition}"
        await asyncio.sleep(0.002)


def identify(transport: asyncio.BaseTransport) -> "object":
    return peer_identity(transport.get_extra_info("ssl_object"))


TLS_IDENTITY: Identify = identify  # type: ignore[assignment]


class End:
    """A LinkEnd that writes down what happens; on_call, on_event: what it does besides."""

    def __init__(self, on_call: Callable[[Link, Frame], None] | None = None, refuse: GridError | None = None) -> None:
        self.on_call = on_call or echo
        self.on_event: Callable[[Link, Frame], None] = lambda link, frame: None
        self.refuse = refuse
        self.links: list[Link] = []
        self.hellos: list[bytes] = []
        self.calls: list[Frame] = []
        self.events: list[Frame] = []
        self.closes: list[GridError | None] = []

    def hello(self, link: Link) -> bytes:
        return HELLO.body

    def opened(self, link: Link, body: bytes) -> None:
        if self.refuse:
            raise self.refuse
        self.links.append(link)
        self.hellos.append(body)

    def called(self, link: Link, frame: Frame) -> None:
        self.calls.append(frame)
        self.on_call(link, frame)

    def heard(self, link: Link, frame: Frame) -> None:
        self.events.append(frame)
        self.on_event(link, frame)

    def closed(self, link: Link, error: GridError | None) -> None:
        self.closes.append(error)


def echo(link: Link, frame: Frame) -> None:
    link.reply(frame.call_id, frame.body, frame.meta)


def never(link: Link, frame: Frame) -> None:
    """Leave the call unanswered."""


class Raw:
    """Bytes on a connection, without a Link."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.ids = itertools.count(1)

    def send(self, *what: Frame | bytes) -> None:
        """All in one write."""
        self.writer.write(b"".join(wire.encode(one) if isinstance(one, Frame) else one for one in what))

    async def frame(self) -> Frame | None:
        """The next one; None when the connection is closed."""
        async with asyncio.timeout(PATIENCE):
            try:
                head = await self.reader.readexactly(wire.HEADER_SIZE)
                rest = await self.reader.readexactly(wire.needed(memoryview(head)) - wire.HEADER_SIZE)
            except (asyncio.IncompleteReadError, OSError):
                return None
        return wire.decode(memoryview(head + rest))

    async def frames_to_the_end(self) -> list[Frame]:
        frames = []
        while frame := await self.frame():
            frames.append(frame)
        return frames


class Hop:
    """Where links meet, over a unix socket or TLS on loopback: an accepting End, and ways to reach it."""

    def __init__(self, kind: str, end: LinkEnd, limits: LinkLimits, directory: Path) -> None:
        self.kind, self.end, self.limits = kind, end, limits
        self.identify: Identify = TLS_IDENTITY
        self._path = str(directory / "s")
        self._server: asyncio.Server | None = None
        self._opened: list[Link | Raw] = []
        self.accepted: list[Link] = []

    @property
    def address(self) -> Address:
        assert self._server
        return Address(*self._server.sockets[0].getsockname()[:2])

    async def listen(self) -> None:
        loop = asyncio.get_running_loop()
        if self.kind == "unix":
            self._server = await loop.create_unix_server(self._accept, self._path)
        else:
            context = server_context(ALICE)
            self._server = await loop.create_server(self._accept, "127.0.0.1", 0, ssl=context, ssl_shutdown_timeout=1)

    def _accept(self) -> Link:
        link = Link(self.end, self.limits, None if self.kind == "unix" else self.identify)
        self.accepted.append(link)
        return link

    async def dial(self, end: LinkEnd, limits: LinkLimits | None = None, credentials: Credentials = BOB) -> Link:
        """A link to the accepting End, open."""
        link = await self.dial_only(end, limits, credentials)
        await link.wait_open()
        return link

    async def dial_only(self, end: LinkEnd, limits: LinkLimits | None = None, credentials: Credentials = BOB) -> Link:
        if self.kind == "unix":
            make = lambda: Link(end, limits or LinkLimits())  # noqa: E731
            _, link = await asyncio.get_running_loop().create_unix_connection(make, self._path)
        else:
            context = client_context(credentials)
            link = await dial(self.address, end, context, TLS_IDENTITY, limits or LinkLimits())
        self._opened.append(link)
        return link

    async def raw(self, *first: Frame | bytes) -> Raw:
        """A raw connection that has sent `first`."""
        if self.kind == "unix":
            raw = Raw(*await asyncio.open_unix_connection(self._path))
        else:
            raw = Raw(*await asyncio.open_connection(*_pair(self.address), ssl=client_context(BOB)))
        self._opened.append(raw)
        raw.send(*first)
        return raw

    async def close(self) -> None:
        for one in [*self._opened, *self.accepted]:
            if isinstance(one, Raw):
                one.writer.transport.abort()
            else:
                one.abort(GridError("the test is over"))
        if self._server:
            self._server.close()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await self._server.wait_closed()


def _pair(address: Address) -> tuple[str, int]:
    return address.host, address.port


@contextlib.asynccontextmanager
async def hop(kind: str, end: LinkEnd, directory: Path, limits: LinkLimits | None = None) -> AsyncIterator[Hop]:
    place = Hop(kind, end, limits or LinkLimits(), directory)
    await place.listen()
    try:
        yield place
    finally:
        await place.close()


def call(call_id: int, body: bytes = b"", name: str = "echo") -> Frame:
    return Frame(Kind.CALL, call_id, Op.INVOKE, 0, 0, name, b"", body)


async def gone(link: Link) -> GridError:
    """Why the link closed."""
    async with asyncio.timeout(PATIENCE):
        await link.wait_closed()
    assert link.error
    return link.error
