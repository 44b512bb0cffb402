"""Where a node listens, in its own signed words: what the DHT holds.

A value is msgpack [payload, signature, leaf, issuer]: the signature is the node's own over the payload, `leaf` and
`issuer` (DER) lead from its key to the grid's CA, and the payload is [version, stamp, expires, [[host, port], ...]].
So only members write, each only of itself, and whoever holds a value proves nothing but its age by repeating it.
"""

import ipaddress
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from gridnode import certificate
from gridnode.errors import NotAuthenticated
from gridnode.identity import Credentials, PeerIdentity, read_leaf, sign, verify
from gridnode.model import Address, NodeId, Role

__all__ = ["MAX_VALUE", "PeerRecord", "PeerRecords", "is_contact", "open_record", "sign_record"]

MAX_VALUE: Final = 1152
"""Bytes; one fits into a datagram of 1280, which every IPv6 network carries whole."""
MAX_ADDRESSES: Final = 8
MAX_HOST: Final = 64
MAX_TTL: Final = 2 * 3600
MAX_RECORDS: Final = 1024
MAX_OF_ISSUER: Final = MAX_RECORDS // 4
_SKEW: Final = 600
_VERSION: Final = 1
_CONTEXT: Final = b"peer record"
_END: Final = "-----END CERTIFICATE-----\n"


@dataclass(frozen=True, slots=True)
class PeerRecord:
    """What one node said of itself. stamp: unix milliseconds, the higher is newer; expires: unix seconds."""

    node: NodeId
    issuer: str
    stamp: int
    expires: int
    addresses: tuple[Address, ...]


class _Payload(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    version: int
    stamp: int
    expires: int
    addresses: tuple[tuple[str, int], ...]


class _Signed(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    payload: bytes
    signature: bytes
    leaf: bytes
    issuer: bytes


_decode_signed = msgspec.msgpack.Decoder(_Signed).decode
_decode_payload = msgspec.msgpack.Decoder(_Payload).decode
_encode = msgspec.msgpack.Encoder().encode


def sign_record(credentials: Credentials, addresses: Sequence[Address], now: float, ttl: float) -> bytes:
    """The value that says where the holder of `credentials` listens: at the first of the addresses, as many as fit."""
    chain = [part + _END for part in credentials.chain.decode().split(_END) if part.strip()]
    leaf, issuer = (x509.load_pem_x509_certificate(pem.encode()).public_bytes(_DER) for pem in chain)
    seed = certificate.key_from_pem(credentials.key.decode()).private_bytes_raw()
    listed = [(one.host, one.port) for one in addresses if len(one.host) <= MAX_HOST][:MAX_ADDRESSES]
    while True:
        payload = _encode(_Payload(_VERSION, int(now * 1000), int(now + ttl), tuple(listed)))
        value = _encode(_Signed(payload, sign(seed, _CONTEXT, payload), leaf, issuer))
        if len(value) <= MAX_VALUE or not listed:
            return value
        listed.pop()


def open_record(value: bytes, ca: str, now: float) -> PeerRecord | None:
    """What a member of the grid with this CA (PEM) said of itself, if it is still true; None for all else."""
    opened = _decode(value, now)
    if opened is None:
        return None
    signed, payload = opened
    try:
        peer, key = _holder(signed, certificate.from_pem(ca), datetime.fromtimestamp(now, UTC))
    except (*certificate.INVALID, x509.ExtensionNotFound, x509.DuplicateExtension, NotAuthenticated):
        return None
    if peer.role is not Role.NODE or not verify(key, _CONTEXT, signed.payload, signed.signature):
        return None
    addresses = tuple(Address(host, port) for host, port in payload.addresses)
    return PeerRecord(peer.node, peer.issuer, payload.stamp, payload.expires, addresses)


def is_contact(host: str, port: int) -> bool:
    """Whether a datagram may be sent there: an address of one machine, no name, that means the same to everybody."""
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return False
    nobody = ip.is_multicast or ip.is_unspecified or ip.is_link_local or ip == _BROADCAST
    return 0 < port < 65536 and not nobody and "%" not in host


_BROADCAST: Final = ipaddress.ip_address("255.255.255.255")
_DER: Final = Encoding.DER
_NODES: Final = x509.DirectoryName(certificate.name((certificate.ORGANIZATIONAL_UNIT, Role.NODE.value)))


def _decode(value: bytes, now: float) -> tuple[_Signed, _Payload] | None:
    """Its parts, when they are in bounds and of our time; nothing is proven yet."""
    if len(value) > MAX_VALUE:
        return None
    try:
        signed = _decode_signed(value)
        payload = _decode_payload(signed.payload)
    except (ValueError, msgspec.MsgspecError, RecursionError):
        return None
    timely = payload.stamp / 1000 <= now + _SKEW and now < payload.expires <= now + MAX_TTL + _SKEW
    if payload.version != _VERSION or len(payload.addresses) > MAX_ADDRESSES or not timely or payload.stamp < 0:
        return None
    dialled = all(0 < len(host) <= MAX_HOST and 0 < port < 65536 for host, port in payload.addresses)
    return (signed, payload) if dialled else None


def _holder(signed: _Signed, ca: x509.Certificate, now: datetime) -> tuple[PeerIdentity, bytes]:
    """Whom the chain names, and its raw key; raises one of INVALID, or NotAuthenticated."""
    issuer, leaf = certificate.from_der(signed.issuer), certificate.from_der(signed.leaf)
    issuer.verify_directly_issued_by(ca)
    leaf.verify_directly_issued_by(issuer)
    permitted = issuer.extensions.get_extension_for_class(x509.NameConstraints).value.permitted_subtrees
    if not issuer.extensions.get_extension_for_class(x509.BasicConstraints).value.ca or permitted != [_NODES]:
        raise ValueError("not issued by what issues nodes")
    if not all(one.not_valid_before_utc <= now < one.not_valid_after_utc for one in (issuer, leaf)):
        raise ValueError("not valid now")
    return read_leaf(signed.leaf), certificate.public_key(leaf).public_bytes_raw()


class PeerRecords:
    """The records a node holds for others, by key. key_of: where a node's record belongs; nobody writes elsewhere."""

    def __init__(self, ca: str, key_of: Callable[[NodeId], bytes]) -> None:
        self._ca = ca
        self._key_of = key_of
        self._held: dict[bytes, tuple[bytes, PeerRecord]] = {}

    def __len__(self) -> int:
        return len(self._held)

    def __iter__(self) -> Iterator[PeerRecord]:
        return iter([record for _, record in self._held.values()])

    def take(self, key: bytes, value: bytes, now: float) -> PeerRecord | None:
        """Keep a newer record; the one held of that node afterwards, None when `value` is not one for `key`."""
        held = self._held.get(key)
        if held and held[0] == value:
            return held[1] if held[1].expires > now else None
        opened = _decode(value, now)
        if opened is None or (held and opened[1].stamp <= held[1].stamp):
            return None  # nothing to learn: its signatures are not looked at
        record = open_record(value, self._ca, now)
        if record is None or self._key_of(record.node) != key or not (held or self._has_room(record, now)):
            return None
        self._held[key] = (value, record)
        return record

    def get(self, key: bytes, now: float) -> bytes | None:
        """The value under this key, unless it has expired."""
        held = self._held.get(key)
        if held and held[1].expires > now:
            return held[0]
        self._held.pop(key, None)
        return None

    def _has_room(self, record: PeerRecord, now: float) -> bool:
        """Whoever holds one card can make many nodes: those of one issuer never fill more than a quarter."""
        if len(self._held) >= MAX_OF_ISSUER:
            self._held = {key: one for key, one in self._held.items() if one[1].expires > now}
        same = sum(one.issuer == record.issuer for _, one in self._held.values())
        return len(self._held) < MAX_RECORDS and same < MAX_OF_ISSUER
