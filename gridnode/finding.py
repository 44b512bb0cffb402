"""How a node finds its peers and is found: seeds, peers it had before, multicast, the DHT, and where others see it."""

import asyncio
import secrets
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack

import structlog

from gridnode.checks import Multicast, check_multicast, check_nat, neighbours
from gridnode.diagnosis import Check
from gridnode.discovery import OnSighting
from gridnode.discovery.dht_discovery import DhtDiscovery
from gridnode.discovery.interfaces import multicast_interfaces, own_addresses, own_networks
from gridnode.discovery.mdns import MdnsDiscovery
from gridnode.discovery.observed import ObservedHosts
from gridnode.gridfile import Card, parse_address
from gridnode.identity import Credentials, seal, unseal
from gridnode.mesh import Mesh
from gridnode.model import Address, NodeId, Sighting
from gridnode.remembered import RememberedPeers
from gridnode.settings import Settings

__all__ = ["Finding", "own_places"]

log = structlog.get_logger()

_LOOK_EVERY = 1.0
_MAX_HEARD = 4096
_LONELY_AFTER = 60
"""Looks after which a node that is alone tries all it remembers again."""


class Finding:
    """Feeds the mesh sightings, and keeps what this node says of its own addresses true."""

    def __init__(self, settings: Settings, card: Card, credentials: Credentials, mesh: Mesh) -> None:
        self._settings = settings
        self._card = card
        self._credentials = credentials
        self._mesh = mesh
        self._observed = ObservedHosts()
        self._remembered = RememberedPeers(settings.data_dir / "peers", time.time())
        self._interfaces = multicast_interfaces()
        self._renewed: list[DhtDiscovery | MdnsDiscovery] = []
        self._heard: set[NodeId] = set()
        self._refused = ""

    def seen_at(self, peer: NodeId, host: str) -> None:
        """A peer says where it sees this node."""
        self._observed.hear(peer, host)

    def renew(self, credentials: Credentials) -> None:
        """Announce with these from now on."""
        self._credentials = credentials
        for source in self._renewed:
            if isinstance(source, DhtDiscovery):
                source.show(credentials)

    def forget(self, node: NodeId) -> None:
        """It is gone for good: look for it no more."""
        self._remembered.forget(node)

    async def start(self, stack: AsyncExitStack) -> None:
        """Be found, and report others to the mesh; what the network refuses is said, and the rest goes on."""
        for seed in self._card.seeds:
            self._mesh.sighted(Sighting(seed), seed=True)
        self._sight_remembered()
        if self._settings.dht:
            await self._open("no DHT here; other ways find peers", self._dht(), stack, self._mesh.sighted)
        if self._settings.mdns:
            said = await self._open("no multicast here; other ways find peers", self._mdns(), stack, self._hear)
            self._refused = said

    async def run(self) -> None:
        """Until cancelled: follow interfaces, and write down who is linked."""
        alone = 0
        while True:
            self._follow()
            alone = 0 if self._mesh.alive() else alone + 1
            if alone and alone % _LONELY_AFTER == 0:
                self._sight_remembered()
            self._remembered.remember((record for record, _ in self._mesh.alive()), time.time())
            if self._remembered.changed:
                await asyncio.to_thread(self._remembered.save)
            await asyncio.sleep(_LOOK_EVERY)

    async def look(self) -> list[Check]:
        """For the doctor: NAT and multicast."""
        records = [record for record, _ in self._mesh.alive()]
        own = {address.host for address in own_addresses(self._settings.port)}
        found = Multicast(
            self._settings.mdns,
            self._refused,
            len(self._interfaces),
            frozenset(record.name for record in records if record.id in self._heard),
            neighbours(records, own_networks()),
            time.time() - self._mesh.record().started,
        )
        nat = check_nat(self._observed.hosts(own), bool(self._settings.advertise), self._settings.port)
        return [nat, check_multicast(found)]

    # -- inside -----------------------------------------------------------------------------------------------------

    async def _open(
        self, refused: str, source: DhtDiscovery | MdnsDiscovery, stack: AsyncExitStack, sighted: OnSighting
    ) -> str:
        """Why it could not begin; nothing when it has."""
        try:
            await source.start(sighted)
        except OSError as exc:
            log.warning(refused, error=str(exc))
            return str(exc)
        self._renewed.append(source)
        stack.push_async_callback(source.close)
        return ""

    def _hear(self, sighting: Sighting) -> None:
        """Multicast tells of somebody; what is sealed is told by members alone."""
        if sighting.node and len(self._heard) < _MAX_HEARD:
            self._heard.add(sighting.node)
        self._mesh.sighted(sighting)

    def _mdns(self) -> MdnsDiscovery:
        key = self._card.network_key
        return MdnsDiscovery(
            self._credentials.node,
            lambda: self._mesh.record().addresses,
            lambda payload: seal(key, payload, time.time(), secrets.token_bytes(12)),
            lambda sealed: unseal(key, sealed, time.time()),
            multicast_interfaces,
        )

    def _dht(self) -> DhtDiscovery:
        listen = (self._settings.listen, self._settings.port)
        key = self._card.network_key
        return DhtDiscovery(self._credentials, key, listen, lambda: self._mesh.record().addresses, self._contacts)

    def _contacts(self) -> Iterator[Address]:
        yield from self._card.seeds
        for record, _ in self._mesh.alive():
            yield from record.addresses
        for sighting in self._remembered.sightings():
            yield sighting.address

    def _sight_remembered(self) -> None:
        for sighting in self._remembered.sightings():
            self._mesh.sighted(sighting)

    def _follow(self) -> None:
        """Say anew where this node listens when that has changed."""
        addresses, interfaces = self._addresses(), multicast_interfaces()
        if addresses == self._mesh.record().addresses and interfaces == self._interfaces:
            return
        log.info("addresses", addresses=[str(address) for address in addresses])
        self._interfaces = interfaces
        self._mesh.update(at_once=True, addresses=addresses)
        for source in self._renewed:
            source.renew()

    def _addresses(self) -> tuple[Address, ...]:
        own = own_places(self._settings)
        if self._settings.advertise:
            return own
        seen = self._observed.hosts({address.host for address in own})
        return (*own, *(Address(host, self._settings.port) for host in seen))


def own_places(settings: Settings) -> tuple[Address, ...]:
    """Where a node listens as far as it can tell by itself: what it is told to advertise, else its interfaces."""
    given = [parse_address(text) for text in settings.advertise]
    return tuple(address for address in given if address) or own_addresses(settings.port)
