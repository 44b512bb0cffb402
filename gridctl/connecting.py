"""How a client finds its grid: addresses given, a Gridfile's seeds, or the socket of a node on this machine."""

import logging
import secrets
import ssl
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from gridctl.connect import ClientEnd, connect, connect_local
from gridctl.links import Links
from gridctl.new import find_gridfile, load_gridfile
from gridnode.errors import HostError, LinkClosed, LinkError, UsageError
from gridnode.gridfile import Gridfile, Share, parse_address
from gridnode.identity import Authority, Credentials, authority_of, operator_credentials, share_credentials
from gridnode.link.protocol import Link
from gridnode.link.tls import client_context
from gridnode.model import Address

log = logging.getLogger("gridctl")
"""A program that sets up no logging has its warnings on stderr."""

if TYPE_CHECKING:
    from gridctl.client import Grid
    from gridctl.tunnel import Tunnels

__all__ = ["SOCKET", "Connecting", "Gridfiles", "Places", "read_gridfile"]

SOCKET = Path("/run/gridnode/client.sock")
"""Where a node listens for the programs of its own machine."""

WARN_WITHIN = 7 * 86_400.0
"""Seconds before a user's Gridfile ends from when on its user is told."""

Gridfiles = Gridfile | Path | str | None
"""A parsed Gridfile, the path of one, or None for $GRIDCTL_GRIDFILE, else the nearest Gridfile upward."""
Places = Iterable[Address | str]
"""Each host:port, host, or the path of a node's socket, which begins with `/`."""

Fresh = Callable[[], Credentials]
"""Credentials that are good now."""


class Connecting:
    """What Grid.connect returns: await it, or enter it."""

    def __init__(self, gridfile: Gridfiles, addresses: Places, links: int = 3) -> None:
        if not 0 < links <= 16:
            raise UsageError(f"{links} links make no sense", hint="1 to 16")
        self._gridfile = gridfile
        self._places = list(addresses)
        self._count = links
        self._grid: Grid | None = None

    def __await__(self) -> "Generator[Any, None, Grid]":
        return self._connect().__await__()

    async def __aenter__(self) -> "Grid":
        self._grid = await self._connect()
        return self._grid

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._grid:
            await self._grid.close()

    async def _connect(self) -> "Grid":
        from gridctl.client import Grid

        socket = _socket_of(self._places) or self._default_socket()
        if socket:
            return Grid(await _open_local(socket), None)
        gridfile = read_gridfile(self._gridfile)
        addresses = [_address(place) for place in self._places] or list(gridfile.seeds)
        if gridfile.share:
            return Grid(await _open(gridfile, _shared(gridfile.share), addresses, self._count), None)
        authority = authority_of(gridfile)
        return Grid(await _open(gridfile, _operating(authority), addresses, self._count), authority)

    def _default_socket(self) -> Path | None:
        """That of this machine's node, where nobody says anything else and no Gridfile is about."""
        if self._gridfile or self._places or not SOCKET.is_socket():
            return None
        try:
            find_gridfile(Path.cwd())
        except UsageError:
            return SOCKET
        return None


async def _open_local(path: Path) -> Links:
    async def dial(addresses: Sequence[Address]) -> tuple[Link, ClientEnd]:
        return await connect_local(path)

    return Links(await dial(()), dial, (), 1)


def _operating(authority: Authority) -> Fresh:
    return lambda: operator_credentials(authority, time.time(), secrets.token_bytes(32))


def _shared(share: Share) -> Fresh:
    def fresh() -> Credentials:
        credentials = share_credentials(share, time.time())
        left = credentials.until - time.time()
        if left < WARN_WITHIN and not told:
            from gridctl.render import span  # what draws tables is not for every program

            told.append(left)
            log.warning("this Gridfile ends in %s; ask an operator to `gridctl share` again", span(left))
        return credentials

    told: list[float] = []
    return fresh


async def _open(gridfile: Gridfile, fresh: Fresh, addresses: Sequence[Address], count: int) -> Links:
    ways = _Ways(gridfile, fresh)
    try:
        return Links(await ways.dial(addresses), ways.dial, addresses, count, ways.close)
    except BaseException:
        await ways.close()
        raise


class _Ways:
    """To the nodes' port, or through SSH, as the Gridfile says; `auto` stays with what worked."""

    def __init__(self, gridfile: Gridfile, fresh: Fresh) -> None:
        self._gridfile = gridfile
        self._fresh = fresh
        self._via = gridfile.via or "direct"
        self._tunnels: Tunnels | None = None

    async def dial(self, addresses: Sequence[Address]) -> tuple[Link, ClientEnd]:
        context = client_context(self._fresh())  # they expire: new ones for every link
        if self._via == "ssh":
            return await self._through_ssh(addresses, context)
        try:
            link = await connect(addresses, context)
            self._via = "direct"
        except LinkClosed as direct:
            if self._via != "auto" or not self._gridfile.servers or not addresses:
                raise
            link = await self._instead(addresses, context, direct)
            self._via = "ssh"
        return link

    async def close(self) -> None:
        if self._tunnels:
            await self._tunnels.close()

    async def _instead(
        self, addresses: Sequence[Address], context: ssl.SSLContext, direct: LinkClosed
    ) -> tuple[Link, ClientEnd]:
        try:
            return await self._through_ssh(addresses, context)
        except (LinkError, HostError) as exc:
            hint = f"{direct.hint}. By SSH: {exc.hint}" if exc.hint else direct.hint
            raise type(exc)(f"{direct.message}; and {exc.message}", hint=hint) from exc

    async def _through_ssh(self, addresses: Sequence[Address], context: ssl.SSLContext) -> tuple[Link, ClientEnd]:
        from gridctl.tunnel import Tunnels  # SSH is needed by few

        self._tunnels = self._tunnels or Tunnels(self._gridfile)
        return await self._tunnels.connect(addresses, context)


def read_gridfile(gridfile: Gridfiles) -> Gridfile:
    """The parsed Gridfile; raises GridfileInvalid or UsageError."""
    if isinstance(gridfile, Gridfile):
        return gridfile
    return load_gridfile(find_gridfile(Path.cwd(), str(gridfile) if gridfile else None))


def _socket_of(places: Sequence[Address | str]) -> Path | None:
    """The socket among the places, which then has to be the only one."""
    sockets = [place for place in places if isinstance(place, str) and place.startswith(("/", "unix:"))]
    if sockets and len(places) > 1:
        raise UsageError("a node's socket is an address by itself", hint="give it alone, or host:port of several nodes")
    return Path(sockets[0].removeprefix("unix:")) if sockets else None


def _address(given: Address | str) -> Address:
    address = parse_address(given) if isinstance(given, str) else given
    if address is None:
        raise UsageError(f"{given!r:.80} is not host:port", hint="write it as host or host:port, or /path/of/a/socket")
    return address
