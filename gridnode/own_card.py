"""What this node shows to others: its card, the leaf made from it, and TLS that follows when the card is renewed."""

from collections.abc import Callable
from pathlib import Path

import structlog

from gridnode.errors import GridError
from gridnode.files import node_key, write_durably
from gridnode.gridfile import Card
from gridnode.identity import Credentials, issue_leaf
from gridnode.ledger import Document
from gridnode.link.tls import client_context, reload, server_context
from gridnode.renewal import renewed, renewed_card

__all__ = ["OwnCard"]

log = structlog.get_logger()

ISSUER = "issuer.der"


class OwnCard:
    """Of a card as it was read, and what an earlier life was told of it; raises CardInvalid. now: unix seconds.

    on_renewed: called when the credentials have become others.
    """

    def __init__(self, card: Card, data_dir: Path, now: Callable[[], float]) -> None:
        self._now = now
        self._path = data_dir / ISSUER
        self._key = node_key(data_dir / "node.key")
        self.card = renewed_card(card, self._path.read_bytes()) if self._path.exists() else card
        self.credentials = self._issue()
        self.on_renewed: Callable[[Credentials], None] = lambda credentials: None
        self.server_context = server_context(self.credentials)
        self.client_context = client_context(self.credentials)

    def follow(self, documents: list[Document]) -> None:
        """What the ledger holds of renewals: from now on others are shown the longer one, also after a restart."""
        try:
            card, der = renewed(self.card, documents)
            if card is self.card:
                return
            write_durably(self._path, der)
            self.card = card
            self.credentials = self._issue()
            for context in (self.server_context, self.client_context):
                reload(context, self.credentials)
        except (GridError, OSError) as exc:
            log.error("this node's card was renewed, and the new one cannot be used", error=str(exc))
            return
        log.info("this node's card was renewed", until=int(self.credentials.until))
        self.on_renewed(self.credentials)

    def _issue(self) -> Credentials:
        return issue_leaf(self.card, self._key, self._now())
