"""Tells peers which pieces of a tree are here, hears which they hold, and gives them what they ask for."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import structlog

from gridnode.errors import BodyInvalid, GridError, NoCapacity, SyncError
from gridnode.link.protocol import Link
from gridnode.model import ChunkHash, NodeId, Role, Root
from gridnode.sync import ChunkStore
from gridnode.sync.manifest import root_hash
from gridnode.sync.parts import give_parts
from gridnode.sync.piece_wire import (
    Have,
    PieceGet,
    PieceParts,
    decode_get,
    decode_have,
    encode_have,
    encode_parts,
)
from gridnode.sync.pieces import Layout, cut
from gridnode.sync.ration import Ration
from gridnode.sync.swarm import Announced, Gained
from gridnode.sync.tree import Walk
from gridnode.sync.turns import Turns
from gridnode.wire import Frame, Op

log = structlog.get_logger()

Listener = Callable[[Announced | Gained], None]

_MAX_TREES = 64
"""Trees whose pieces are known; fetches under way come on top."""
_MAX_READING = 4
"""Trees that are read because somebody asked for them."""
_COALESCE = 0.05
"""Seconds for which what came is collected before peers are told."""
_MAX_UNREAD = 64 * 1024
"""Bytes that wait on a link, above which an upload is not over: what is chosen late is chosen well."""
_PATIENCE = 0.5
"""Seconds after which the upload to a slow peer holds up no other."""
_POLL = 0.005


@dataclass(slots=True)
class _Tree:
    """count: of its pieces; bits: those here; fresh: those that nobody was told of yet.

    fetching: what those hold who fetch it; listener: of what others hold, while this node does.
    """

    root: Root
    count: int
    bits: int
    ration: Ration
    fetching: dict[NodeId, int] = field(default_factory=dict)
    fresh: int = 0
    listener: Listener | None = None

    @property
    def is_whole(self) -> bool:
        """All of it is here."""
        return self.bits == (1 << self.count) - 1

    def have(self, asks: bool = False) -> bytes:
        fetches = self.listener is not None
        return encode_have(Have(self.root, self.count, self.bits, asks=asks, fetches=fetches))


class Exchange:
    """tell: sends an event to every peer; link: the open main link to one, or None."""

    def __init__(
        self,
        store: ChunkStore,
        tell: Callable[[Op, bytes], None],
        link: Callable[[NodeId], Link | None],
    ) -> None:
        self._store = store
        self._tell = tell
        self._link = link
        self._loop = asyncio.get_running_loop()
        self._trees: OrderedDict[Root, _Tree] = OrderedDict()
        self._turns = Turns()
        self._asked: dict[Root, dict[NodeId, Have]] = {}
        self._jobs: set[asyncio.Task[None]] = set()

    # -- what is here -----------------------------------------------------------------------------------------------

    def hold(self, layout: Layout, bits: int) -> None:
        """These pieces of the tree are here."""
        before = self._trees.get(layout.root)
        ration = Ration(layout.everything)
        self._trees[layout.root] = tree = _Tree(layout.root, len(layout.pieces), bits, ration)
        if before:
            tree.fetching, tree.listener = before.fetching, before.listener
            tree.ration = before.ration
            self._answer_all(tree)
        self._trees.move_to_end(layout.root)
        for root in [root for root, one in self._trees.items() if one.listener is None][:-_MAX_TREES]:
            del self._trees[root]

    @contextmanager
    def fetching(self, layout: Layout, bits: int, listener: Listener) -> Iterator[None]:
        """Ask all peers what they hold of the tree, and hear of it while the block runs."""
        self.hold(layout, bits)
        tree = self._trees[layout.root]
        tree.listener = listener
        self._tell(Op.HAVE, tree.have(asks=True))
        try:
            yield
        finally:
            tree.listener = None

    def gained(self, root: Root, piece: int) -> None:
        """One more is here; peers are told in a moment."""
        tree = self._trees.get(root)
        if tree is None:
            return
        if not tree.fresh:
            self._loop.call_later(_COALESCE, self._tell_fresh, root)
        tree.bits |= 1 << piece
        tree.fresh |= 1 << piece

    def _tell_fresh(self, root: Root) -> None:
        tree = self._trees.get(root)
        if tree and tree.fresh:
            body = encode_have(Have(root, tree.count, tree.fresh, is_more=True))
            tree.fresh = 0
            for peer in tree.fetching:
                self._event(peer, body)

    def linked(self, link: Link) -> None:
        """A peer is newly linked: it hears what we fetch."""
        for tree in self._trees.values():
            if tree.listener:
                link.event(Op.HAVE, tree.have(asks=True))

    def _answer_all(self, tree: _Tree) -> None:
        body = tree.have()
        for peer in tree.fetching:
            self._event(peer, body)

    def _event(self, peer: NodeId, body: bytes) -> None:
        link = self._link(peer)
        if link:
            link.event(Op.HAVE, body)

    # -- what peers hold --------------------------------------------------------------------------------------------

    def heard(self, peer: NodeId, frame: Frame) -> bool:
        """Take an event of a peer; whether it was one of ours. Raises BodyInvalid."""
        if frame.op != Op.HAVE:
            return False
        have = decode_have(frame.body)
        tree = self._trees.get(have.root)
        if tree:
            self._take(tree, peer, have)
        elif have.asks:
            self._read(peer, have)
        return True

    def _take(self, tree: _Tree, peer: NodeId, have: Have) -> None:
        if have.count != tree.count:
            raise BodyInvalid(f"{have.count} pieces of a tree that has {tree.count}")
        if have.fetches or peer in tree.fetching:
            tree.fetching[peer] = have.bits | (tree.fetching.get(peer, 0) if have.is_more else 0)
        if have.asks:
            self._event(peer, tree.have())
        if tree.listener:
            tree.listener(Gained(peer, have.bits) if have.is_more else Announced(peer, have.bits))

    def _read(self, peer: NodeId, have: Have) -> None:
        """A peer fetches a tree that we may hold without having looked at it since we started."""
        asked = self._asked.get(have.root)
        if asked is not None:
            asked[peer] = have
        elif len(self._asked) < _MAX_READING:
            self._asked[have.root] = {peer: have}
            self._start(self._read_tree(have.root))

    async def _read_tree(self, root: Root) -> None:
        try:
            layout = await asyncio.to_thread(read_layout, self._store, root)
            missing = await asyncio.to_thread(self._store.missing, list(layout.lengths))
            if root not in self._trees:
                self.hold(layout, layout.held(missing))
            for peer, have in self._asked[root].items():
                self._take(self._trees[root], peer, have)
        except GridError as exc:
            log.debug("cannot tell what is here of a tree", root=root, error=exc.message)
        finally:
            del self._asked[root]

    # -- giving -----------------------------------------------------------------------------------------------------

    def takes(self) -> dict[tuple[Role, int], Callable[[Link, Frame], None]]:
        """The Calls that it answers."""
        return {(Role.NODE, Op.PIECE_GET): self.take}

    def take(self, link: Link, frame: Frame) -> None:
        """Answers PIECE_GET."""
        get = decode_get(frame.body)
        job = self._start(self._answer(link, frame.call_id, get))
        link.on_cancel(frame.call_id, lambda: _stop(job))

    async def _answer(self, link: Link, call_id: int, get: PieceGet) -> None:
        peer = link.peer.node if link.peer and link.peer.node else NodeId("")
        try:
            given = self.given(peer, get)
            if given:
                link.reply(call_id, encode_parts(PieceParts((), True, given)))
                return
            async with self._turns.turn(peer, (get.root, get.piece)):
                link.reply(call_id, await self.give(get))
                await _drained(link, self._loop.time() + _PATIENCE)
        except NoCapacity:
            link.reply(call_id, encode_parts(PieceParts((), True)))
        except GridError as exc:
            link.reply_error(call_id, exc)

    async def give(self, get: PieceGet) -> bytes:
        """The chunks that are here of those asked for."""
        return encode_parts(PieceParts(tuple(await asyncio.to_thread(give_parts, self._store, get.chunks))))

    def given(self, peer: NodeId, get: PieceGet) -> int:
        """The pieces that the peer has to get from others for now; 0 when it gets what it asks for."""
        tree = self._trees.get(get.root)
        if tree is None or not tree.is_whole or get.piece >= tree.count:
            return 0
        fetching = {one: bits for one, bits in tree.fetching.items() if self._link(one)}
        return tree.ration.take(get.piece, peer, fetching, self._loop.time())

    def _start(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        job = asyncio.create_task(work, name="exchange")
        self._jobs.add(job)
        job.add_done_callback(self._jobs.discard)
        return job


def read_layout(store: ChunkStore, root: Root) -> Layout:
    """The pieces of a tree all of whose nodes are in the store; SyncError otherwise. Synchronous."""
    if not store.has(root_hash(root)):
        raise SyncError(f"the tree {root} is not here")
    walk = Walk(root)
    while walk.wanted:
        for item in list(walk.wanted):
            walk.feed(item, store.get(ChunkHash(item)))
    return cut(root, walk.chunks)


async def _drained(link: Link, deadline: float) -> None:
    """Until the peer has read most of what was sent to it."""
    now = asyncio.get_running_loop().time
    while True:
        if not link.is_open or link.buffered() <= _MAX_UNREAD or now() >= deadline:
            return
        await asyncio.sleep(_POLL)


def _stop(job: asyncio.Task[None]) -> None:
    job.cancel()
