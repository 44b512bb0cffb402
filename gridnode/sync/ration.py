"""What a node that has a whole tree gives to those who fetch it: each piece once before any again.

While there are pieces that nobody else has yet, giving one a second time is a waste: they get it from each other.
"""

from collections.abc import Mapping
from typing import Final

from gridnode.model import NodeId

__all__ = ["Ration"]

_ON_ITS_WAY: Final = 2.0
"""Seconds for which a piece that was given counts as arriving."""


class Ration:
    """Of one tree. everything: the set of its pieces."""

    def __init__(self, everything: int) -> None:
        self._everything = everything
        self._given = 0
        self._to: dict[int, tuple[NodeId, float]] = {}

    def take(self, piece: int, peer: NodeId, fetching: Mapping[NodeId, int], now: float) -> int:
        """0 when the peer gets the piece, else the set of pieces it has to get elsewhere for now.

        fetching: what those who fetch the tree hold.
        """
        bit = 1 << piece
        if self._given & bit and self._goes_round(piece, peer, fetching, now) and self._fresh(fetching):
            return self._given
        self._given |= bit
        self._to[piece] = peer, now
        return 0

    def _goes_round(self, piece: int, peer: NodeId, fetching: Mapping[NodeId, int], now: float) -> bool:
        """Whether another has it, or is about to."""
        other, at = self._to[piece]
        if other == peer or other not in fetching:
            return False
        return bool(fetching[other] >> piece & 1) or now - at < _ON_ITS_WAY

    def _fresh(self, fetching: Mapping[NodeId, int]) -> int:
        """The pieces that were never given, and that somebody lacks."""
        lacked = 0
        for bits in fetching.values():
            lacked |= self._everything & ~bits
        return lacked & ~self._given
