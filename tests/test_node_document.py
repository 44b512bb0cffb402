"""Orders for nodes in the ledger, and what a node makes of them."""

from contextlib import suppress

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridnode.errors import LedgerError
from gridnode.identity import public_key_of
from gridnode.ledger import Document, sign_document, verifier
from gridnode.model import NodeId
from gridnode.node_document import NODE, NodeOrder, open_node_order, sign_node_order
from gridnode.node_orders import NodeOrders

KEY = b"k" * 32
ME, OTHER = NodeId("ab" * 20), NodeId("cd" * 20)
DRAINED = NodeOrder(draining=True, name="web-1", by="me@here")


def test_an_order_comes_back_as_it_was_signed() -> None:
    document = sign_node_order(KEY, ME, DRAINED, 3)
    assert (document.kind, document.name, document.sequence) == (NODE, ME, 3)
    assert verifier(public_key_of(KEY))(document)
    assert open_node_order(document) == DRAINED


@pytest.mark.parametrize(
    "order",
    [
        NodeOrder(forgotten=-1),
        NodeOrder(forgotten=1 << 53),
        NodeOrder(name="a\nb"),
        NodeOrder(by="x" * 256),
    ],
)
def test_what_no_operator_orders(order: NodeOrder) -> None:
    with pytest.raises(LedgerError):
        sign_node_order(KEY, ME, order, 1)


@pytest.mark.parametrize(("kind", "name"), [("order", ME), (NODE, "web-1"), (NODE, ME.upper()), (NODE, ME + "0")])
def test_what_is_no_order_for_a_node(kind: str, name: str) -> None:
    with pytest.raises(LedgerError):
        open_node_order(Document(kind, name, 1, msgspec.msgpack.encode(DRAINED), "0" * 64))


@given(
    st.binary(max_size=100) | st.recursive(st.integers(0, 1 << 60) | st.text(), st.lists).map(msgspec.msgpack.encode)
)
def test_garbage(body: bytes) -> None:
    document = sign_document(KEY, NODE, ME, 1, body)
    with suppress(LedgerError):
        assert isinstance(open_node_order(document), NodeOrder)
    orders = NodeOrders(ME, lambda wanted: None, lambda node, incarnation: None)
    orders.follow([document])


class Told:
    def __init__(self) -> None:
        self.drains: list[bool] = []
        self.forgets: list[tuple[NodeId, int]] = []
        self.orders = NodeOrders(ME, self.drains.append, lambda node, upto: self.forgets.append((node, upto)))

    def follow(self, *orders: tuple[NodeId, NodeOrder]) -> None:
        self.orders.follow([sign_node_order(KEY, node, order, 1) for node, order in orders])


def test_a_node_drains_once_and_only_when_it_is_meant() -> None:
    told = Told()
    told.follow((OTHER, DRAINED))
    assert told.drains == []
    told.follow((ME, DRAINED), (OTHER, DRAINED))
    told.follow((ME, DRAINED))
    assert told.drains == [True]
    told.follow((ME, NodeOrder()))
    assert told.drains == [True, False]


def test_a_node_forgets_others_again_and_again_but_never_itself() -> None:
    told = Told()
    told.follow((ME, NodeOrder(forgotten=9)), (OTHER, NodeOrder(forgotten=7)))
    told.orders.tick()
    told.orders.tick()
    assert told.forgets == [(OTHER, 7)] * 2


def test_a_document_of_a_later_version_hinders_no_other() -> None:
    told = Told()
    strange = sign_document(KEY, NODE, OTHER, 1, b"\xc1")
    told.orders.follow([strange, sign_node_order(KEY, ME, DRAINED, 1)])
    assert told.drains == [True]
