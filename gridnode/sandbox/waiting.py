"""The calls of a task file that wait for an instance, oldest first."""

from collections import deque
from collections.abc import Iterator

from gridnode.sandbox.seat import Call


class Waiting:
    """A queue with two bounds: how many calls, and bytes of their arguments."""

    def __init__(self, max_count: int, max_size: int) -> None:
        self._max_count = max_count
        self._max_size = max_size
        self._calls: deque[Call] = deque()
        self._size = 0

    def __len__(self) -> int:
        return len(self._calls)

    def __iter__(self) -> Iterator[Call]:
        """A copy: calls may leave while it is read."""
        return iter(list(self._calls))

    def __str__(self) -> str:
        return f"{len(self._calls)} calls with {self._size} bytes are waiting"

    @property
    def first(self) -> Call:
        return self._calls[0]

    @property
    def last(self) -> Call:
        return self._calls[-1]

    def admits(self, size: int) -> bool:
        """Whether one more call of so many bytes may wait."""
        return len(self._calls) < self._max_count and self._size + size <= self._max_size

    def append(self, entry: Call) -> None:
        self._size += len(entry.call.body)
        self._calls.append(entry)

    def put_back(self, entry: Call) -> None:
        """Into its old place, whatever the bounds: it was let in before."""
        place = sum(1 for other in self._calls if other.number < entry.number)
        self._size += len(entry.call.body)
        self._calls.insert(place, entry)

    def pop(self) -> Call:
        """The oldest, which waits no longer."""
        entry = self._calls.popleft()
        self._size -= len(entry.call.body)
        return entry

    def remove(self, entry: Call) -> None:
        self._calls.remove(entry)
        self._size -= len(entry.call.body)
