"""Where peers see this node: behind a translated address no interface of its own tells."""

from collections import Counter
from collections.abc import Collection

from gridnode.discovery.peer_record import is_contact
from gridnode.model import NodeId

_MAX_PEERS = 64
_MAX_HOSTS = 2


class ObservedHosts:
    """What the last peers said, one word each: no single one makes this node claim many addresses."""

    def __init__(self) -> None:
        self._said: dict[NodeId, str] = {}

    def hear(self, peer: NodeId, host: str) -> None:
        """A peer says that it sees this node at this address."""
        self._said.pop(peer, None)
        if is_contact(host, 1):
            self._said[peer] = host
        if len(self._said) > _MAX_PEERS:
            del self._said[next(iter(self._said))]

    def hosts(self, own: Collection[str]) -> tuple[str, ...]:
        """Those most peers speak of, besides `own`."""
        counted = Counter(host for host in self._said.values() if host not in own and not host.startswith("127."))
        return tuple(sorted(counted, key=lambda host: (-counted[host], host))[:_MAX_HOSTS])
