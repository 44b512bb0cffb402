"""Who may be at the other end of a link, for as long as it is open: neither revoked nor past its certificate's time."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Final, cast

import structlog

from gridnode.errors import NotAuthenticated
from gridnode.identity import PeerIdentity
from gridnode.ledger import Document
from gridnode.link.tls import peer_identity
from gridnode.revocation import Revocations

__all__ = ["Gate"]

log = structlog.get_logger()

WARN_WITHIN: Final = 30 * 86_400.0
"""Seconds before this node's own certificate ends, from when on it says so."""
_WARN_EVERY: Final = 86_400.0


class Gate:
    """now: unix seconds; issuer, until: of this node's own certificate."""

    def __init__(self, now: Callable[[], float], issuer: str, until: float) -> None:
        self._now = now
        self._issuer = issuer
        self._until = until
        self._warn_at = until - WARN_WITHIN
        self._revocations = Revocations()
        self._is_revoked = False
        self._open: dict[asyncio.Transport, PeerIdentity] = {}

    def __len__(self) -> int:
        """Links that are remembered."""
        return len(self._open)

    def identify(self, transport: asyncio.BaseTransport) -> PeerIdentity:
        """Who the certificate says is at the other end; raises NotAuthenticated, also for one that is revoked."""
        host = str((transport.get_extra_info("peername") or ("",))[0]).removeprefix("::ffff:")
        peer = replace(peer_identity(transport.get_extra_info("ssl_object")), host=host)
        if self._revocations.cover(peer.issuer):
            raise NotAuthenticated(f"{peer.role} {peer.node[:12]} at {host} was revoked")
        self._open[cast("asyncio.Transport", transport)] = peer
        return peer

    def follow(self, documents: list[Document]) -> None:
        """What the ledger holds of revocations: open links of those that are shut out end at once."""
        for document in self._revocations.follow(documents):
            log.error("a revocation cannot be read by this version", name=document.name)
        for transport, peer in list(self._open.items()):
            if self._revocations.cover(peer.issuer):
                self._end(transport, peer, "revoked")
        if not self._is_revoked and self._revocations.cover(self._issuer):
            self._is_revoked = True
            log.error(
                "this node was revoked: no other talks to it", hint="give it a new card, or take it out of service"
            )

    def renew(self, until: float) -> None:
        """This node's own certificate lasts longer now."""
        self._until = until
        self._warn_at = until - WARN_WITHIN

    def tick(self) -> None:
        """Let time pass: links end with the certificate they were opened by."""
        now = self._now()
        for transport, peer in list(self._open.items()):
            if transport.is_closing():
                del self._open[transport]
            elif now >= peer.until:
                self._end(transport, peer, "its certificate has expired")
        if now >= self._warn_at:
            self._warn_at = now + _WARN_EVERY
            days = max(0.0, self._until - now) / 86_400
            hint = "`gridctl renew`; for servers that boot by themselves, new ones with fresh `gridctl cloud-init`"
            log.warning("this node's card expires", days=round(days, 1), hint=hint)

    def _end(self, transport: asyncio.Transport, peer: PeerIdentity, why: str) -> None:
        del self._open[transport]
        log.warning("ended a link", peer=peer.node, role=peer.role.value, host=peer.host, why=why)
        transport.abort()
