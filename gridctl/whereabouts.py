"""Which server of the Gridfile a node runs on: nodes have names and addresses, servers are where SSH gets to."""

import asyncio
import ipaddress
import socket
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress

from gridctl.tail import chosen
from gridnode.errors import NodeNotFound
from gridnode.gridfile import Gridfile, Server
from gridnode.model import Member, NodeRecord

__all__ = ["addresses_of", "server_of", "servers_of"]

_TIMEOUT = 3.0


def server_of(servers: Iterable[Server], record: NodeRecord, known: Mapping[Server, set[str]]) -> Server | None:
    """The one server that is called like the node, or is where it listens; known: the addresses of servers' names."""
    servers = list(servers)
    hosts = {address.host for address in record.addresses}
    named = [one for one in servers if _is_called(one, record.name)]
    there = named or [one for one in servers if hosts & {one.host, *known.get(one, ())}]
    if not there and len(servers) == 1 and not hosts:
        there = servers
    return there[0] if len(there) == 1 else None


async def servers_of(gridfile: Gridfile, members: Sequence[Member], wanted: Iterable[str]) -> list[Server]:
    """The servers of nodes by name, id or prefix of one, and of servers by host, each once; NodeNotFound."""
    known = await addresses_of(gridfile.servers)
    found = []
    for name in wanted:
        named = [server for server in gridfile.servers if _is_called(server, name)]
        server = named[0] if len(named) == 1 else _of_member(gridfile, members, name, known)
        found.append(server)
    return list(dict.fromkeys(found))


async def addresses_of(servers: Iterable[Server]) -> dict[Server, set[str]]:
    """Of those that go by a name, what it stands for now."""
    named = [server for server in servers if not _is_address(server.host)]
    return dict(zip(named, await asyncio.gather(*(_resolved(server.host) for server in named)), strict=True))


def _of_member(gridfile: Gridfile, members: Sequence[Member], name: str, known: Mapping[Server, set[str]]) -> Server:
    hint = f"name it by its server; {gridfile.path} has {', '.join(map(str, gridfile.servers[:20])) or 'none'}"
    if not members:
        raise NodeNotFound(f"no node of the grid answers, and no server is called {name:.64}", hint=hint)
    [member] = chosen(members, name)
    server = server_of(gridfile.servers, member.record, known)
    if server is None:
        raise NodeNotFound(f"which server the node {name:.64} runs on cannot be told", hint=hint)
    return server


def _is_called(server: Server, name: str) -> bool:
    return name in (server.host, server.place, str(server))


async def _resolved(name: str) -> set[str]:
    with suppress(OSError, UnicodeError):  # a timeout is an OSError
        async with asyncio.timeout(_TIMEOUT):
            found = await asyncio.get_running_loop().getaddrinfo(name, None, type=socket.SOCK_STREAM)
            return {str(one[4][0]) for one in found}
    return set()


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
