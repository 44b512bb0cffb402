"""Flow control of streams: what a producer may send, and when its reader allows more. The same on every hop."""

from collections.abc import Callable
from typing import Final, NamedTuple

from gridnode.errors import FrameInvalid

__all__ = ["FIRST_ITEMS", "FIRST_SIZE", "MAX_ITEMS", "MAX_SIZE", "Credit", "Meter", "Stream", "Window"]

FIRST_ITEMS: Final = 64
FIRST_SIZE: Final = 256 * 1024
"""Items and bytes that a producer may send before its reader has said anything: part of the protocol."""
MAX_ITEMS: Final = 4096
MAX_SIZE: Final = 64 * 1024 * 1024
"""That may be allowed at one time."""


class Credit(NamedTuple):
    """What a reader allows besides: at least one item; size in bytes."""

    items: int
    size: int


class Window:
    """What may still be sent: an item while one item and one byte are left, so the last may be larger than the rest."""

    __slots__ = ("_items", "_size")

    def __init__(self) -> None:
        self._items = FIRST_ITEMS
        self._size = FIRST_SIZE

    @property
    def is_open(self) -> bool:
        return self._items > 0 and self._size > 0

    def spend(self, size: int) -> None:
        """An item of so many bytes goes; FrameInvalid when none may."""
        if not self.is_open:
            raise FrameInvalid("an item of a stream past what its reader allowed")
        self._items -= 1
        self._size -= size

    def add(self, credit: Credit) -> None:
        """The reader allows more; FrameInvalid for nothing, and for more than there may be."""
        self._items += credit.items
        self._size += credit.size
        if credit.items < 1 or credit.size < 0 or self._items > MAX_ITEMS or self._size > MAX_SIZE:
            raise FrameInvalid(f"a stream cannot be allowed {credit.items} items and {credit.size} bytes more")


class Meter:
    """A reader's side: items, size: what may be under way to it, no less than FIRST_ITEMS and FIRST_SIZE.

    It allows more each time half of that has been taken, so a short stream costs no frame besides its own.
    """

    __slots__ = ("_items", "_owed", "_size", "_taken_items", "_taken_size")

    def __init__(self, items: int = FIRST_ITEMS, size: int = FIRST_SIZE) -> None:
        self._items, self._size = FIRST_ITEMS, FIRST_SIZE
        self._owed = Credit(max(0, min(items, MAX_ITEMS) - FIRST_ITEMS), max(0, min(size, MAX_SIZE) - FIRST_SIZE))
        self._taken_items = self._taken_size = 0

    def took(self, size: int) -> Credit | None:
        """One item of so many bytes was taken: what to allow now, if anything."""
        self._taken_items += 1
        self._taken_size += size
        if 2 * self._taken_items < self._items and 2 * self._taken_size < self._size:
            return None
        credit = Credit(self._taken_items + self._owed.items, self._taken_size + self._owed.size)
        self._items += self._owed.items
        self._size += self._owed.size
        self._owed = Credit(0, 0)
        self._taken_items = self._taken_size = 0
        return credit


class Stream:
    """What the caller of a streaming call and the place where it runs share. started: an item has come.

    taken: gets each item, from the event loop, and must not raise; source: set by the place that runs the call.
    """

    __slots__ = ("_taken", "source", "started")

    def __init__(self, taken: Callable[[bytes], None]) -> None:
        self.started = False
        self.source: Callable[[Credit], None] | None = None
        self._taken = taken

    def take(self, item: bytes) -> None:
        """One item: JSON."""
        self.started = True
        self._taken(item)

    def allow(self, credit: Credit) -> None:
        """Tell the producer that it may send more."""
        if self.source:
            self.source(credit)
