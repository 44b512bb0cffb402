"""Links through SSH: where a node's port cannot be reached, and its server's SSH can."""

import asyncio
import itertools
import logging
import ssl
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from gridctl.connect import ClientEnd, first, through
from gridctl.hosts import dialler
from gridctl.render import clean
from gridctl.ssh import Host
from gridnode.errors import GridError, LinkClosed, NotAuthenticated, UsageError
from gridnode.gridfile import Gridfile, Server
from gridnode.link.protocol import Link
from gridnode.model import Address

__all__ = ["Tunnels"]

log = logging.getLogger("gridctl")

PATIENCE: Final = 15.0
STAGGER: Final = 1.0
MAX_SERVERS: Final = 5
"""That are asked to lead to an address which is no server's own."""
LOOPBACK: Final = "127.0.0.1"


class Tunnels:
    """Links of one client to nodes through the SSH of the Gridfile's servers, one connection to each. Close it."""

    def __init__(self, gridfile: Gridfile) -> None:
        if not gridfile.servers or gridfile.share:
            raise UsageError(
                f"{gridfile.path} has no servers to go through by SSH",
                hint="--via direct; or list them: servers = ['user@host']",
            )
        self._gridfile = gridfile
        self._dial = dialler(gridfile)
        self._hosts: dict[Server, asyncio.Future[Host]] = {}
        self._seen: dict[Server, str] = {}
        self._directory = tempfile.TemporaryDirectory(prefix="gridctl-")  # 0700: the sockets in it are ours alone
        self._numbers = itertools.count(1)
        self._has_told = False

    async def connect(self, addresses: Sequence[Address], context: ssl.SSLContext) -> tuple[Link, ClientEnd]:
        """As `connect.connect`, by SSH."""
        winner, failures = await first(addresses, lambda address: self._open(address, context), STAGGER, PATIENCE)
        if winner is None:
            raise _nobody(failures, addresses)
        if not self._has_told:
            self._has_told = True
            log.warning("reaching %s through SSH", winner[0].address)
        return winner

    async def close(self) -> None:
        """End every SSH connection; their links are closed by then."""
        dialling = list(self._hosts.values())
        for one in dialling:
            if not one.done():
                one.cancel()
        for host in await asyncio.gather(*dialling, return_exceptions=True):
            if isinstance(host, Host):
                await host.close()
        self._directory.cleanup()

    async def _open(self, address: Address, context: ssl.SSLContext) -> tuple[Link, ClientEnd]:
        own = [server for server in self._gridfile.servers if server.host == address.host]
        error: GridError = LinkClosed(f"{address}: no server leads there")
        for server in own or self._gridfile.servers[:MAX_SERVERS]:
            there = Address(LOOPBACK, address.port) if own else address
            try:
                return await self._through(server, there, address, context)
            except GridError as exc:
                error = exc
        raise error

    async def _through(
        self, server: Server, there: Address, address: Address, context: ssl.SSLContext
    ) -> tuple[Link, ClientEnd]:
        """there: the node's address as its server, or the one on the way, sees it."""
        host = await self._host(server)
        path = Path(self._directory.name) / str(next(self._numbers))
        async with host.tunnel(path, there):
            link, end = await through(path, address, context)
        end.via = "ssh"
        end.seen = f"{self._seen[server] or '?'} by SSH to {server.host}"
        return link, end

    async def _host(self, server: Server) -> Host:
        """The open connection to a server; a try under way is shared."""
        held = self._hosts.get(server)
        if held is None or (held.done() and (held.cancelled() or held.exception() or not held.result().is_open)):
            held = self._hosts[server] = asyncio.ensure_future(self._connected(server))
        return await asyncio.shield(held)

    async def _connected(self, server: Server) -> Host:
        host = await self._dial(server)
        self._seen[server] = await host.seen_from()
        return host


def _nobody(failures: dict[Address, GridError], addresses: Sequence[Address]) -> GridError:
    refused = [error for error in failures.values() if isinstance(error, NotAuthenticated)]
    kind = NotAuthenticated if refused else LinkClosed
    reasons = dict.fromkeys(error.message for error in refused or failures.values()) or {
        f"no answer within {PATIENCE:g} s": None
    }
    hints = [error.hint for error in failures.values() if error.hint]
    what = ", ".join(map(str, addresses[:10]))
    return kind(f"no way to {what} through SSH: {clean('; '.join(reasons))}", hint=hints[0] if hints else None)
