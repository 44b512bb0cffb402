"""The text of a Gridfile (the operator's) and of a Card (a server's): TOML in, checked frozen types out, and back."""

import base64
import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from gridnode.errors import CardInvalid, GridfileInvalid
from gridnode.model import Address
from gridnode.servers import LINK_PORT, Server, parse_address, parse_host_key, parse_server
from gridnode.toml_text import (
    MAX_TEXT,
    Source,
    block,
    check,
    check_each,
    check_key,
    check_pem,
    inline_list,
    load,
    quote,
)

__all__ = [
    "MAX_TEXT",
    "VIAS",
    "Card",
    "Gridfile",
    "Server",
    "Share",
    "is_name",
    "parse_address",
    "parse_card",
    "parse_gridfile",
    "parse_secret",
    "parse_server",
    "render_card",
    "render_gridfile",
    "render_secret",
    "render_share",
]

CARD_VERSION: Final = 1
VIAS: Final = ("auto", "direct", "ssh")
"""To the nodes' port; through SSH on their servers; auto: the first, and the second where nobody answers."""
SECRET_SIZE: Final = 32
SECRET_PREFIX: Final = "grid1-"
MAX_SERVERS: Final = 10_000
MAX_SEEDS: Final = 1000
MAX_LABELS: Final = 64
_CHECKSUM_SIZE: Final = 3
_SECRET_TEXT: Final = re.compile(r"[a-z2-7]{56}")
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_TAG: Final = re.compile(r"[0-9a-f]{16}")
_IMAGE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:@-]{0,254}")
_IMAGE_URL: Final = re.compile(r"(?:https://[!-~]{1,1000}|http://[!-~]{1,1000}#sha256=[0-9a-f]{64})")
_LABEL: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,62}")
_NEW_HINT: Final = "`gridctl new` in an empty directory writes a complete Gridfile to compare with"
_CARD_HINT: Final = "mint a new card with `gridctl card HOST` where the Gridfile is"

_GRIDFILE_KEYS: Final[dict[str, type]] = {
    "grid_name": str,
    "grid_password": str,
    "servers": list,
    "ssh_key": str,
    "ssh_public_key": str,
    "seeds": list,
    "allow_weak_password": bool,
    "settings": dict,
    "image": str,
    "image_url": str,
    "via": str,
    "host_keys": dict,
    "share": dict,
}
_SHARE_KEYS: Final[dict[str, type]] = {"name": str, "ca": str, "certificate": str, "key": str, "deploy_key": str}
_SETTINGS_KEYS: Final[dict[str, type]] = {"local_deploys": bool}
_UNUSED_KEYS: Final = ("keymetrics_public", "keymetrics_secret", "keymetrics_name_prefix")
_CARD_KEYS: Final[dict[str, type]] = {
    "version": int,
    "grid": str,
    "tag": str,
    "ca": str,
    "issuer": str,
    "issuer_key": str,
    "network_key": str,
    "deploy_key": str,
    "seeds": list,
    "labels": dict,
}


@dataclass(frozen=True, slots=True)
class Share:
    """A user's part of a grid. ca, certificate (leaf, then issuer), key: PEM; deploy_key: raw Ed25519 public key."""

    name: str
    ca: str
    certificate: str
    key: str = field(repr=False)
    deploy_key: bytes


@dataclass(frozen=True, slots=True)
class Gridfile:
    """A parsed Gridfile. path: where its text came from; warnings: what the operator should be told.

    image: what servers pull from its registry; empty: it comes to them by SSH. host_keys: `Server.place` to key.
    image_url: where servers that boot by themselves load it from. share: in a user's Gridfile, in place of all secrets.
    via: how clients reach nodes, one of VIAS, or empty where the Gridfile does not say.
    """

    grid_name: str
    servers: tuple[Server, ...]
    grid_password: str = field(default="", repr=False)
    ssh_key: str = field(default="", repr=False)
    ssh_public_key: str = ""
    seeds: tuple[Address, ...] = ()
    allow_weak_password: bool = False
    local_deploys: bool = False
    image: str = ""
    image_url: str = ""
    via: str = ""
    host_keys: Mapping[str, str] = field(default_factory=dict)
    share: Share | None = None
    path: str = field(default="Gridfile", compare=False)
    warnings: tuple[str, ...] = field(default=(), compare=False)


@dataclass(frozen=True, slots=True)
class Card:
    """What one server holds. ca, issuer, issuer_key: PEM; network_key: 32 bytes; deploy_key: raw Ed25519 public key."""

    grid: str
    tag: str
    ca: str
    issuer: str
    issuer_key: str = field(repr=False)
    network_key: bytes = field(repr=False)
    deploy_key: bytes
    seeds: tuple[Address, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)


def render_secret(raw: bytes) -> str:
    """The text of a 256-bit secret, with a checksum that catches a typo."""
    if len(raw) != SECRET_SIZE:
        raise ValueError(f"a secret has {SECRET_SIZE} bytes, not {len(raw)}")
    return SECRET_PREFIX + base64.b32encode(raw + _checksum(raw)).decode().lower()


def parse_secret(text: str) -> bytes | None:
    """The 32 bytes of a text made by `render_secret`; None for any other text."""
    lowered = text.strip().lower()
    body = lowered.removeprefix(SECRET_PREFIX)
    if body == lowered or not _SECRET_TEXT.fullmatch(body):
        return None
    whole = base64.b32decode(body.upper())
    raw = whole[:SECRET_SIZE]
    return raw if whole[SECRET_SIZE:] == _checksum(raw) else None


def _checksum(raw: bytes) -> bytes:
    return hashlib.sha256(b"gridcontrol/1 secret checksum\0" + raw).digest()[:_CHECKSUM_SIZE]


def parse_gridfile(text: str, path: str = "Gridfile") -> Gridfile:
    """The Gridfile in `text`; GridfileInvalid names `path`, the fault and what to do."""
    source = Source(path, GridfileInvalid, _NEW_HINT)
    table = load(text, source)
    unused = [key for key in _UNUSED_KEYS if table.pop(key, None) is not None]
    check(table, _GRIDFILE_KEYS, ("grid_name", "servers"), source)
    settings = table.get("settings", {})
    check(settings, _SETTINGS_KEYS, (), source, "settings.")
    password = table.get("grid_password", "")
    servers = check_each(table, "servers", parse_server, "'user@host' or 'user@host:port'", MAX_SERVERS, source)
    seeds = check_each(table, "seeds", parse_address, "'host:port'", MAX_SEEDS, source)
    _check_name(table["grid_name"], "grid_name", source)
    _check_secret(password, source)
    weak = bool(table.get("allow_weak_password", False))
    warnings = [f"{path}: `{key}` is not used any more and is ignored" for key in unused]
    return Gridfile(
        grid_name=table["grid_name"],
        grid_password=password,
        servers=servers,
        ssh_key=table.get("ssh_key", "").lstrip("\n"),
        ssh_public_key=table.get("ssh_public_key", "").strip(),
        seeds=seeds or _default_seeds(servers),
        allow_weak_password=weak,
        local_deploys=bool(settings.get("local_deploys", False)),
        image=_image(table, source),
        image_url=_image_url(table, source),
        via=_via(table, source),
        host_keys=_host_keys(table, source),
        share=_share(table, source),
        path=path,
        warnings=(*warnings, *(() if "share" in table else _weakness(password, weak, path))),
    )


def parse_card(text: str, path: str = "Card") -> Card:
    """The Card in `text`; CardInvalid names `path`, the fault and what to do."""
    source = Source(path, CardInvalid, _CARD_HINT)
    table = load(text, source)
    version = table.get("version", CARD_VERSION)
    if type(version) is int and version != CARD_VERSION:
        raise source.fault(f"card version {version}, this gridnode reads version {CARD_VERSION}", "upgrade this node")
    check(table, _CARD_KEYS, tuple(_CARD_KEYS), source)
    _check_name(table["grid"], "grid", source)
    if not _TAG.fullmatch(table["tag"]):
        raise source.fault("`tag` must be 16 hex digits")
    return Card(
        grid=table["grid"],
        tag=table["tag"],
        ca=check_pem(table, "ca", "CERTIFICATE", source),
        issuer=check_pem(table, "issuer", "CERTIFICATE", source),
        issuer_key=check_pem(table, "issuer_key", "PRIVATE KEY", source),
        network_key=check_key(table, "network_key", source),
        deploy_key=check_key(table, "deploy_key", source),
        seeds=check_each(table, "seeds", parse_address, "'host:port'", MAX_SEEDS, source),
        labels=_labels(table["labels"], source),
    )


def render_gridfile(gridfile: Gridfile) -> str:
    """The TOML text of a Gridfile, commented for its owner; it holds every secret of the grid."""
    optional = ["allow_weak_password = true\n"] if gridfile.allow_weak_password else []
    if gridfile.seeds and gridfile.seeds != _default_seeds(gridfile.servers):
        seeds = inline_list(map(str, gridfile.seeds))
        optional.append(f"# Where gridctl and new nodes find the grid\nseeds = {seeds}\n")
    if gridfile.image:
        optional.append(f"# Servers pull gridnode from this registry\nimage = {quote(gridfile.image)}\n")
    if gridfile.image_url:
        url = quote(gridfile.image_url)
        optional.append(f"# Servers that boot by cloud-init load gridnode from here\nimage_url = {url}\n")
    if gridfile.via:
        optional.append(f"# How gridctl reaches the nodes\nvia = {quote(gridfile.via)}\n")
    settings = "\n[settings]\nlocal_deploys = true\n" if gridfile.local_deploys else ""
    if gridfile.host_keys:
        pins = "".join(f"{quote(place)} = {quote(key)}\n" for place, key in gridfile.host_keys.items())
        settings += f"\n[host_keys]\n{pins}"
    return f"""#
# Gridfile Server Access ID Card
#
# Whoever holds this file owns the grid and its servers: keep it private (chmod 600),
# keep a copy in a safe place, never commit it and never copy it to a server.
#

grid_name     = {quote(gridfile.grid_name)}
grid_password = {quote(gridfile.grid_password)}

# 'user@host' or 'user@host:ssh_port', one per server
servers = {inline_list(map(str, gridfile.servers))}

ssh_key = {block(gridfile.ssh_key)}

ssh_public_key = {block(gridfile.ssh_public_key)}
{"".join(f"{chr(10)}{line}" for line in optional)}{settings}"""


def render_share(grid_name: str, seeds: Iterable[Address], share: Share) -> str:
    """The TOML text of a user's Gridfile: it lets nobody deploy, nor into a server."""
    return f"""# Gridfile of {share.name}, a user of the grid {grid_name}: to call its tasks and to look at it.
# Keep it private (chmod 600).

grid_name = {quote(grid_name)}
servers = []
seeds = {inline_list(map(str, seeds))}

[share]
name = {quote(share.name)}
deploy_key = {quote(base64.b64encode(share.deploy_key).decode())}
ca = {block(share.ca)}
certificate = {block(share.certificate)}
key = {block(share.key)}
"""


def render_card(card: Card) -> str:
    """The TOML text of a Card; it holds this one server's secrets."""
    labels = "".join(f"{quote(key)} = {quote(value)}\n" for key, value in sorted(card.labels.items()))
    return f"""# gridcontrol card: lets one server join the grid as a node. Keep it private (chmod 600).

version = {CARD_VERSION}
grid = {quote(card.grid)}
tag = {quote(card.tag)}
seeds = {inline_list(map(str, card.seeds))}
network_key = {quote(base64.b64encode(card.network_key).decode())}
deploy_key = {quote(base64.b64encode(card.deploy_key).decode())}
ca = {block(card.ca)}
issuer = {block(card.issuer)}
issuer_key = {block(card.issuer_key)}

[labels]
{labels}"""


def is_name(text: str) -> bool:
    """Whether a grid or a user may be called so."""
    return _NAME.fullmatch(text) is not None


def _check_name(name: str, key: str, source: Source) -> None:
    if not is_name(name):
        raise source.fault(
            f"`{key}` must be 1 to 63 letters, digits, '.', '_' or '-', and start with a letter or digit"
        )


def _check_secret(password: str, source: Source) -> None:
    if password.strip().lower().startswith(SECRET_PREFIX) and parse_secret(password) is None:
        raise source.fault("`grid_password` has a typo: its checksum does not fit", "copy it again from its source")


def _weakness(password: str, allowed: bool, path: str) -> list[str]:
    if parse_secret(password) is not None:
        return []
    if not password:
        return [f"{path}: missing key `grid_password`: commands that talk to the grid will refuse to work"]
    consequence = "stretched because `allow_weak_password = true`" if allowed else "refused where the grid needs it"
    return [f"{path}: `grid_password` is weak (not made by `gridctl new`): {consequence}"]


def _default_seeds(servers: tuple[Server, ...]) -> tuple[Address, ...]:
    return tuple(dict.fromkeys(Address(server.host, LINK_PORT) for server in servers))[:MAX_SEEDS]


def _labels(table: dict[str, Any], source: Source) -> dict[str, str]:
    if len(table) > MAX_LABELS:
        raise source.fault(f"`labels` has more than {MAX_LABELS} entries")
    for key, value in table.items():
        if not _LABEL.fullmatch(key) or not isinstance(value, str) or len(value) > 255:
            raise source.fault(f"`labels.{key[:64]}` must be a string of at most 255 characters, under a plain name")
    return table


def _image(table: dict[str, Any], source: Source) -> str:
    image: str = table.get("image", "")
    if image and not _IMAGE.fullmatch(image):
        raise source.fault("`image` must be the name of a container image", "as in 'example.com/gridnode:1'")
    return image


def _image_url(table: dict[str, Any], source: Source) -> str:
    url: str = table.get("image_url", "")
    if url and not _IMAGE_URL.fullmatch(url):
        raise source.fault(
            "`image_url` must be an https URL of what `docker save` writes",
            "as in 'https://example.com/gridnode.tar.gz#sha256=…'; with http the hash is a must",
        )
    return url


def _via(table: dict[str, Any], source: Source) -> str:
    via: str = table.get("via", "")
    if via and via not in VIAS:
        raise source.fault(f"`via` must be one of {', '.join(VIAS)}")
    return via


def _share(table: dict[str, Any], source: Source) -> Share | None:
    share = table.get("share")
    if share is None:
        return None
    check(share, _SHARE_KEYS, tuple(_SHARE_KEYS), source, "share.")
    _check_name(share["name"], "share.name", source)
    return Share(
        name=share["name"],
        ca=check_pem(share, "ca", "CERTIFICATE", source),
        certificate=check_pem(share, "certificate", "CERTIFICATE", source),
        key=check_pem(share, "key", "PRIVATE KEY", source),
        deploy_key=check_key(share, "deploy_key", source),
    )


def _host_keys(table: dict[str, Any], source: Source) -> dict[str, str]:
    pins: dict[str, str] = table.get("host_keys", {})
    if len(pins) > MAX_SERVERS:
        raise source.fault(f"`host_keys` has more than {MAX_SERVERS} entries")
    for place, key in pins.items():
        if parse_server(place) is None or not isinstance(key, str) or parse_host_key(key) is None:
            raise source.fault(
                f"`host_keys.{place[:64]}` must be the public key of that server's SSH, under host or host:port",
                "remove the line: `gridctl provision` writes it anew",
            )
    return pins
