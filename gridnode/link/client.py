"""Dialling a link, and invoking over one."""

import asyncio
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec

from gridnode import wire
from gridnode.errors import Forbidden, GridError, LinkClosed, NodeLost, NotAuthenticated
from gridnode.link import Cancel, LinkEnd, LinkLimits, nothing_to_cancel
from gridnode.link.protocol import Identify, Link
from gridnode.link.race import race
from gridnode.messages import ReplyMeta
from gridnode.model import Address, Done, Invocation, NodeId, Outcome
from gridnode.wire import Frame, Op

_SSL_TIMEOUT = 5.0
_MAX_HOSTS = 8
_TLS: Final[dict[str, Any]] = {
    "server_hostname": "",
    "ssl_handshake_timeout": _SSL_TIMEOUT,
    "ssl_shutdown_timeout": 1.0,
}


_decode_meta = msgspec.json.Decoder(ReplyMeta).decode


async def dial(address: Address, end: LinkEnd, context: ssl.SSLContext, identify: Identify, limits: LinkLimits) -> Link:
    """A link to `address`, its TLS handshake done (the hello may still be on its way); raises LinkClosed.

    Of a name with several addresses the first that answers is taken.
    """
    loop = asyncio.get_running_loop()

    async def connect(host: str) -> Link:
        new = partial(Link, end, limits, identify, address)
        _, link = await loop.create_connection(new, host, address.port, ssl=context, **_TLS)
        return link

    with _translated(address):
        async with asyncio.timeout(_SSL_TIMEOUT):
            return await race([partial(connect, host) for host in await _hosts(address)], Link.close)


async def dial_through(
    path: Path, address: Address, end: LinkEnd, context: ssl.SSLContext, identify: Identify, limits: LinkLimits
) -> Link:
    """As `dial`, through a socket of this machine at whose other end the node at `address` is."""
    with _translated(address):
        async with asyncio.timeout(_SSL_TIMEOUT):
            new = partial(Link, end, limits, identify, address)
            _, link = await asyncio.get_running_loop().create_unix_connection(new, str(path), ssl=context, **_TLS)
            return link


@contextmanager
def _translated(address: Address) -> Iterator[None]:
    try:
        yield
    except ssl.SSLError as exc:
        raise NotAuthenticated(f"{address}: {exc.reason or exc}") from exc
    except TimeoutError as exc:
        raise LinkClosed(f"{address}: no answer within {_SSL_TIMEOUT:g} s") from exc
    except OSError as exc:
        raise LinkClosed(f"{address}: {exc.strerror or exc}") from exc
    except (ValueError, OverflowError) as exc:
        raise LinkClosed(f"{address} is no address: {exc}") from exc


async def _hosts(address: Address) -> list[str]:
    """The IP addresses of a name, a few, as the resolver orders them."""
    rows = await asyncio.get_running_loop().getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(row[4][0]) for row in rows))[:_MAX_HOSTS]


async def dial_local(path: Path, end: LinkEnd, limits: LinkLimits) -> Link:
    """A link over a node's socket on this machine; Forbidden where its permissions keep us out, else LinkClosed."""
    loop = asyncio.get_running_loop()
    try:
        _, link = await loop.create_unix_connection(lambda: Link(end, limits), str(path))
    except PermissionError as exc:
        hint = "root may, and the group that GRIDNODE_CLIENT_GROUP names on the node"
        raise Forbidden(f"{path}: this user may not open it", hint=hint) from exc
    except (OSError, ValueError) as exc:
        reason = getattr(exc, "strerror", None) or exc
        raise LinkClosed(f"{path}: {reason}", hint="is gridnode running on this machine?") from exc
    return link


class RemoteInvoker:
    """Invokes on the peer at the far end of a link."""

    def __init__(self, link: Link, node: NodeId, now: Callable[[], float]) -> None:
        self._link = link
        self._node = node
        self._now = now

    def invoke(self, call: Invocation, done: Done) -> Cancel:
        """Send the call; a link that is closed or full is an outcome that never started."""
        link, node = self._link, self._node

        def replied(reply: Frame | GridError) -> None:
            done(_outcome(reply, node))

        deadline_ms = max(1, int((call.deadline - self._now()) * 1000))
        try:
            call_id = link.call(
                Op.INVOKE, call.task, call.body, replied, meta=call.meta, deadline_ms=deadline_ms, stream=call.stream
            )
        except GridError as exc:
            done(Outcome(error=exc, node=node, started=False))
            return nothing_to_cancel
        return lambda: link.cancel(call_id)


def _outcome(reply: Frame | GridError, node: NodeId) -> Outcome:
    if isinstance(reply, GridError):
        return Outcome(error=NodeLost(f"lost the node while the call was in it: {reply.message}"), node=node)
    try:
        instance = _decode_meta(reply.meta).instance if reply.meta else None
    except (msgspec.MsgspecError, RecursionError):
        instance = None
    if reply.flags & wire.FLAG_ERROR:
        error = wire.decode_error(reply.body)
        return Outcome(error=error, node=node, instance=instance, started=not error.retryable)
    return Outcome(reply.body, node=node, instance=instance)
