"""The pieces of one tree on their way here: carries out what the Swarm asks for, and tells it what came of it."""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable

import structlog

from gridnode import messages
from gridnode.errors import BodyInvalid, ChunkInvalid, ChunkMissing, GridError
from gridnode.link.protocol import Link
from gridnode.messages import MAX_GET, MAX_PARTS_SIZE, ChunkPart
from gridnode.model import ChunkHash, NodeId
from gridnode.sync import ChunkStore
from gridnode.sync.exchange import Exchange
from gridnode.sync.parts import store_parts
from gridnode.sync.piece_wire import PieceGet, PieceParts, decode_parts, encode_get
from gridnode.sync.pieces import Layout, batches
from gridnode.sync.swarm import Ask, Effect, Event, Failed, Gone, Got, Lied, Missed, Refused, Swarm, Tick
from gridnode.wire import Op

log = structlog.get_logger()

_TICK = 0.1
_STUCK = 1.0
"""Seconds without a request after which peers are asked chunk by chunk, whatever they said they hold."""
_GET_TIMEOUT = 60.0
_CHUNKS_TIMEOUT = 10.0


class Sources:
    """Where chunks come from: the peers linked now, each by its bulk link."""

    def __init__(self, peers: Callable[[], Iterable[NodeId]], bulk: Callable[[NodeId], Awaitable[Link]]) -> None:
        self.peers = peers
        self.bulk = bulk


class Source:
    """Chunks from any peer. A peer that sends a bad chunk is not asked again; a slow one last."""

    def __init__(self, store: ChunkStore, sources: Sources) -> None:
        self._store = store
        self._sources = sources
        self.liars: set[NodeId] = set()
        self._slow: set[NodeId] = set()

    def askable(self) -> list[NodeId]:
        """In random order, the slow ones last."""
        peers = [peer for peer in self._sources.peers() if peer not in self.liars]
        random.shuffle(peers)
        return sorted(peers, key=self._slow.__contains__)

    async def piece(self, peer: NodeId, get: PieceGet) -> PieceParts:
        """What a peer answers; TimeoutError, BodyInvalid when it is garbage, or another GridError."""
        link = await self._sources.bulk(peer)
        return decode_parts(await link.request(Op.PIECE_GET, encode_get(get), timeout=_GET_TIMEOUT))

    async def chunks(self, peer: NodeId, wanted: set[ChunkHash]) -> set[ChunkHash]:
        """Those of the wanted chunks that the peer gave, and that proved right."""
        try:
            link = await self._sources.bulk(peer)
            reply = await link.request(Op.CHUNKS_GET, messages.encode(list(wanted)), timeout=_CHUNKS_TIMEOUT)
        except TimeoutError:
            log.info("a peer is slow to give chunks; it is asked last from now on", peer=peer)
            self._slow.add(peer)
            return set()
        except GridError as exc:
            log.debug("peer did not give chunks", peer=peer, error=str(exc))
            return set()
        try:
            return await self.keep(messages.decode(reply, list[ChunkPart]), wanted)
        except (ChunkInvalid, BodyInvalid) as exc:
            self.distrust(peer, exc)
            return set()

    async def keep(self, parts: Iterable[ChunkPart], wanted: Collection[ChunkHash]) -> set[ChunkHash]:
        """Verify and store those that are wanted; ChunkInvalid when one is bad."""
        found = {part.hash: part for part in parts if part.hash in wanted}
        await asyncio.to_thread(store_parts, self._store, found.values())
        return set(found)

    def distrust(self, peer: NodeId, why: GridError) -> None:
        """It is not asked again for this tree."""
        log.warning("a peer sent a bad chunk; not asking it again", peer=peer, error=why.message)
        self.liars.add(peer)


class Download:
    """missing: the chunks to bring; on_arrival: told of each batch that came. patience: seconds without any."""

    def __init__(
        self,
        source: Source,
        exchange: Exchange,
        layout: Layout,
        missing: Iterable[ChunkHash],
        patience: float,
        on_arrival: Callable[[set[ChunkHash]], None],
    ) -> None:
        self._source = source
        self._exchange = exchange
        self._layout = layout
        self._missing = set(missing)
        self._patience = patience
        self._on_arrival = on_arrival
        sizes = [sum(layout.lengths[one] for one in piece.chunks if one in self._missing) for piece in layout.pieces]
        self._bits = layout.held(self._missing)
        self._swarm = Swarm(sizes, layout.everything & ~self._bits, random.randrange)
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._jobs: dict[tuple[NodeId, int], asyncio.Task[None]] = {}
        self._peers: set[NodeId] = set()
        self._came: Counter[NodeId] = Counter()
        self._loop = asyncio.get_running_loop()
        self._last_arrival = self._last_asked = self._loop.time()

    async def run(self) -> None:
        """Until every piece is here; ChunkMissing when nothing came for too long, or the store's own SyncError."""
        with self._exchange.fetching(self._layout, self._bits, self._events.put_nowait):
            begun = self._loop.time()
            try:
                async with asyncio.TaskGroup() as group:
                    await self._follow(group)
                    for job in self._jobs.values():
                        job.cancel()
            except ExceptionGroup as error:
                raise error.exceptions[0] from error
            seconds = round(self._loop.time() - begun, 3)
            log.info("tree fetched", root=self._layout.root, seconds=seconds, bytes_from=dict(self._came))

    async def _follow(self, group: asyncio.TaskGroup) -> None:
        ticked = self._loop.time()
        while self._swarm.missing:
            event: Event = Tick()
            try:
                async with asyncio.timeout(_TICK):
                    event = await self._events.get()
            except TimeoutError:
                pass
            self._handle(event, group)
            if self._loop.time() - ticked >= _TICK:
                ticked = self._loop.time()
                for gone in self._peers - set(self._source.askable()):
                    self._handle(Lied(gone) if gone in self._source.liars else Gone(gone), group)
                self._handle(Tick(), group)
                await self._check_progress()

    def _handle(self, event: Event, group: asyncio.TaskGroup) -> None:
        match event:
            case Gone(peer) | Lied(peer):
                self._peers.discard(peer)
            case Tick():
                pass
            case _:
                self._peers.add(event.peer)
        for effect in self._swarm.handle(event, self._loop.time()):
            self._carry_out(effect, group)

    def _carry_out(self, effect: Effect, group: asyncio.TaskGroup) -> None:
        key = effect.peer, effect.piece
        job = self._jobs.pop(key, None)
        if job:
            job.cancel()
        if isinstance(effect, Ask):
            self._last_asked = self._loop.time()
            self._jobs[key] = group.create_task(self._ask(*key), name="piece")

    async def _ask(self, peer: NodeId, piece: int) -> None:
        """Ask for what is missing of the piece, batch by batch; what came of it becomes an event."""
        try:
            event = await self._obtain(peer, piece)
        except (ChunkInvalid, BodyInvalid) as exc:
            self._source.distrust(peer, exc)
            event = Lied(peer)
        self._events.put_nowait(event)

    async def _obtain(self, peer: NodeId, piece: int) -> Event:
        size = 0
        wanted = [chunk for chunk in self._layout.pieces[piece].chunks if chunk in self._missing]
        for batch in batches(wanted, self._layout.lengths, MAX_GET, MAX_PARTS_SIZE):
            get = PieceGet(self._layout.root, piece, tuple(batch))
            try:
                reply = await self._source.piece(peer, get)
            except (BodyInvalid, ChunkInvalid):
                raise
            except (TimeoutError, GridError) as exc:
                log.debug("peer did not give a piece", peer=peer, error=str(exc))
                return Failed(peer, piece)
            if reply.refused:
                return Refused(peer, piece, reply.given)
            self._arrived(await self._source.keep(reply.parts, batch))
            if not self._missing.isdisjoint(batch):
                return Missed(peer, piece)
            came = sum(len(part.payload) for part in reply.parts)
            self._came[peer] += came
            size += came
        self._exchange.gained(self._layout.root, piece)
        return Got(peer, piece, size)

    def _arrived(self, chunks: set[ChunkHash]) -> None:
        fresh = chunks & self._missing
        if fresh:
            self._missing -= fresh
            self._last_arrival = self._loop.time()
            self._on_arrival(fresh)

    async def _check_progress(self) -> None:
        """When nobody says that it holds what is missing: ask all, chunk by chunk, and give up in the end."""
        now = self._loop.time()
        if not self._swarm.is_idle:
            self._last_asked = now
        elif now - self._last_asked > min(_STUCK, self._patience / 2):
            await self._ask_all()
            self._last_asked = self._loop.time()
        if self._missing and now - self._last_arrival > self._patience:
            some = next(iter(self._missing)).hex()[:12]
            raise ChunkMissing(f"no linked peer has {len(self._missing)} of the chunks ({some}…)")

    async def _ask_all(self) -> None:
        for batch in batches(list(self._missing), self._layout.lengths, MAX_GET, MAX_PARTS_SIZE):
            for peer in self._source.askable():
                if not self._missing.isdisjoint(batch):
                    self._arrived(await self._source.chunks(peer, self._missing.intersection(batch)))
        for piece, (chunks, _) in enumerate(self._layout.pieces):
            if self._swarm.missing >> piece & 1 and self._missing.isdisjoint(chunks):
                self._exchange.gained(self._layout.root, piece)
                self._events.put_nowait(Got(NodeId(""), piece, 0))
