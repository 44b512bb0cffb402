"""The peers this node was linked to, on disk: with every seed down it finds its grid again."""

from collections.abc import Iterable
from pathlib import Path

import msgspec
import structlog

from gridnode.files import write_durably
from gridnode.model import Address, NodeId, NodeRecord, Sighting

__all__ = ["RememberedPeers"]

log = structlog.get_logger()

MAX_PEERS = 256
MAX_ADDRESSES = 16
KEPT = 30 * 24 * 3600
MAX_SIZE = 1024 * 1024
_GRAIN = 3600


class _Peer(msgspec.Struct, frozen=True):
    """seen: when it was last linked, unix seconds, to the hour: a file that changes little is written rarely."""

    node: NodeId
    seen: int
    addresses: tuple[Address, ...]


class _File(msgspec.Struct):
    version: int
    peers: list[_Peer]


class RememberedPeers:
    """The last MAX_PEERS of them. What is on disk is JSON, and when it is damaged nothing. changed: not there yet."""

    def __init__(self, path: Path, now: float) -> None:
        self._path = path
        self._peers: dict[NodeId, _Peer] = {}
        self.changed = False
        for peer in _load(path):
            if now - peer.seen < KEPT:
                self._peers[peer.node] = msgspec.structs.replace(peer, addresses=peer.addresses[:MAX_ADDRESSES])
        self._keep_newest()

    def sightings(self) -> list[Sighting]:
        return [Sighting(address, peer.node) for peer in self._peers.values() for address in peer.addresses]

    def remember(self, linked: Iterable[NodeRecord], now: float) -> None:
        """These are linked now."""
        seen = int(now) // _GRAIN * _GRAIN
        for record in linked:
            peer = _Peer(record.id, seen, record.addresses[:MAX_ADDRESSES])
            self.changed |= self._peers.get(record.id) != peer
            self._peers[record.id] = peer
        self._keep_newest()

    def forget(self, node: NodeId) -> None:
        """It is gone for good."""
        self.changed |= self._peers.pop(node, None) is not None

    def save(self) -> None:
        """Write them; blocks for that. A disk that refuses is said and left alone."""
        peers = sorted(self._peers.values(), key=lambda peer: peer.node)
        self.changed = False
        content = msgspec.json.encode(_File(1, peers))
        try:
            write_durably(self._path, content)
        except OSError as exc:
            log.warning("the peers of this node cannot be kept on disk", path=str(self._path), error=str(exc))

    def _keep_newest(self) -> None:
        newest = sorted(self._peers.values(), key=lambda peer: peer.seen, reverse=True)[:MAX_PEERS]
        self._peers = {peer.node: peer for peer in newest}


def _load(path: Path) -> list[_Peer]:
    try:
        if path.stat().st_size > MAX_SIZE:
            raise ValueError("it is too large")
        return msgspec.json.decode(path.read_bytes(), type=_File).peers
    except FileNotFoundError:
        return []
    except (OSError, ValueError, msgspec.MsgspecError, RecursionError) as exc:
        log.warning("no peers are remembered: their file is damaged", path=str(path), error=str(exc))
        return []
