"""How far to trust one's own ears: who suspects others wrongly, again and again, is to be slower to (Lifeguard)."""

from dataclasses import dataclass

from gridnode.swim.rows import Row

_MOST = 8.0
_CALMS = 10.0
"""Seconds in which one wrong suspicion is forgotten."""


@dataclass(slots=True)
class Doubts:
    """Times are stretched by one for every second suspicion that was wrong lately, up to eight times."""

    _wrong: float = 0.0
    _since: float = 0.0

    def was_wrong(self, row: Row, now: float) -> None:
        """A suspect objected, or was heard again; what counts is that it was us who could not hear it."""
        if row.accused:
            row.accused = False
            self._wrong = min(self._left(now) + 1.0, 2 * (_MOST - 1))
            self._since = now

    def stretch(self, now: float) -> float:
        return 1.0 + self._left(now) // 2

    def _left(self, now: float) -> float:
        return max(0.0, self._wrong - (now - self._since) / _CALMS)
