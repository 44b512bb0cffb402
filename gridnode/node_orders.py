"""Follows what operators want of nodes: whether this one takes calls, and which that are gone are forgotten."""

from collections.abc import Callable

import structlog

from gridnode.errors import LedgerError
from gridnode.ledger import Document
from gridnode.model import NodeId
from gridnode.node_document import NodeOrder, open_node_order

__all__ = ["NodeOrders"]

log = structlog.get_logger()


class NodeOrders:
    """me: this node; on_drain: whether it is to take no calls; on_forget: a node, and up to which incarnation."""

    def __init__(self, me: NodeId, on_drain: Callable[[bool], None], on_forget: Callable[[NodeId, int], None]) -> None:
        self._me = me
        self._on_drain = on_drain
        self._on_forget = on_forget
        self._draining = False
        self._forgotten: dict[NodeId, int] = {}

    def follow(self, documents: list[Document]) -> None:
        """What the ledger holds of them; one that this version cannot read is said, and left alone."""
        for document in documents:
            try:
                self._take(NodeId(document.name), open_node_order(document))
            except LedgerError as exc:
                log.error("an order for a node cannot be read by this version", node=document.name, error=exc.message)

    def _take(self, node: NodeId, order: NodeOrder) -> None:
        if node == self._me:
            if order.draining != self._draining:
                self._draining = order.draining
                log.info("drained" if order.draining else "undrained", by=order.by)
                self._on_drain(order.draining)
        elif order.forgotten:
            self._forgotten[node] = order.forgotten

    def tick(self) -> None:
        """Let time pass: a node that was alive here when it was ordered to be forgotten may be gone by now."""
        for node, incarnation in self._forgotten.items():
            self._on_forget(node, incarnation)
