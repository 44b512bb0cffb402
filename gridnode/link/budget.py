"""How many frames a second the other side of a link may send that cost us and carry no work."""

import asyncio

from gridnode.errors import FrameInvalid


class Budget:
    """Events, pings, cancels, refused calls, and whatever belongs to no call. most: of them in a second."""

    __slots__ = ("_left", "_loop", "_most")

    def __init__(self, most: int, loop: asyncio.AbstractEventLoop) -> None:
        self._most = self._left = most
        self._loop = loop

    def spend(self) -> None:
        """Count one; FrameInvalid past the bound."""
        self._left -= 1
        if self._left == self._most - 1:
            self._loop.call_later(1.0, self._refill)
        if self._left < 0:
            raise FrameInvalid(f"more than {self._most} events in a second")

    def _refill(self) -> None:
        self._left = self._most
