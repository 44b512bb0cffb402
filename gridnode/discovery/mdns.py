"""Sightings by multicast DNS: a random instance name and one sealed TXT value that only this grid can read."""

import asyncio
import base64
import ipaddress
import logging
import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import cast

import msgspec
from zeroconf import IPVersion, ServiceStateChange, Zeroconf
from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

from gridnode.discovery import OnSighting
from gridnode.discovery.rate import TokenBucket
from gridnode.model import Address, NodeId, Sighting

log = logging.getLogger(__name__)

DNS_TYPE = "_gridcontrol._tcp.local."
_KEY = b"p"
_MAX_SEALED = 2048
_MAX_LOOKUPS = 64
_LOOKUP_MS = 2000
_RATE, _BURST = 200.0, 400.0
"""Datagrams a second that zeroconf reads."""
_RESEAL = 600.0
"""Seconds between announcements with a fresh seal: old ones are not believed for ever."""

Seal = Callable[[bytes], bytes]
Open = Callable[[bytes], bytes | None]


Interface = str | int
"""An IPv4 address of an interface, or its index, for IPv6."""


def _open_zeroconf(interfaces: Sequence[Interface]) -> tuple[AsyncZeroconf, IPVersion]:
    """On these interfaces, by IPv6 too where the machine has it; raises OSError."""
    try:
        return AsyncZeroconf(interfaces=list(interfaces), ip_version=IPVersion.All), IPVersion.All
    except OSError:
        return AsyncZeroconf(interfaces=_of_ipv4(interfaces), ip_version=IPVersion.V4Only), IPVersion.V4Only


def _of_ipv4(interfaces: Sequence[Interface]) -> list[Interface]:
    return [one for one in interfaces if isinstance(one, str)] or ["127.0.0.1"]


class _Limited(asyncio.DatagramProtocol):
    """Lets zeroconf read so much and no more: what comes in a flood is lost."""

    def __init__(self, listener: asyncio.DatagramProtocol, bucket: TokenBucket) -> None:
        self._listener = listener
        self._bucket = bucket
        self._now = asyncio.get_running_loop().time

    def datagram_received(self, datagram: bytes, addr: tuple[str, int]) -> None:
        if self._bucket.take(self._now()):
            self._listener.datagram_received(datagram, addr)

    def error_received(self, exc: Exception) -> None:
        self._listener.error_received(exc)

    def connection_lost(self, exc: Exception | None) -> None:
        self._listener.connection_lost(exc)


class _Announcement(msgspec.Struct, array_like=True):
    node: NodeId
    addresses: tuple[Address, ...]


class MdnsDiscovery:
    """Announces this node on `interfaces`. seal/open: the network key's; open gives None for other grids'."""

    def __init__(
        self,
        node: NodeId,
        addresses: Callable[[], tuple[Address, ...]],
        seal: Seal,
        open_: Open,
        interfaces: Callable[[], Sequence[Interface]],
    ) -> None:
        self._node = node
        self._addresses = addresses
        self._seal = seal
        self._open = open_
        self._interfaces = interfaces
        self._spoken = IPVersion.All
        self._bucket = TokenBucket(_RATE, _BURST)
        self._on_sighting: OnSighting | None = None
        self._zeroconf: AsyncZeroconf | None = None
        self._browser: AsyncServiceBrowser | None = None
        self._lookups: set[asyncio.Task[None]] = set()
        self._resealing: asyncio.Task[None] | None = None
        self._changes = asyncio.Event()
        self._name = f"{secrets.token_hex(8)}.{DNS_TYPE}"

    async def start(self, on_sighting: OnSighting) -> None:
        self._on_sighting = on_sighting
        self._zeroconf, self._spoken = _open_zeroconf(self._interfaces())
        await self._zeroconf.zeroconf.async_wait_for_start()
        self._limit(self._zeroconf)
        self._browser = AsyncServiceBrowser(self._zeroconf.zeroconf, DNS_TYPE, handlers=[self._changed])
        # The name is random: nobody has to be asked first whether it is free.
        await self._zeroconf.async_register_service(self._info(), cooperating_responders=True)
        self._resealing = asyncio.create_task(self._reseal(self._zeroconf), name="mdns-reseal")

    def renew(self) -> None:
        """Interfaces or addresses of this node have changed: follow."""
        self._changes.set()

    async def close(self) -> None:
        for job in [*self._lookups, *([self._resealing] if self._resealing else [])]:
            job.cancel()
        if self._browser:
            await self._browser.async_cancel()
        if self._zeroconf:
            await self._zeroconf.async_unregister_all_services()
            await self._zeroconf.async_close()

    async def _reseal(self, zeroconf: AsyncZeroconf) -> None:
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._changes.wait(), _RESEAL)
            self._changes.clear()
            try:
                await self._follow(zeroconf)
                await zeroconf.async_update_service(self._info())
            except OSError as exc:
                log.warning("mdns announcement failed: %s", exc)

    async def _follow(self, zeroconf: AsyncZeroconf) -> None:
        """Speak on the interfaces that are there now."""
        interfaces = self._interfaces()
        if self._spoken is IPVersion.V4Only:
            interfaces = _of_ipv4(interfaces)
        await zeroconf.async_update_interfaces(list(interfaces))
        self._limit(zeroconf)

    def _limit(self, zeroconf: AsyncZeroconf) -> None:
        """Of all sockets together, those that came last too."""
        for reader in zeroconf.zeroconf.engine.readers:
            listener = reader.transport.get_protocol()
            if not isinstance(listener, _Limited):
                reader.transport.set_protocol(_Limited(cast("asyncio.DatagramProtocol", listener), self._bucket))

    def _info(self) -> AsyncServiceInfo:
        addresses = self._addresses()
        announcement = msgspec.msgpack.encode(_Announcement(self._node, addresses))
        sealed = base64.b64encode(self._seal(announcement))
        parts = {_KEY + b"%d" % (at // 200): sealed[at : at + 200] for at in range(0, len(sealed), 200)}
        port = addresses[0].port if addresses else 0
        return AsyncServiceInfo(
            DNS_TYPE,
            self._name,
            port=port,
            properties=parts,
            server=f"{self._name.split('.')[0]}.local.",
            parsed_addresses=[address.host for address in addresses if _is_ip(address.host)],
        )

    def _changed(self, zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange) -> None:
        gone = state_change is ServiceStateChange.Removed
        if gone or name == self._name:
            return
        info = AsyncServiceInfo(DNS_TYPE, name)
        if info.load_from_cache(zeroconf) and info.properties:  # announcements come whole
            self._tell(info)
            return
        if len(self._lookups) >= _MAX_LOOKUPS:
            return
        lookup = asyncio.create_task(self._look_up(zeroconf, name), name="mdns-lookup")
        self._lookups.add(lookup)
        lookup.add_done_callback(self._lookups.discard)

    async def _look_up(self, zeroconf: Zeroconf, name: str) -> None:
        info = AsyncServiceInfo(DNS_TYPE, name)
        try:
            if not await info.async_request(zeroconf, _LOOKUP_MS):
                return
        except Exception as exc:
            log.debug("mdns lookup failed: %s", exc)
            return
        self._tell(info)

    def _tell(self, info: AsyncServiceInfo) -> None:
        for sighting in self._read(info.properties):
            if self._on_sighting:
                self._on_sighting(sighting)

    def _read(self, properties: dict[bytes, bytes | None]) -> list[Sighting]:
        """The sightings in a TXT record; none when it is not this grid's."""
        sealed = b"".join(properties.get(_KEY + b"%d" % part) or b"" for part in range(_MAX_SEALED // 200))
        try:
            box = base64.b64decode(sealed, validate=True)
            opened = self._open(box) if base64.b64encode(box) == sealed else None  # one spelling, its last bits too
            if opened is None:
                return []
            announcement = msgspec.msgpack.decode(opened, type=_Announcement)
        except (ValueError, msgspec.MsgspecError):
            return []
        return [Sighting(address, announcement.node) for address in announcement.addresses]


def _is_ip(host: str) -> bool:
    """Not the name of a machine, which `advertise` takes too."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
