"""Who tells whom what it holds of a tree; what is given, what refused; hostile bodies."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridnode.errors import BodyInvalid, GridError
from gridnode.identity import PeerIdentity
from gridnode.link import Cancel
from gridnode.link.protocol import Link
from gridnode.model import NodeId, Role, Root
from gridnode.sync import exchange as exchange_module
from gridnode.sync.chunk import ChunkRef, chunk_hash, encode
from gridnode.sync.exchange import Exchange, read_layout
from gridnode.sync.manifest import EntryKind
from gridnode.sync.piece_wire import Have, PieceGet, decode_have, decode_parts, encode_get, encode_have
from gridnode.sync.pieces import MIN_PIECE, Layout, cut
from gridnode.sync.store import DiskChunkStore
from gridnode.sync.swarm import Announced, Gained
from gridnode.sync.tree import Manifest, Source, build
from gridnode.wire import Frame, Kind, Op
from tests.fakes.peers import until

A, B, C = (NodeId(letter * 40) for letter in "abc")
CONTENTS = [bytes([n]) * MIN_PIECE for n in range(6)]


class End:
    """The main link from one node to another: what is sent over it arrives at once."""

    def __init__(self, net: "Net", sender: NodeId, to: NodeId) -> None:
        self._net, self._sender, self._to = net, sender, to

    def event(self, op: Op, body: bytes) -> None:
        have = decode_have(body)
        self._net.said.append((self._sender, self._to, have))
        self._net.nodes[self._to].heard(self._sender, Frame(Kind.EVENT, 0, op, body=body))


class Net:
    """Nodes that are all linked to each other. said: every HAVE, by sender and receiver."""

    def __init__(self, stores: dict[NodeId, DiskChunkStore]) -> None:
        self.said: list[tuple[NodeId, NodeId, Have]] = []
        self.stores = stores
        self.nodes = {node: self._node(node) for node in stores}

    def _node(self, me: NodeId) -> Exchange:
        def tell(op: Op, body: bytes) -> None:
            for other in self.stores:
                if other != me:
                    End(self, me, other).event(op, body)

        return Exchange(
            self.stores[me], tell, lambda other: cast(Link, End(self, me, other)) if other in self.nodes else None
        )


@pytest.fixture
async def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Net]:
    monkeypatch.setattr(exchange_module, "_COALESCE", 0.0)
    stores = {}
    for node in (A, B, C):
        (tmp_path / node).mkdir()
        stores[node] = DiskChunkStore(tmp_path / node)
    yield Net(stores)
    for store in stores.values():
        store.close()


def tree() -> tuple[Manifest, Layout]:
    refs = [ChunkRef(chunk_hash(content), len(content)) for content in CONTENTS]
    manifest = build([Source(("file",), EntryKind.FILE, tuple(refs))])
    return manifest, cut(manifest.root, {ref.hash: ref.length for ref in refs})


def fill(store: DiskChunkStore, manifest: Manifest, chunks: int = len(CONTENTS)) -> None:
    every = [*manifest.nodes.values(), *CONTENTS[:chunks]]
    store.put_batch((chunk_hash(content), encode(content)) for content in every)


async def test_two_that_fetch_hear_of_each_other_whoever_began(net: Net) -> None:
    _, layout = tree()
    heard: dict[NodeId, list[Announced | Gained]] = {A: [], B: []}
    with net.nodes[A].fetching(layout, 0b1, heard[A].append):
        assert heard[A] == []
        with net.nodes[B].fetching(layout, 0b10, heard[B].append):
            assert heard[A] == [Announced(B, 0b10)]
            assert heard[B] == [Announced(A, 0b1)]
            net.nodes[A].gained(layout.root, 2)
            net.nodes[A].gained(layout.root, 3)
            net.nodes[B].gained(layout.root, 4)
            await until(lambda: len(heard[A]) == len(heard[B]) == 2)
            assert heard[B][1] == Gained(A, 0b1100)
            assert heard[A][1] == Gained(B, 0b10000)


async def test_one_that_began_before_another_knew_the_tree_hears_of_it_too(net: Net) -> None:
    """A asks while B has not read the tree yet; B asks in turn when it has."""
    _, layout = tree()
    heard: list[Announced | Gained] = []
    with net.nodes[A].fetching(layout, 0, heard.append):
        with net.nodes[B].fetching(layout, 0, lambda event: None):
            net.nodes[B].gained(layout.root, 1)
            await until(lambda: Gained(B, 0b10) in heard)
        with net.nodes[B].fetching(layout, 0b10, lambda event: None):
            assert heard[-1] == Announced(B, 0b10)


async def test_questions_end(net: Net) -> None:
    _, layout = tree()
    with net.nodes[A].fetching(layout, 0, lambda event: None), net.nodes[B].fetching(layout, 0, lambda event: None):
        assert len(net.said) <= 6


async def test_a_node_that_has_the_tree_says_so_although_it_did_not_fetch_it(net: Net) -> None:
    manifest, layout = tree()
    fill(net.stores[C], manifest, 5)
    heard: list[Announced | Gained] = []
    with net.nodes[A].fetching(layout, 0, heard.append):
        await until(lambda: heard)
        assert heard == [Announced(C, 0b11111)]


async def test_one_that_knows_nothing_of_it_is_silent(net: Net) -> None:
    _, layout = tree()
    with net.nodes[A].fetching(layout, 0, lambda event: None):
        await until(lambda: not net.nodes[C]._jobs)
    assert [sender for sender, _, _ in net.said] == [A, A]


async def test_a_new_link_hears_what_is_fetched(net: Net) -> None:
    _, layout = tree()
    with net.nodes[A].fetching(layout, 0b1, lambda event: None):
        net.said.clear()
        net.nodes[A].linked(cast(Link, End(net, A, B)))
        assert net.said == [(A, B, Have(layout.root, 6, 0b1, asks=True, fetches=True))]
    net.said.clear()
    net.nodes[A].linked(cast(Link, End(net, A, B)))
    assert net.said == []


async def test_a_whole_tree_is_given_piece_by_piece_once(net: Net) -> None:
    _, layout = tree()
    net.nodes[C].hold(layout, layout.everything)
    get = PieceGet(layout.root, 3, (chunk_hash(CONTENTS[3]),))
    with net.nodes[A].fetching(layout, 0, lambda event: None), net.nodes[B].fetching(layout, 0, lambda event: None):
        assert net.nodes[C].given(A, get) == 0
        assert net.nodes[C].given(B, get) == 0b1000
        assert net.nodes[B].given(A, get) == 0, "it is not whole itself"
    assert net.nodes[C].given(B, PieceGet(layout.root, 99, get.chunks)) == 0
    assert net.nodes[C].given(B, PieceGet(Root("00" * 32), 3, get.chunks)) == 0


async def test_what_is_held_is_given_and_no_more(net: Net) -> None:
    manifest, layout = tree()
    fill(net.stores[C], manifest, 4)
    asked = tuple(chunk_hash(content) for content in CONTENTS[3:5])
    parts = decode_parts(await net.nodes[C].give(PieceGet(layout.root, 3, asked))).parts
    assert [part.hash for part in parts] == [asked[0]]


async def test_trees_are_forgotten_but_for_those_on_their_way(net: Net) -> None:
    _, layout = tree()
    with net.nodes[A].fetching(layout, 0, lambda event: None):
        for n in range(200):
            net.nodes[A].hold(Layout(Root(f"{n:064x}"), {}, ()), 0)
        assert len(net.nodes[A]._trees) == exchange_module._MAX_TREES + 1
        assert layout.root in net.nodes[A]._trees


async def test_a_layout_needs_the_whole_tree(net: Net) -> None:
    manifest, layout = tree()
    with pytest.raises(GridError):
        read_layout(net.stores[A], manifest.root)
    fill(net.stores[A], manifest, 0)
    assert read_layout(net.stores[A], manifest.root).pieces == layout.pieces


class Asker:
    """A link that asks."""

    def __init__(self, node: NodeId) -> None:
        self.peer = PeerIdentity(node, Role.NODE, "")
        self.is_open = True
        self.replies: list[bytes] = []
        self.errors: list[GridError] = []

    def on_cancel(self, call_id: int, cancel: Cancel) -> None: ...

    def reply(self, call_id: int, body: bytes) -> None:
        self.replies.append(body)

    def reply_error(self, call_id: int, error: GridError) -> None:
        self.errors.append(error)

    def buffered(self) -> int:
        return 0


async def test_over_a_link(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest, layout = tree()
    fill(net.stores[C], manifest)
    net.nodes[C].hold(layout, layout.everything)
    get = encode_get(PieceGet(layout.root, 0, (chunk_hash(CONTENTS[0]),)))
    asker = Asker(A)
    (take,) = net.nodes[C].takes().values()
    with net.nodes[A].fetching(layout, 0, lambda event: None), net.nodes[B].fetching(layout, 0, lambda event: None):
        take(cast(Link, asker), Frame(Kind.CALL, 1, Op.PIECE_GET, body=get))
        await until(lambda: asker.replies)
        assert len(decode_parts(asker.replies[0]).parts) == 1
        other = Asker(B)
        take(cast(Link, other), Frame(Kind.CALL, 1, Op.PIECE_GET, body=get))
        await until(lambda: other.replies)
        assert decode_parts(other.replies[0]).given == 0b1
    monkeypatch.setattr(net.nodes[C]._turns, "_max_waiting", 0)
    take(cast(Link, asker), Frame(Kind.CALL, 2, Op.PIECE_GET, body=get))
    await until(lambda: len(asker.replies) == 2)
    answer = decode_parts(asker.replies[1])
    assert (answer.refused, answer.given, answer.parts) == (True, 0, ())
    with pytest.raises(BodyInvalid):
        take(cast(Link, asker), Frame(Kind.CALL, 3, Op.PIECE_GET, body=b"\xff"))
    assert not asker.errors


async def test_a_set_of_another_trees_size_is_refused(net: Net) -> None:
    _, layout = tree()
    heard: list[Announced | Gained] = []
    with net.nodes[A].fetching(layout, 0, heard.append):
        body = encode_have(Have(layout.root, 60_000, (1 << 60_000) - 1, asks=True))
        with pytest.raises(BodyInvalid):
            net.nodes[A].heard(B, Frame(Kind.EVENT, 0, Op.HAVE, body=body))
    assert heard == []


async def test_other_events_are_left_to_others(net: Net) -> None:
    assert net.nodes[A].heard(B, Frame(Kind.EVENT, 0, Op.GOSSIP)) is False


async def test_many_questions_about_unknown_trees_cost_little(net: Net) -> None:
    for n in range(1000):
        body = encode_have(Have(Root(f"{n:064x}"), 6, 0, asks=True, fetches=True))
        net.nodes[A].heard(B, Frame(Kind.EVENT, 0, Op.HAVE, body=body))
    assert len(net.nodes[A]._jobs) <= exchange_module._MAX_READING
    await until(lambda: not net.nodes[A]._jobs)
    assert not net.nodes[A]._trees


@given(st.binary(max_size=200))
def test_garbage_is_a_bad_body(body: bytes) -> None:
    try:
        decode_have(body)
    except BodyInvalid:
        return
