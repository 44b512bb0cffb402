"""When a call that has to wait will be over: by how long the ones before it took."""

from collections.abc import Sequence
from typing import Final

_MARGIN: Final = 1.25
"""Calls differ: what is only just over in time by the mean is as likely to be cut off in the middle."""


def over_after(ahead: int, paces: Sequence[float]) -> float:
    """Seconds, with so many calls ahead of it; 0 as long as nothing is known.

    paces: of each instance, seconds from answer to answer when it has enough to do; 0 where that is not known.
    """
    known = [pace for pace in paces if pace]
    if not known:
        return 0.0
    one = len(known) / sum(1 / pace for pace in known)
    return _MARGIN * one * (ahead / len(paces) + 1)
