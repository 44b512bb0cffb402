"""Keys, certificates, signatures and seals: everything that follows from a grid's 256-bit secret.

    secret ─HKDF─┬─ CA key ─ self-signed CA ─┬─ issuer, one per card: signs only OU=node leaves ─ leaf of a node
                 ├─ deploy key (ledger)      ├─ issuer, one per user: signs only OU=user leaves ─ leaf of a user
                 │                           └─ leaf of an operator
                 ├─ network key (seals)
                 └─ tag, host key

Certificates are Ed25519 throughout. A leaf's subject is exactly (OU = role, CN = node id).
"""

import hashlib
import hmac
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from gridnode import certificate
from gridnode.certificate import COMMON_NAME, ORGANIZATIONAL_UNIT
from gridnode.errors import CardInvalid, Forbidden, GridfileInvalid, NotAuthenticated, WeakSecret
from gridnode.gridfile import Card, Gridfile, Share, parse_secret
from gridnode.model import Address, NodeId, Role
from gridnode.seals import (
    DOMAIN,
    KEY_SIZE,
    NONCE_SIZE,
    SEAL_WINDOW,
    derive,
    open_secret,
    seal,
    seal_secret,
    unseal,
)

__all__ = [
    "NONCE_SIZE",
    "SEAL_WINDOW",
    "Authority",
    "Credentials",
    "PeerIdentity",
    "authority_of",
    "host_prefix",
    "issue_leaf",
    "mint_card",
    "mint_share",
    "node_id",
    "open_secret",
    "operator_credentials",
    "public_key_of",
    "read_leaf",
    "seal",
    "seal_secret",
    "share_credentials",
    "sign",
    "unseal",
    "user_host",
    "verify",
]

DAY: Final = 86_400
CARD_TTL: Final = 365 * DAY
OPERATOR_TTL: Final = DAY
CLOCK_SKEW: Final = DAY
_SCRYPT_N, _SCRYPT_R, _SCRYPT_MEMORY = 1 << 17, 8, 192 * 1024 * 1024
_CA_PREFIX: Final = "gridcontrol "
_CA_FROM: Final = datetime(2020, 1, 1, tzinfo=UTC)
_CA_UNTIL: Final = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Authority:
    """What the grid's secret gives its operator. ca: PEM; keys: 32 raw bytes each, deploy_key an Ed25519 seed."""

    grid: str
    tag: str
    ca: str
    ca_key: bytes = field(repr=False)
    deploy_key: bytes = field(repr=False)
    network_key: bytes = field(repr=False)
    host_key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Credentials:
    """What one side of a Link shows and trusts. key, chain (leaf first), ca: PEM; until: unix seconds."""

    node: NodeId
    role: Role
    issuer: str
    key: bytes = field(repr=False)
    chain: bytes = field(repr=False)
    ca: str = field(repr=False)
    until: float = float("inf")


@dataclass(frozen=True, slots=True)
class PeerIdentity:
    """Who a certificate says the other side is. issuer: CN of what signed it; until: unix seconds; host: where seen."""

    node: NodeId
    role: Role
    issuer: str
    until: float = field(default=float("inf"), compare=False)
    host: str = field(default="", compare=False)


def authority_of(gridfile: Gridfile) -> Authority:
    """Derive everything from the Gridfile's secret; WeakSecret unless it is strong or its owner insists."""
    secret = _secret_of(gridfile)
    tag = derive(secret, "tag", 8).hex()
    ca_key = derive(secret, "ca")
    return Authority(
        grid=gridfile.grid_name,
        tag=tag,
        ca=_ca_certificate(ca_key, tag),
        ca_key=ca_key,
        deploy_key=derive(secret, "deploy"),
        network_key=derive(secret, "network"),
        host_key=derive(secret, "host"),
    )


def host_prefix(authority: Authority, host: str) -> str:
    """How the ids of all issuers minted for `host` start: 12 hex digits that tell nobody else the host's name."""
    return hmac.digest(authority.host_key, host.encode(), "sha256")[:6].hex()


def mint_card(
    authority: Authority,
    host: str,
    now: float,
    ttl: float,
    entropy: bytes,
    seeds: Iterable[Address] = (),
    labels: Mapping[str, str] | None = None,
) -> Card:
    """A Card for `host` with a fresh issuer, valid for `ttl` seconds. entropy: 32 secret random bytes, never reused."""
    issuer = _issuer(authority, host, now, ttl, entropy, Role.NODE)
    return Card(
        grid=authority.grid,
        tag=authority.tag,
        ca=authority.ca,
        issuer=certificate.to_pem(issuer),
        issuer_key=certificate.key_to_pem(_issuer_key(entropy)),
        network_key=authority.network_key,
        deploy_key=public_key_of(authority.deploy_key),
        seeds=tuple(seeds),
        labels={**(labels or {}), "host": host},
    )


def mint_share(authority: Authority, name: str, now: float, ttl: float, entropy: bytes) -> Share:
    """What the user `name` gets, valid for `ttl` seconds. entropy: 32 secret random bytes, never reused."""
    issuer = _issuer(authority, user_host(name), now, ttl, entropy, Role.USER)
    span = (issuer.not_valid_before_utc, issuer.not_valid_after_utc)
    key, issuer_key, above = _key(derive(entropy, "user key")), _issuer_key(entropy), certificate.to_pem(issuer)
    made = _credentials(key, Role.USER, issuer.subject, issuer_key, span, above, authority.ca)
    return Share(name, authority.ca, made.chain.decode(), made.key.decode(), public_key_of(authority.deploy_key))


def user_host(name: str) -> str:
    """What stands for a user where a host does for a server, as in `host_prefix`: no host is called so."""
    return f"user/{name}"


def share_credentials(share: Share, now: float) -> Credentials:
    """A user's Credentials; GridfileInvalid when its parts do not fit together, NotAuthenticated after its time."""
    try:
        leaf = certificate.from_pem(share.certificate)
        issuer, key = certificate.common_name(leaf.issuer), certificate.key_from_pem(share.key)
        node = node_id(key.public_key().public_bytes_raw())
        fits = leaf.subject == _leaf_name(Role.USER, node) and certificate.public_key(leaf) == key.public_key()
    except certificate.INVALID as exc:
        raise GridfileInvalid("the Gridfile's [share] cannot be read", hint="ask who sent it for another") from exc
    if not fits:
        raise GridfileInvalid("the Gridfile's [share]: key and certificate differ", hint="ask who sent it for another")
    until = leaf.not_valid_after_utc.timestamp()
    if _time(now) >= leaf.not_valid_after_utc:
        end = f"{leaf.not_valid_after_utc:%Y-%m-%d %H:%M}"
        raise NotAuthenticated(
            f"this Gridfile was good until {end} UTC", hint="ask an operator to `gridctl share` again"
        )
    return Credentials(node, Role.USER, issuer, share.key.encode(), share.certificate.encode(), share.ca, until)


def issue_leaf(card: Card, node_key: bytes, now: float) -> Credentials:
    """The node's Credentials, valid as long as the card, else CardInvalid. node_key: its Ed25519 seed, 32 bytes."""
    ca, issuer, issuer_key = _parts_of(card)
    start, end = issuer.not_valid_before_utc, issuer.not_valid_after_utc
    if not start <= _time(now) < end:
        raise CardInvalid(
            f"the card is valid from {start:%Y-%m-%d} to {end:%Y-%m-%d},"
            f" and the clock says {_time(now):%Y-%m-%d %H:%M}",
            hint="set the clock if it is wrong, else mint a new card with `gridctl card HOST`",
        )
    span = (max(_time(now - CLOCK_SKEW), start), end)
    above = certificate.to_pem(issuer)
    return _credentials(_key(node_key), Role.NODE, issuer.subject, issuer_key, span, above, certificate.to_pem(ca))


def operator_credentials(authority: Authority, now: float, entropy: bytes) -> Credentials:
    """One-day Credentials of an operator, signed by the CA itself. entropy: 32 secret random bytes, never reused."""
    key, ca_key = _key(derive(entropy, "operator key")), _key(authority.ca_key)
    span = (_time(now - CLOCK_SKEW), _time(now + OPERATOR_TTL))
    return _credentials(key, Role.OPERATOR, _ca_name(authority.tag), ca_key, span, "", authority.ca)


def node_id(public_key: bytes) -> NodeId:
    """The id of the holder of a raw Ed25519 public key."""
    return NodeId(hashlib.sha256(public_key).digest()[:20].hex())


def public_key_of(seed: bytes) -> bytes:
    """The raw public key of an Ed25519 seed of 32 bytes."""
    return _key(seed).public_key().public_bytes_raw()


def read_leaf(der: bytes) -> PeerIdentity:
    """Who a leaf, whose chain TLS has verified, belongs to; NotAuthenticated when its subject is not its key's."""
    try:
        leaf = certificate.from_der(der)
        subject, issuer = leaf.subject, certificate.common_name(leaf.issuer)
        node = node_id(certificate.public_key(leaf).public_bytes_raw())
    except certificate.INVALID as exc:
        raise NotAuthenticated("the peer's certificate is not one of a grid") from exc
    # No issuer's id starts as the CA's; whom it certifies, node or user, its name constraint bounds in the handshake.
    roles = (Role.OPERATOR,) if issuer.startswith(_CA_PREFIX) else (Role.NODE, Role.USER)
    role = next((role for role in roles if subject == _leaf_name(role, node)), None)
    if role is None:
        raise NotAuthenticated("the subject of the peer's certificate is not its role and the id of its key")
    return PeerIdentity(node, role, issuer, leaf.not_valid_after_utc.timestamp())


def sign(seed: bytes, context: bytes, payload: bytes) -> bytes:
    """Ed25519 signature (64 bytes) of `payload` within `context`, a constant without NUL that names the use."""
    return _key(seed).sign(DOMAIN + context + b"\0" + payload)


def verify(public_key: bytes, context: bytes, payload: bytes, signature: bytes) -> bool:
    """Whether `signature` is that of `sign` with the same context; malformed keys and signatures are just False."""
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, DOMAIN + context + b"\0" + payload)
    except (InvalidSignature, ValueError):
        return False
    return True


def _secret_of(gridfile: Gridfile) -> bytes:
    if gridfile.share:
        raise Forbidden(
            f"{gridfile.path} is {gridfile.share.name}'s, a user's: it is good for invoke, ls, ps, logs and subscribe",
            hint="this takes an operator's Gridfile: --gridfile PATH",
        )
    secret = parse_secret(gridfile.grid_password)
    if secret is not None:
        return secret
    if not gridfile.grid_password or not gridfile.allow_weak_password:
        fault = "`grid_password` is weak" if gridfile.grid_password else "missing key `grid_password`"
        raise WeakSecret(
            f"{gridfile.path}: {fault}: whoever guesses it owns the grid",
            hint="`gridctl new --force` writes a Gridfile with a strong secret and keeps this one; to keep a password"
            " of your own, set `allow_weak_password = true` (it is then stretched with scrypt)",
        )
    return hashlib.scrypt(
        gridfile.grid_password.encode(),
        salt=DOMAIN + gridfile.grid_name.encode(),
        n=_SCRYPT_N,
        r=_SCRYPT_R,
        p=1,
        maxmem=_SCRYPT_MEMORY,
        dklen=KEY_SIZE,
    )


def _parts_of(card: Card) -> tuple[x509.Certificate, x509.Certificate, Ed25519PrivateKey]:
    """The card's CA, its issuer and the issuer's key; CardInvalid when they do not fit together."""
    try:
        ca, issuer = certificate.from_pem(card.ca), certificate.from_pem(card.issuer)
        key = certificate.key_from_pem(card.issuer_key)
        issuer.verify_directly_issued_by(ca)
        certificate.common_name(issuer.subject)
        fits = certificate.public_key(issuer) == key.public_key()
    except certificate.INVALID as exc:
        raise CardInvalid("the card's certificates do not fit together", hint="copy the card again") from exc
    if not fits:
        raise CardInvalid("the card's issuer_key is not its issuer's", hint="copy the card again")
    return ca, issuer, key


def _ca_certificate(ca_key: bytes, tag: str) -> str:
    name, key = _ca_name(tag), _key(ca_key)
    return certificate.to_pem(
        certificate.build(name, name, key.public_key(), key, (_CA_FROM, _CA_UNTIL), path_length=1)
    )


def _credentials(
    key: Ed25519PrivateKey,
    role: Role,
    issuer: x509.Name,
    issuer_key: Ed25519PrivateKey,
    span: tuple[datetime, datetime],
    above: str,
    ca: str,
) -> Credentials:
    """A fresh leaf for `key`, followed in the chain by `above`."""
    public = key.public_key()
    node = node_id(public.public_bytes_raw())
    leaf = certificate.build(_leaf_name(role, node), issuer, public, issuer_key, span)
    return Credentials(
        node=node,
        role=role,
        issuer=certificate.common_name(issuer),
        key=certificate.key_to_pem(key).encode(),
        chain=(certificate.to_pem(leaf) + above).encode(),
        ca=ca,
        until=span[1].timestamp(),
    )


def _issuer_key(entropy: bytes) -> Ed25519PrivateKey:
    return _key(derive(entropy, "issuer key"))


def _issuer(authority: Authority, host: str, now: float, ttl: float, entropy: bytes, role: Role) -> x509.Certificate:
    """A fresh issuer for leaves of one role. Its id: host_prefix, seconds when minted in hex, something random."""
    issuer_id = f"{host_prefix(authority, host)}-{int(now):x}-{derive(entropy, 'issuer id', 4).hex()}"
    return certificate.build(
        certificate.name((COMMON_NAME, issuer_id)),
        _ca_name(authority.tag),
        _issuer_key(entropy).public_key(),
        _key(authority.ca_key),
        (_time(now - CLOCK_SKEW), _time(now + ttl)),
        path_length=0,
        permitted=certificate.name((ORGANIZATIONAL_UNIT, role.value)),
    )


def _leaf_name(role: Role, node: NodeId) -> x509.Name:
    return certificate.name((ORGANIZATIONAL_UNIT, role.value), (COMMON_NAME, node))


def _ca_name(tag: str) -> x509.Name:
    return certificate.name((COMMON_NAME, _CA_PREFIX + tag))


def _key(seed: bytes) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(seed)


def _time(now: float) -> datetime:
    return datetime.fromtimestamp(0, UTC) + timedelta(seconds=int(now))
