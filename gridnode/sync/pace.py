"""How fast bytes come in, over the last few seconds."""

from collections import deque

__all__ = ["Pace"]

_WINDOW = 3.0
_STEP = 0.1


class Pace:
    """Of a count that only grows."""

    def __init__(self) -> None:
        self._marks: deque[tuple[float, int]] = deque()

    def note(self, count: int, now: float) -> int:
        """The count at this time, in seconds; what it grows by in a second, 0 at first."""
        marks = self._marks
        if not marks or now - marks[-1][0] >= _STEP:
            marks.append((now, count))
        while len(marks) > 2 and now - marks[1][0] >= _WINDOW:
            marks.popleft()
        since, before = marks[0]
        return int((count - before) / (now - since)) if now - since >= _STEP else 0
