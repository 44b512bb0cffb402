"""Sightings by a DHT of this grid's own: kademlia over sealed UDP, holding a signed record of each node.

Each node publishes its own again
and again; what nobody renews expires. Contacts to begin with are asked for every time: seeds, and peers known before.
"""

import asyncio
import contextlib
import logging
import random
import socket
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence

from gridnode.discovery import OnSighting
from gridnode.discovery.datagrams import Contact, DatagramSocket
from gridnode.discovery.dht import Crawler, DhtProtocol, key_of
from gridnode.discovery.peer_record import PeerRecord, PeerRecords, is_contact, sign_record
from gridnode.discovery.sealed import SealedDatagrams
from gridnode.identity import Credentials
from gridnode.model import Address, Sighting

log = logging.getLogger(__name__)

_TTL = 1800.0
_PUBLISH_EVERY = 300.0
_FIRST_DELAY, _LAST_DELAY = 0.5, 60.0
_CALM = 0.5
"""At least this long between two rounds, however much news there is."""
_STEP_WITHIN = 5.0
_MAX_STARTS = 32
_MAX_LOOKUPS = 32


class DhtDiscovery:
    """credentials: this node's; addresses: where it listens now; contacts: who may know others, names or addresses."""

    def __init__(
        self,
        credentials: Credentials,
        network_key: bytes,
        listen: tuple[str, int],
        addresses: Callable[[], Sequence[Address]],
        contacts: Callable[[], Iterable[Address]],
    ) -> None:
        self._credentials = credentials
        self._sealed = SealedDatagrams(network_key)
        self._listen = listen
        self._addresses = addresses
        self._contacts = contacts
        self._records = PeerRecords(credentials.ca, key_of)
        self._on_sighting: OnSighting | None = None
        self._socket: DatagramSocket | None = None
        self._protocol: DhtProtocol | None = None
        self._job: asyncio.Task[None] | None = None
        self._news = asyncio.Event()
        self._published: tuple[tuple[Address, ...], float] = ((), 0.0)

    async def start(self, on_sighting: OnSighting) -> None:
        self._on_sighting = on_sighting
        protocol = DhtProtocol(self._credentials.node, self._records, self._sealed, self._on_record, self._news.set)
        self._socket = protocol.socket = DatagramSocket(*self._listen, protocol.received)
        self._protocol = protocol
        self._job = asyncio.create_task(self._run(Crawler(protocol)), name="dht")

    async def close(self) -> None:
        if self._job:
            self._job.cancel()
            await asyncio.wait([self._job])
        if self._protocol:
            self._protocol.close()
        if self._socket:
            self._socket.close()

    def renew(self) -> None:
        """This node listens elsewhere now: say so."""
        self._news.set()

    def show(self, credentials: Credentials) -> None:
        """Sign with these from now on, and say so: the chain of those before ends sooner."""
        self._credentials = credentials
        self._news.set()

    @property
    def port(self) -> int:
        return self._socket.port if self._socket else 0

    # -- rounds -----------------------------------------------------------------------------------------------------

    async def _run(self, crawler: Crawler) -> None:
        delay = _FIRST_DELAY
        while True:
            news = self._news.is_set()
            self._news.clear()
            await _try(self._meet(crawler))
            await _try(self._publish(crawler, news or self._news.is_set()))
            await _try(self._look_up_all(crawler))
            await asyncio.sleep(_CALM)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), delay)
            delay = _FIRST_DELAY if self._news.is_set() else min(2 * delay, _LAST_DELAY)

    async def _meet(self, crawler: Crawler) -> None:
        """Find others by those who may know some; without any, by those in the routing table."""
        starts = await self._resolve(self._contacts())
        known = [contact for _, contact in crawler.protocol.contacts()]
        await crawler.bootstrap([start for start in starts if start not in known] or known[:_MAX_STARTS])

    async def _publish(self, crawler: Crawler, news: bool) -> None:
        """Say where this node is: now and then, when that is new, and when there is somebody new to say it to."""
        now, node, addresses = time.time(), self._credentials.node, tuple(self._addresses())
        said, at = self._published
        if not addresses or (addresses == said and abs(now - at) < _PUBLISH_EVERY and not news):
            return
        value = sign_record(self._credentials, addresses, now, _TTL)
        crawler.protocol.take(key_of(node), value)
        if crawler.protocol.contacts() and await crawler.set(node, value):
            self._published = (addresses, now)

    async def _look_up_all(self, crawler: Crawler) -> None:
        """Learn where those are that we met."""
        now = time.time()
        missing = [one for one in crawler.protocol.contacts() if self._records.get(key_of(one[0]), now) is None]
        chosen = random.sample(missing, min(len(missing), _MAX_LOOKUPS))
        await asyncio.gather(*(crawler.look_up(*one) for one in chosen), return_exceptions=True)

    async def _resolve(self, addresses: Iterable[Address]) -> list[Contact]:
        """Where datagrams for these go: a name may have several addresses, or none."""
        chosen = list(dict.fromkeys(addresses))
        random.shuffle(chosen)
        found = await asyncio.gather(*(self._look_up(address) for address in chosen[:_MAX_STARTS]))
        return list(dict.fromkeys(contact for contacts in found for contact in contacts))[:_MAX_STARTS]

    async def _look_up(self, address: Address) -> list[Contact]:
        if is_contact(address.host, address.port):
            contacts = [(address.host, address.port)]
        else:
            try:
                loop = asyncio.get_running_loop()
                rows = await loop.getaddrinfo(address.host, address.port, type=socket.SOCK_DGRAM)
            except (OSError, ValueError):
                return []
            contacts = [(str(row[4][0]), address.port) for row in rows]
        return [one for one in contacts if is_contact(*one) and self._socket and self._socket.reaches(one[0])]

    def _on_record(self, record: PeerRecord) -> None:
        if self._on_sighting and record.node != self._credentials.node:
            for address in record.addresses:
                self._on_sighting(Sighting(address, record.node))


async def _try(step: Coroutine[None, None, None]) -> None:
    """A step of a round that peers may spoil, but not hold up."""
    try:
        async with asyncio.timeout(_STEP_WITHIN):
            await step
    except Exception as exc:  # the library's too: what peers answer leads it astray
        log.debug("a step of the DHT failed: %r", exc)
