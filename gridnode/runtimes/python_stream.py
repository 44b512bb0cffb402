"""Handlers that yield: what the reader of a stream still takes, and the items of a call that is to be no stream."""

from __future__ import annotations

import struct

from gridnode.runtimes.python_frames import MAX_BODY

FIRST_ITEMS, FIRST_SIZE = 64, 256 * 1024
"""What may be sent before the reader has said anything."""
_CREDIT = struct.Struct(">II")


class Credit:
    """Of one stream: items and bytes. An item goes while one of each is left."""

    __slots__ = ("_items", "_size")

    def __init__(self) -> None:
        self._items, self._size = FIRST_ITEMS, FIRST_SIZE

    @property
    def is_open(self) -> bool:
        return self._items > 0 and self._size > 0

    def spend(self, size: int) -> None:
        self._items -= 1
        self._size -= size

    def add(self, body: bytes) -> None:
        """What a Credit frame allows besides; ValueError on garbage."""
        if len(body) != _CREDIT.size:
            raise ValueError(f"a credit of {len(body)} bytes")
        items, size = _CREDIT.unpack(body)
        self._items += items
        self._size += size


class Collected:
    """Items, to be the JSON list that is the result."""

    def __init__(self) -> None:
        self._items: list[bytes] = []
        self._size = 2

    def add(self, item: bytes) -> bool:
        """Whether the list still fits into a result."""
        self._items.append(item)
        self._size += len(item) + 1
        return self._size - 1 <= MAX_BODY

    @property
    def body(self) -> bytes:
        return b"[" + b",".join(self._items) + b"]"
