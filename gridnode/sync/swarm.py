"""Which piece to ask of whom: the fetch of one tree from many peers at once, as events in and requests out.

Rarest piece first, random ones among equals, so that peers soon hold different ones and give them to each other. What
a peer is asked for at once follows how much it delivers in a round trip. One that stays silent is waited for no longer;
near the end a few pieces are asked of a second peer.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from gridnode.model import NodeId
from gridnode.sync.pieces import bits_of, pieces_in

__all__ = [
    "Announced",
    "Ask",
    "Drop",
    "Effect",
    "Event",
    "Failed",
    "Gained",
    "Gone",
    "Got",
    "Lied",
    "Missed",
    "Refused",
    "Swarm",
    "SwarmLimits",
    "Tick",
]


@dataclass(frozen=True, slots=True)
class SwarmLimits:
    """Bytes and seconds. window, max_window: asked of a peer at once, at least and at most; in_all: of all peers.

    One piece may be asked of a peer in any case.

    silence: of a peer after which its pieces are asked elsewhere, unless 4 round trips are longer; give_up: after
    which a request is dropped. refused: how long a peer is not asked again for what it gives to others now.
    pause: after a failure of its link.
    """

    window: int = 256 * 1024
    max_window: int = 8 * 1024 * 1024
    in_all: int = 64 * 1024 * 1024
    silence: float = 2.0
    give_up: float = 60.0
    refused: float = 0.5
    pause: float = 0.3
    duplicates: int = 8


class Announced(NamedTuple):
    """What a peer holds, in place of what it held before."""

    peer: NodeId
    bits: int


class Gained(NamedTuple):
    """What a peer holds besides."""

    peer: NodeId
    bits: int


class Gone(NamedTuple):
    """The link to a peer is lost."""

    peer: NodeId


class Got(NamedTuple):
    """A piece is here and proved right. size: bytes that came for it."""

    peer: NodeId
    piece: int
    size: int


class Refused(NamedTuple):
    """A peer gives these pieces to others now, which have them for us soon; none: it has too much to do."""

    peer: NodeId
    piece: int
    given: int = 0


class Missed(NamedTuple):
    """A peer does not hold, or not wholly, what it said it holds."""

    peer: NodeId
    piece: int


class Failed(NamedTuple):
    """The request came to nothing, for no reason that says something about the piece."""

    peer: NodeId
    piece: int


class Lied(NamedTuple):
    """A peer sent what it was not asked for; it is not asked again."""

    peer: NodeId


class Tick(NamedTuple):
    """Time has passed."""


Event = Announced | Gained | Gone | Got | Refused | Missed | Failed | Lied | Tick


class Ask(NamedTuple):
    """Ask a peer for what is missing of a piece; answered by Got, Refused, Missed, Failed or Lied."""

    peer: NodeId
    piece: int


class Drop(NamedTuple):
    """Nobody waits for this request any more; no event is expected of it."""

    peer: NodeId
    piece: int


Effect = Ask | Drop


@dataclass(slots=True)
class _Request:
    """at: when it was asked; delivered: what the peer had delivered by then; late: others may be asked for it too."""

    at: float
    delivered: int
    late: bool = False


@dataclass(slots=True)
class _Peer:
    """One peer. round_trip: seconds, smoothed; shortest: the least of them; rate: bytes a second it can do."""

    window: int
    bits: int = 0
    requests: dict[int, _Request] = field(default_factory=dict)
    waiting: int = 0
    delivered: int = 0
    heard: float = 0.0
    round_trip: float = 0.0
    shortest: float = 0.0
    rate: float = 0.0
    timeouts: int = 0
    refused: int = 0
    refused_until: float = 0.0
    paused_until: float = 0.0


class Swarm:
    """One tree on its way here. sizes: bytes to come of each piece; missing: the pieces that do not wholly lie here.

    pick: a random number below its argument.
    """

    def __init__(
        self, sizes: Sequence[int], missing: int, pick: Callable[[int], int], limits: SwarmLimits | None = None
    ) -> None:
        self.missing = missing
        self._sizes = sizes
        self._pick = pick
        self._limits = limits or SwarmLimits()
        self._peers: dict[NodeId, _Peer] = {}
        self._liars: set[NodeId] = set()
        self._asked = 0  # pieces with a request that is not late
        self._holders = [0] * len(sizes)
        self._rarity: dict[int, int] = {0: (1 << len(sizes)) - 1}  # by number of holders, the pieces
        self._waiting = 0
        self._duplicates = 0

    @property
    def is_idle(self) -> bool:
        """Nothing is asked for."""
        return not any(peer.requests for peer in self._peers.values())

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Take in what happened; what to do about it."""
        match event:
            case Got(peer, piece, size):
                return [*self._got(peer, piece, size, now), *self._fill_all(now)]
            case Announced(peer, bits):
                return self._announced(peer, bits, now)
            case Gained(peer, bits):
                held = self._peers[peer].bits if peer in self._peers else 0
                return self._announced(peer, held | bits, now)
            case Gone(peer):
                return [*self._forget(peer), *self._fill_all(now)]
            case Lied(peer):
                self._liars.add(peer)
                return [*self._forget(peer), *self._fill_all(now)]
            case Tick():
                return [*self._pass_time(now), *self._fill_all(now)]
            case Refused(peer, piece) | Missed(peer, piece) | Failed(peer, piece):
                self._answered(event, now)
                return self._fill_all(now)

    # -- what peers say ---------------------------------------------------------------------------------------------

    def _announced(self, peer: NodeId, bits: int, now: float) -> list[Effect]:
        if peer in self._liars:
            return []
        row = self._peers.setdefault(peer, _Peer(self._limits.window, heard=now))
        bits &= (1 << len(self._sizes)) - 1
        self._count(row.bits & ~bits, -1)
        fresh = bits & ~row.bits
        self._count(fresh, 1)
        row.bits = bits
        return self._fill(peer, now) if fresh & self.missing else []

    def _count(self, bits: int, step: int) -> None:
        """These pieces have one holder more, or less."""
        for piece in pieces_in(bits):
            low, holders = 1 << piece, self._holders[piece]
            self._rarity[holders] ^= low
            if not self._rarity[holders]:
                del self._rarity[holders]
            self._holders[piece] = holders + step
            self._rarity[holders + step] = self._rarity.get(holders + step, 0) | low

    def _forget(self, peer: NodeId) -> Iterator[Effect]:
        row = self._peers.get(peer)
        if row:
            self._count(row.bits, -1)
            for piece in list(row.requests):
                self._end(row, piece)
                yield Drop(peer, piece)
            del self._peers[peer]

    # -- what requests come to --------------------------------------------------------------------------------------

    def _got(self, peer: NodeId, piece: int, size: int, now: float) -> Iterator[Effect]:
        row = self._peers.get(peer)
        if row:
            row.heard = now
            row.timeouts = 0
            row.delivered += size
            request = self._end(row, piece)
            if request and size:
                self._measure(row, request, now)
        self.missing &= ~(1 << piece)
        for other, held in self._peers.items():
            if piece in held.requests:
                self._end(held, piece)
                yield Drop(other, piece)

    def _measure(self, row: _Peer, request: _Request, now: float) -> None:
        """Twice what it delivers in its shortest round trip is what it may be asked for at once."""
        seconds = max(now - request.at, 1e-4)
        row.round_trip += (seconds - row.round_trip) * (0.2 if row.round_trip else 1)
        row.shortest = min(row.shortest or seconds, seconds)
        row.rate = max(0.9 * row.rate, (row.delivered - request.delivered) / seconds)
        wanted = int(2 * row.rate * row.shortest)
        row.window = min(max(wanted, self._limits.window), self._limits.max_window)

    def _answered(self, event: Refused | Missed | Failed, now: float) -> None:
        row = self._peers.get(event.peer)
        if row is None or not self._end(row, event.piece):
            return
        match event:
            case Refused(_, piece, given):
                row.heard = now
                if given:
                    row.refused |= given
                    row.refused_until = now + self._limits.refused
                else:
                    row.paused_until = now + self._limits.pause * (1 + self._pick(100) / 100) / 4
            case Missed(_, piece):
                row.heard = now
                self._count(row.bits & 1 << piece, -1)
                row.bits &= ~(1 << piece)
            case Failed():
                row.paused_until = now + self._limits.pause

    def _end(self, row: _Peer, piece: int) -> _Request | None:
        """The request is over."""
        request = row.requests.pop(piece, None)
        if request:
            row.waiting -= self._sizes[piece]
            self._waiting -= self._sizes[piece]
            if not any(piece in other.requests and not other.requests[piece].late for other in self._peers.values()):
                self._asked &= ~(1 << piece)
        return request

    def _pass_time(self, now: float) -> Iterator[Effect]:
        for peer, row in self._peers.items():
            patience = max(self._limits.silence, 4 * row.round_trip) * (1 << min(row.timeouts, 4))
            was_late = False
            for piece, request in list(row.requests.items()):
                if now - request.at > self._limits.give_up:
                    self._end(row, piece)
                    yield Drop(peer, piece)
                elif not request.late and now - max(row.heard, request.at) > patience:
                    request.late = was_late = True
                    self._asked &= ~(1 << piece)
            if was_late:
                row.timeouts += 1
                row.window = 0

    # -- what to ask ------------------------------------------------------------------------------------------------

    def _fill_all(self, now: float) -> list[Effect]:
        """Those that were slow come last."""
        effects: list[Effect] = []
        peers = list(self._peers)
        start = self._pick(len(peers)) if peers else 0
        for peer in sorted(peers[start:] + peers[:start], key=lambda one: self._peers[one].timeouts):
            effects += self._fill(peer, now)
        return effects

    def _fill(self, peer: NodeId, now: float) -> list[Effect]:
        row = self._peers.get(peer)
        effects: list[Effect] = []
        while row and now >= row.paused_until and self._waiting < self._limits.in_all:
            if row.requests and row.waiting >= row.window:
                break
            piece = self._choose(row, now)
            if piece is None or (row.requests and row.waiting + self._sizes[piece] // 2 > row.window):
                break
            row.requests[piece] = _Request(now, row.delivered)
            row.waiting += self._sizes[piece]
            self._waiting += self._sizes[piece]
            self._asked |= 1 << piece
            effects.append(Ask(peer, piece))
        return effects

    def _choose(self, row: _Peer, now: float) -> int | None:
        if now >= row.refused_until:
            row.refused = 0
        useful = row.bits & self.missing & ~row.refused
        free = useful & ~self._asked
        if not free:
            return self._second(row, useful, now)
        free &= ~bits_of(row.requests)  # those of its own that are late
        for holders in sorted(self._rarity):
            rarest = free & self._rarity[holders]
            if rarest:
                return self._any_of(rarest)
        return None

    def _any_of(self, bits: int) -> int:
        """One of them, by chance."""
        start = self._pick(len(self._sizes))
        ahead = bits >> start
        if ahead:
            return start + (ahead & -ahead).bit_length() - 1
        return (bits & -bits).bit_length() - 1

    def _second(self, row: _Peer, useful: int, now: float) -> int | None:
        """Of the last few pieces, one that another peer takes longer for than usual."""
        few = self.missing.bit_count() <= self._limits.duplicates
        if not few or self.missing & ~self._asked or self._duplicates >= self._limits.duplicates:
            return None
        for piece in pieces_in(useful):
            if piece in row.requests:
                continue
            others = [other for other in self._peers.values() if piece in other.requests]
            if len(others) == 1 and now - others[0].requests[piece].at > 2 * (others[0].round_trip or 0.25):
                self._duplicates += 1
                return piece
        return None
