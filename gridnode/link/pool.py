"""The links of this node, by peer."""

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterator, Sequence

from gridnode.errors import GridError, LinkClosed
from gridnode.link.protocol import Link
from gridnode.model import Address, NodeId

_MAX_SPARE = 3
"""Links to one peer besides the one in use."""


class LinkPool:
    """The open links of this node, by peer: one each, and for a moment two when both sides dialled."""

    def __init__(self, self_id: NodeId, silent_after: float) -> None:
        self._self_id = self_id
        self._silent_after = silent_after
        self._links: dict[NodeId, Link] = {}
        self._ticked = math.inf
        self._surplus: dict[Link, None] = {}

    def __iter__(self) -> Iterator[tuple[NodeId, Link]]:
        return iter(list(self._links.items()))

    def __len__(self) -> int:
        return len(self._links)

    def get(self, node: NodeId) -> Link | None:
        return self._links.get(node)

    def add(self, node: NodeId, link: Link) -> bool:
        """Take an opened link; whether it is the one calls now go through. Both sides keep the lower id's dial."""
        held = self._links.get(node)
        if held and held.is_open and (held.address is None) != (link.address is None) and not self._wins(node, link):
            self._spare(node, link)
            return False
        self._links[node] = link
        if held:
            self._spare(node, held)
        return True

    def remove(self, node: NodeId, link: Link) -> bool:
        """Forget a closed link; whether the peer is now without one."""
        self._surplus.pop(link, None)
        if self._links.get(node) is not link:
            return False
        spare = next((other for other in self._surplus if _leads_to(other, node)), None)
        if spare:
            del self._surplus[spare]
            self._links[node] = spare
            return False
        del self._links[node]
        return True

    def tick(self, now: float, ping_after: float) -> dict[NodeId, float] | None:
        """Ping whom we have not heard for so long; seconds for which each was quiet, where that is longer.

        Surplus links that carry nothing are closed, or dropped when silent. None after a pause of our own: what peers
        sent meanwhile is still to be read.
        """
        paused = now - self._ticked > self._silent_after / 2
        self._ticked = now
        for link in [link for link in self._surplus if link.address and not link.busy]:
            link.close()
        for link in list(self._surplus):
            if not paused and now - link.last_heard > 2 * self._silent_after:
                link.abort(LinkClosed(f"silent for {2 * self._silent_after:g} s"))
        for link in [*self._links.values(), *self._surplus]:
            if now - link.last_heard >= ping_after:
                link.ping()
        if paused:
            return None
        quiet = ((node, now - link.last_heard) for node, link in self._links.items())
        return {node: seconds for node, seconds in quiet if seconds > ping_after}

    def retire(self, node: NodeId) -> None:
        """Place no more calls on the link to this peer; its dialler closes it once it carries none."""
        link = self._links.pop(node, None)
        if link:
            self._spare(node, link)

    def drop(self, node: NodeId, why: str) -> None:
        """Abort every link to this peer."""
        for link in [held for held in (self._links.get(node), *self._surplus) if held and _leads_to(held, node)]:
            link.abort(LinkClosed(why))

    def close(self) -> None:
        for link in [*self._links.values(), *self._surplus]:
            link.close()

    def _spare(self, node: NodeId, link: Link) -> None:
        """Keep a link that is not in use for the calls on it; of a peer that dials again and again, only a few."""
        self._surplus[link] = None
        for other in [held for held in self._surplus if _leads_to(held, node)][:-_MAX_SPARE]:
            other.close()

    def _wins(self, node: NodeId, link: Link) -> bool:
        dialler = self._self_id if link.address else node
        return dialler == min(self._self_id, node)


class BulkLinks:
    """Second links to peers, for chunks, so that a release on its way holds up no call. dialler: opens one."""

    def __init__(self, dialler: Callable[[Address], Awaitable[Link]]) -> None:
        self._dialler = dialler
        self._links: dict[NodeId, Link] = {}
        self._dialling: dict[NodeId, asyncio.Lock] = {}
        self._out_of_reach: set[NodeId] = set()

    async def get(self, node: NodeId, addresses: Sequence[Address], main: Link) -> Link:
        """The open bulk link to `node`, dialled if need be; a peer that cannot be dialled is asked over `main`."""
        async with self._dialling.setdefault(node, asyncio.Lock()):
            held = self._links.get(node)
            if held and held.is_open:
                return held
            link = None if node in self._out_of_reach else await self._dial(node, addresses)
            if link is None:
                self._out_of_reach.add(node)
                return main
            self._links[node] = link
            return link

    async def _dial(self, node: NodeId, addresses: Sequence[Address]) -> Link | None:
        for address in addresses:
            try:
                link = await self._dialler(address)
            except GridError:
                continue
            if await leads_there(link, node):
                return link
        return None

    def close(self) -> None:
        """Close all: nothing is being fetched."""
        for link in self._links.values():
            link.close()
        self._links.clear()
        self._out_of_reach.clear()


def _leads_to(link: Link, node: NodeId) -> bool:
    return link.is_open and link.peer is not None and link.peer.node == node


async def leads_there(link: Link, node: NodeId) -> bool:
    """Whether a link just dialled opens and ends at `node`; it is closed when not."""
    leads = False
    try:
        await link.wait_open()
        leads = _leads_to(link, node)
    except GridError:
        pass
    finally:
        if not leads:
            link.close()
    return leads
