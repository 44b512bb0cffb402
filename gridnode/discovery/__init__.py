"""Discovery: where others may listen. Whatever it says is a hint (Sighting), never a member."""

from collections.abc import Callable
from typing import Protocol

from gridnode.model import Sighting

__all__ = ["Discovery", "OnSighting"]

OnSighting = Callable[[Sighting], None]


class Discovery(Protocol):
    """One source of sightings."""

    async def start(self, on_sighting: OnSighting) -> None:
        """Announce this node and report others from now on; raises OSError when the network refuses."""

    async def close(self) -> None:
        """Withdraw the announcement."""
