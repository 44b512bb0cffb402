"""Datagrams that only this grid's nodes can read or write, each taken once."""

from gridnode.discovery.rate import TokenBucket
from gridnode.identity import NONCE_SIZE, seal, unseal

__all__ = ["MAX_DATAGRAM", "SealedDatagrams"]

MAX_DATAGRAM = 1400
"""Bytes, sealed."""
_CONTEXT = b"dht"
_WINDOW = 300.0
"""Seconds that clocks may differ; a datagram is remembered for twice as long, so that none counts twice."""
_RATE, _BURST = 100.0, 400.0
"""Datagrams of members a second: the bound on what is remembered."""
_MAX_NONCES = 128 * 1024


class SealedDatagrams:
    """Seals and opens with the network key. `now`: unix seconds."""

    def __init__(self, network_key: bytes) -> None:
        self._key = network_key
        self._recent: set[bytes] = set()
        self._older: set[bytes] = set()
        self._turned = 0.0
        self._bucket = TokenBucket(_RATE, _BURST)

    def seal(self, payload: bytes, now: float, nonce: bytes) -> bytes:
        return seal(self._key, payload, now, nonce, _CONTEXT)

    def open(self, datagram: bytes, now: float) -> bytes | None:
        """The payload; None when it is a stranger's, old, here for the second time, or one too many."""
        if len(datagram) > MAX_DATAGRAM:
            return None
        payload = unseal(self._key, datagram, now, _CONTEXT, _WINDOW)
        nonce = datagram[:NONCE_SIZE]
        if payload is None or self._is_known(nonce, now) or not self._bucket.take(now):
            return None
        self._recent.add(nonce)
        return payload

    def _is_known(self, nonce: bytes, now: float) -> bool:
        """Whether it was here already, for all that can be told."""
        if abs(now - self._turned) > 2 * _WINDOW:
            self._recent, self._older, self._turned = set(), self._recent, now
        return nonce in self._recent or nonce in self._older or len(self._recent) >= _MAX_NONCES
