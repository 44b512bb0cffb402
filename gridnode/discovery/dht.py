"""kademlia over sealed datagrams: its routing table, lookups and answers, none of its parsing, waiting and pickling.

A node's DHT id is its NodeId, which has kademlia's 160 bits: a contact says whose record to look for.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import Callable
from typing import Any

from kademlia.network import Server  # type: ignore[import-untyped]
from kademlia.node import Node  # type: ignore[import-untyped]
from kademlia.protocol import KademliaProtocol  # type: ignore[import-untyped]
from kademlia.routing import RoutingTable  # type: ignore[import-untyped]
from kademlia.utils import digest  # type: ignore[import-untyped]

from gridnode.discovery import dht_wire
from gridnode.discovery.datagrams import Contact, DatagramSocket
from gridnode.discovery.peer_record import PeerRecord, PeerRecords, is_contact
from gridnode.discovery.rate import TokenBucket
from gridnode.discovery.sealed import SealedDatagrams
from gridnode.model import NodeId

__all__ = ["Crawler", "DhtProtocol", "key_of"]

log = logging.getLogger(__name__)
for _name in ("kademlia", "rpcudp"):  # one line of theirs for each datagram of a stranger's
    logging.getLogger(_name).setLevel(logging.CRITICAL)

MAX_CONTACTS = 1024
MAX_AT_ONE_IP = 64
_MAX_WAITING = 256
_RESEND, _GIVE_UP = 0.4, 1.5
_NONCE = 12
_STORE_RATE, _STORE_BURST = 50.0, 200.0
"""Records looked at a second: each costs three signatures."""
_Answer = tuple[bool, Any]
_FAILED: _Answer = (False, None)


def key_of(node: NodeId) -> bytes:
    """Under which key its record is."""
    return bytes(digest(node))


class _Table(RoutingTable):  # type: ignore[misc]
    """kademlia's, which looks for an id at the end of a bucket's range in the next one."""

    def get_bucket_for(self, node: Node) -> int:
        return next(index for index, bucket in enumerate(self.buckets) if node.long_id <= bucket.range[1])

    def contacts(self) -> list[Node]:
        """Those in use, and those that wait for a place."""
        return [
            node for bucket in self.buckets for node in (*bucket.nodes.values(), *bucket.replacement_nodes.values())
        ]


class _Storage:
    """The records as kademlia wants to see them. It republishes none: their owners do."""

    def __init__(self, records: PeerRecords) -> None:
        self._records = records

    def __setitem__(self, key: bytes, value: bytes) -> None:
        self._records.take(key, value, time.time())

    def get(self, key: bytes, default: bytes | None = None) -> bytes | None:
        return self._records.get(key, time.time()) or default


class DhtProtocol(KademliaProtocol):  # type: ignore[misc]
    """on_record: a verified record arrived; on_contact: somebody new is in the routing table."""

    def __init__(
        self,
        node: NodeId,
        records: PeerRecords,
        sealed: SealedDatagrams,
        on_record: Callable[[PeerRecord], None],
        on_contact: Callable[[], None],
    ) -> None:
        source = Node(bytes.fromhex(node))
        super().__init__(source, _Storage(records), dht_wire.KSIZE)
        self.router = _Table(self, dht_wire.KSIZE, source)
        self.socket: DatagramSocket | None = None
        self._records = records
        self._sealed = sealed
        self._on_record = on_record
        self._on_contact = on_contact
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[bytes, tuple[str, asyncio.Future[_Answer]]] = {}
        self._stores = TokenBucket(_STORE_RATE, _STORE_BURST)

    def contacts(self) -> list[tuple[NodeId, Contact]]:
        """Who is in the routing table, and where."""
        nodes = [node for bucket in self.router.buckets for node in bucket.get_nodes()]
        return [(NodeId(node.id.hex()), (node.ip, node.port)) for node in nodes]

    # -- datagrams --------------------------------------------------------------------------------------------------

    def received(self, datagram: bytes, sender: Contact) -> None:
        """Whatever came; must not raise."""
        message = self._sealed.open(datagram, time.time())
        parts = dht_wire.split(message) if message else None
        if parts is None or not is_contact(*sender):
            return
        is_response, name, body = parts
        try:
            if is_response:
                self._responded(name, body)
            else:
                self._asked(name, body, sender)
        except Exception:
            log.debug("a DHT message could not be handled", exc_info=True)

    def close(self) -> None:
        """Nobody waits for an answer any more."""
        for _, future in self._waiting.values():
            if not future.done():
                future.set_result(_FAILED)

    def _asked(self, message_id: bytes, body: bytes, sender: Contact) -> None:
        request = dht_wire.read_request(body)
        if request and request[1][0] != self.source_node.id:
            name, args = request
            self._send(b"\1" + message_id + dht_wire.encode(getattr(self, f"rpc_{name}")(sender, *args)), sender)

    def _responded(self, message_id: bytes, body: bytes) -> None:
        name, future = self._waiting.get(message_id, ("", None))
        response = dht_wire.read_response(name, body) if future else None
        if future and not future.done() and response is not None:
            future.set_result((True, response))

    def _send(self, message: bytes, to: Contact) -> None:
        if self.socket:
            self.socket.send(self._sealed.seal(message, time.time(), secrets.token_bytes(_NONCE)), to)

    # -- asking -----------------------------------------------------------------------------------------------------

    def ping(self, address: Contact, *args: bytes) -> Any:
        return self._ask("ping", address, args)

    def store(self, address: Contact, *args: bytes) -> Any:
        return self._ask("store", address, args)

    def find_node(self, address: Contact, *args: bytes) -> Any:
        return self._ask("find_node", address, args)

    async def find_value(self, address: Contact, *args: bytes) -> _Answer:
        """A value that is no record of the node looked for is no answer."""
        happened, response = await self._ask("find_value", address, args)
        if isinstance(response, dict):
            record = self.take(args[1], response["value"])
            return (True, {"value": self.storage.get(args[1])}) if record else _FAILED
        return happened, response

    async def _ask(self, name: str, address: Contact, args: tuple[bytes, ...]) -> _Answer:
        if len(self._waiting) >= _MAX_WAITING or not is_contact(*address):
            return _FAILED
        message_id, future = secrets.token_bytes(dht_wire.ID_SIZE), self._loop.create_future()
        message = b"\0" + message_id + dht_wire.encode((name, args))
        self._waiting[message_id] = (name, future)
        self._send(message, address)
        again = self._loop.call_later(_RESEND, self._send, message, address)
        try:
            async with asyncio.timeout(_GIVE_UP):
                answer: _Answer = await future
                return answer
        except TimeoutError:
            return _FAILED
        finally:
            again.cancel()
            del self._waiting[message_id]

    # -- answering --------------------------------------------------------------------------------------------------

    def rpc_store(self, sender: Contact, nodeid: bytes, key: bytes, value: bytes) -> bool:
        self.welcome_if_new(Node(nodeid, *sender))
        return self.take(key, value) is not None

    def rpc_find_node(self, sender: Contact, nodeid: bytes, key: bytes) -> Any:
        source = Node(nodeid, *sender)
        self.welcome_if_new(source)
        return [tuple(node) for node in self.router.find_neighbors(Node(key), exclude=source)]

    def welcome_if_new(self, node: Node) -> None:
        """Know a contact from now on, one for each address. Owners store their records themselves: it is sent none."""
        if node.id == self.source_node.id or not self.router.is_new_node(node):
            return
        contacts = self.router.contacts()
        for other in contacts:
            if other.same_home_as(node):
                self.router.remove_contact(other)
        if len(contacts) < MAX_CONTACTS and sum(other.ip == node.ip for other in contacts) < MAX_AT_ONE_IP:
            self.router.add_contact(node)
            self._on_contact()

    def take(self, key: bytes, value: bytes) -> PeerRecord | None:
        """Hold a record and tell of it, if it is news; None when it is none for this key."""
        held = self.storage.get(key)
        if held != value and not self._stores.take(self._loop.time()):
            return None
        record = self._records.take(key, value, time.time())
        if record and held != value:
            self._on_record(record)
        return record


class Crawler(Server):  # type: ignore[misc]
    """kademlia's lookups over our protocol, which is its `transport` too."""

    def __init__(self, protocol: DhtProtocol) -> None:
        super().__init__(dht_wire.KSIZE, node_id=protocol.source_node.id, storage=protocol.storage)
        self.protocol = protocol

    async def bootstrap_node(self, addr: Contact) -> Node | None:
        happened, node = await self.protocol.ping(addr, self.node.id)
        if not happened or node == self.node.id:
            return None
        found = Node(node, *addr)
        self.protocol.welcome_if_new(found)
        return found

    async def look_up(self, node: NodeId, contact: Contact) -> None:
        """Get the record of a contact: from itself, else from whoever holds it."""
        _, answer = await self.protocol.find_value(contact, self.node.id, key_of(node))
        if not isinstance(answer, dict):
            await self.get(node)
