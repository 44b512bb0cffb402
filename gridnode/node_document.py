"""What operators want of nodes: documents of the kind `node`, each named by a node's id."""

import re
from typing import Final

import msgspec

from gridnode.errors import LedgerError
from gridnode.ledger import Document, sign_document
from gridnode.model import NodeId

__all__ = ["NODE", "NodeOrder", "open_node_order", "sign_node_order"]

NODE: Final = "node"
"""Kind of the ledger documents."""
MAX_TEXT: Final = 255
_ID: Final = re.compile(r"[0-9a-f]{40}")


class NodeOrder(msgspec.Struct, frozen=True, omit_defaults=True):
    """draining: it takes no new calls. forgotten: up to which of its incarnations it is nobody's member, 0 for none.

    name, by: for people, what the node was called and who ordered it.
    """

    draining: bool = False
    forgotten: int = 0
    name: str = ""
    by: str = ""


_decode = msgspec.msgpack.Decoder(NodeOrder).decode


def sign_node_order(deploy_key: bytes, node: NodeId, order: NodeOrder, sequence: int) -> Document:
    """The ledger document of what is wanted of a node. deploy_key: Ed25519 seed."""
    document = sign_document(deploy_key, NODE, node, sequence, msgspec.msgpack.encode(order))
    open_node_order(document)
    return document


def open_node_order(document: Document) -> NodeOrder:
    """The order in a verified document, for the node `document.name`; LedgerError when it is none."""
    if document.kind != NODE or not _ID.fullmatch(document.name):
        raise LedgerError(f"{document.kind} {document.name[:64]!r} is not an order for a node")
    try:
        order = _decode(document.body)
    except (msgspec.MsgspecError, RecursionError) as exc:
        raise LedgerError(f"malformed order for a node: {exc}") from exc
    texts = (order.name, order.by)
    if not 0 <= order.forgotten < 1 << 53 or any(len(one) > MAX_TEXT or not (one + "x").isprintable() for one in texts):
        raise LedgerError(f"order for node {document.name[:12]} out of bounds")
    return order
