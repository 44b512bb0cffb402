"""The text of a Gridfile (the operator's) and of a Card (a server's): TOML in, checked frozen types out, and back."""

import base64
import binascii
import difflib
import hashlib
import json
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from gridnode.errors import CardInvalid, GridfileInvalid, UsageError
from gridnode.model import Address

__all__ = [
    "Card",
    "Gridfile",
    "Server",
    "parse_address",
    "parse_card",
    "parse_gridfile",
    "parse_secret",
    "parse_server",
    "render_card",
    "render_gridfile",
    "render_secret",
]

_T = TypeVar("_T")
LINK_PORT: Final = 7400
SSH_PORT: Final = 22
CARD_VERSION: Final = 1
SECRET_SIZE: Final = 32
SECRET_PREFIX: Final = "grid1-"
MAX_TEXT: Final = 1024 * 1024
MAX_STRING: Final = 64 * 1024
MAX_SERVERS: Final = 10_000
MAX_SEEDS: Final = 1000
MAX_LABELS: Final = 64
_CHECKSUM_SIZE: Final = 3
_SECRET_TEXT: Final = re.compile(r"[a-z2-7]{56}")
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_TAG: Final = re.compile(r"[0-9a-f]{16}")
_USER: Final = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}"
_HOST: Final = r"\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9][A-Za-z0-9._-]{0,252}"
_SERVER: Final = re.compile(rf"(?:({_USER})@)?({_HOST})(?::([0-9]{{1,5}}))?")
_LABEL: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,62}")
_POSITION: Final = re.compile(r" \(at line (\d+), column (\d+)\)$")
_TYPES: Final = {str: "a string", bool: "true or false", list: "a list", dict: "a table", int: "a whole number"}
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
}
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
class Server:
    """One server of the Gridfile, reached by SSH; no user means SSH's own default."""

    host: str
    user: str | None = None
    port: int = SSH_PORT

    def __str__(self) -> str:
        user = f"{self.user}@" if self.user else ""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{user}{host}" + (f":{self.port}" if self.port != SSH_PORT else "")


@dataclass(frozen=True, slots=True)
class Gridfile:
    """A parsed Gridfile. path: where its text came from; warnings: what the operator should be told."""

    grid_name: str
    servers: tuple[Server, ...]
    grid_password: str = field(default="", repr=False)
    ssh_key: str = field(default="", repr=False)
    ssh_public_key: str = ""
    seeds: tuple[Address, ...] = ()
    allow_weak_password: bool = False
    local_deploys: bool = False
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


@dataclass(frozen=True, slots=True)
class _Source:
    """Where a text came from and how its faults are raised: every message names the file."""

    name: str
    error: type[UsageError]
    hint: str

    def fault(self, message: str, hint: str | None = None) -> UsageError:
        return self.error(f"{self.name}: {message}", hint=hint or self.hint)


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


def parse_server(text: str) -> Server | None:
    """`user@host`, `user@host:port`, `host` or `host:port` (IPv6 in brackets); None when it is neither."""
    match = _SERVER.fullmatch(text)
    if not match:
        return None
    port = int(match[3]) if match[3] else SSH_PORT
    return Server(match[2].strip("[]"), match[1], port) if 0 < port < 65536 else None


def parse_address(text: str) -> Address | None:
    """`host` or `host:port` (IPv6 in brackets), port 7400 when not given; None when it is neither."""
    match = _SERVER.fullmatch(text)
    if not match or match[1]:
        return None
    port = int(match[3]) if match[3] else LINK_PORT
    return Address(match[2].strip("[]"), port) if 0 < port < 65536 else None


def parse_gridfile(text: str, path: str = "Gridfile") -> Gridfile:
    """The Gridfile in `text`; GridfileInvalid names `path`, the fault and what to do."""
    source = _Source(path, GridfileInvalid, _NEW_HINT)
    table = _load(text, source)
    unused = [key for key in _UNUSED_KEYS if table.pop(key, None) is not None]
    _check(table, _GRIDFILE_KEYS, ("grid_name", "servers"), source)
    settings = table.get("settings", {})
    _check(settings, _SETTINGS_KEYS, (), source, "settings.")
    password = table.get("grid_password", "")
    servers = _each(table, "servers", parse_server, "'user@host' or 'user@host:port'", MAX_SERVERS, source)
    seeds = _each(table, "seeds", parse_address, "'host:port'", MAX_SEEDS, source)
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
        path=path,
        warnings=(*warnings, *_weakness(password, weak, path)),
    )


def parse_card(text: str, path: str = "Card") -> Card:
    """The Card in `text`; CardInvalid names `path`, the fault and what to do."""
    source = _Source(path, CardInvalid, _CARD_HINT)
    table = _load(text, source)
    version = table.get("version", CARD_VERSION)
    if type(version) is int and version != CARD_VERSION:
        raise source.fault(f"card version {version}, this gridnode reads version {CARD_VERSION}", "upgrade this node")
    _check(table, _CARD_KEYS, tuple(_CARD_KEYS), source)
    _check_name(table["grid"], "grid", source)
    if not _TAG.fullmatch(table["tag"]):
        raise source.fault("`tag` must be 16 hex digits")
    return Card(
        grid=table["grid"],
        tag=table["tag"],
        ca=_pem(table, "ca", "CERTIFICATE", source),
        issuer=_pem(table, "issuer", "CERTIFICATE", source),
        issuer_key=_pem(table, "issuer_key", "PRIVATE KEY", source),
        network_key=_key(table, "network_key", source),
        deploy_key=_key(table, "deploy_key", source),
        seeds=_each(table, "seeds", parse_address, "'host:port'", MAX_SEEDS, source),
        labels=_labels(table["labels"], source),
    )


def render_gridfile(gridfile: Gridfile) -> str:
    """The TOML text of a Gridfile, commented for its owner; it holds every secret of the grid."""
    optional = ["allow_weak_password = true\n"] if gridfile.allow_weak_password else []
    if gridfile.seeds and gridfile.seeds != _default_seeds(gridfile.servers):
        optional.append(f"# Where gridctl and new nodes find the grid\nseeds = {_list(map(str, gridfile.seeds))}\n")
    settings = "\n[settings]\nlocal_deploys = true\n" if gridfile.local_deploys else ""
    return f"""#
# Gridfile Server Access ID Card
#
# Whoever holds this file owns the grid and its servers: keep it private (chmod 600),
# keep a copy in a safe place, never commit it and never copy it to a server.
#

grid_name     = {_quote(gridfile.grid_name)}
grid_password = {_quote(gridfile.grid_password)}

# 'user@host' or 'user@host:ssh_port', one per server
servers = {_list(map(str, gridfile.servers))}

ssh_key = {_block(gridfile.ssh_key)}

ssh_public_key = {_block(gridfile.ssh_public_key)}
{"".join(f"{chr(10)}{line}" for line in optional)}{settings}"""


def render_card(card: Card) -> str:
    """The TOML text of a Card; it holds this one server's secrets."""
    labels = "".join(f"{_quote(key)} = {_quote(value)}\n" for key, value in sorted(card.labels.items()))
    return f"""# gridcontrol card: lets one server join the grid as a node. Keep it private (chmod 600).

version = {CARD_VERSION}
grid = {_quote(card.grid)}
tag = {_quote(card.tag)}
seeds = {_list(map(str, card.seeds))}
network_key = {_quote(base64.b64encode(card.network_key).decode())}
deploy_key = {_quote(base64.b64encode(card.deploy_key).decode())}
ca = {_block(card.ca)}
issuer = {_block(card.issuer)}
issuer_key = {_block(card.issuer_key)}

[labels]
{labels}"""


def _load(text: str, source: _Source) -> dict[str, Any]:
    if len(text) > MAX_TEXT:
        raise source.fault(f"longer than {MAX_TEXT} characters")
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as exc:
        raise source.fault(f"not valid TOML{_position(str(exc), text)}") from exc


def _position(message: str, text: str) -> str:
    """` at line L, column C: what is wrong` from tomllib's message, which gives no position for an early end."""
    match = _POSITION.search(message)
    if match:
        return f" at line {match[1]}, column {match[2]}: {message[: match.start()]}"
    before, _, last = text.rpartition("\n")
    line, column = (before.count("\n") + 2 if before or text.startswith("\n") else 1), len(last) + 1
    return f" at line {line}, column {column}: {message.removesuffix(' (at end of document)')}"


def _check(
    table: dict[str, Any], keys: dict[str, type], required: tuple[str, ...], source: _Source, at: str = ""
) -> None:
    """Refuse unknown keys (naming the nearest), missing ones, and values of another type."""
    for key, value in table.items():
        if key not in keys:
            near = difflib.get_close_matches(key, keys, n=1, cutoff=0.5)
            known = f"did you mean `{at}{near[0]}`?" if near else f"known keys: {', '.join(keys)}"
            raise source.fault(f"unknown key `{at}{key[:64]}`", known)
        if type(value) is not keys[key]:
            raise source.fault(f"`{at}{key}` must be {_TYPES[keys[key]]}, not {_TYPES.get(type(value), 'that')}")
        if isinstance(value, str) and len(value) > MAX_STRING:
            raise source.fault(f"`{at}{key}` is longer than {MAX_STRING} characters")
    for key in required:
        if key not in table:
            raise source.fault(f"missing key `{at}{key}`", f"add `{key} = …`; {source.hint}")


def _check_name(name: str, key: str, source: _Source) -> None:
    if not _NAME.fullmatch(name):
        raise source.fault(
            f"`{key}` must be 1 to 63 letters, digits, '.', '_' or '-', and start with a letter or digit"
        )


def _check_secret(password: str, source: _Source) -> None:
    if password.strip().lower().startswith(SECRET_PREFIX) and parse_secret(password) is None:
        raise source.fault("`grid_password` has a typo: its checksum does not fit", "copy it again from its source")


def _weakness(password: str, allowed: bool, path: str) -> list[str]:
    if parse_secret(password) is not None:
        return []
    if not password:
        return [f"{path}: missing key `grid_password`: commands that talk to the grid will refuse to work"]
    consequence = "stretched because `allow_weak_password = true`" if allowed else "refused where the grid needs it"
    return [f"{path}: `grid_password` is weak (not made by `gridctl new`): {consequence}"]


def _each(
    table: dict[str, Any], key: str, parse: Callable[[str], _T | None], form: str, limit: int, source: _Source
) -> tuple[_T, ...]:
    """Every item of a list, parsed, without repeats; its fault names the item by position."""
    items = table.get(key, [])
    if len(items) > limit:
        raise source.fault(f"`{key}` has more than {limit} entries")
    found: dict[_T, None] = {}
    for index, item in enumerate(items, 1):
        parsed = parse(item) if isinstance(item, str) else None
        if parsed is None:
            raise source.fault(f"`{key}` entry {index} must be {form}, not {item!r:.80}")
        found[parsed] = None
    return tuple(found)


def _default_seeds(servers: tuple[Server, ...]) -> tuple[Address, ...]:
    return tuple(dict.fromkeys(Address(server.host, LINK_PORT) for server in servers))[:MAX_SEEDS]


def _pem(table: dict[str, Any], key: str, kind: str, source: _Source) -> str:
    text: str = table[key].strip() + "\n"
    if not text.startswith(f"-----BEGIN {kind}-----\n") or not text.endswith(f"\n-----END {kind}-----\n"):
        raise source.fault(f"`{key}` must be a PEM {kind.lower()}")
    return text


def _key(table: dict[str, Any], key: str, source: _Source) -> bytes:
    try:
        raw = base64.b64decode(table[key], validate=True)
    except (binascii.Error, ValueError) as exc:
        raise source.fault(f"`{key}` must be base64") from exc
    if len(raw) != SECRET_SIZE:
        raise source.fault(f"`{key}` must be base64 of {SECRET_SIZE} bytes, not {len(raw)}")
    return raw


def _labels(table: dict[str, Any], source: _Source) -> dict[str, str]:
    if len(table) > MAX_LABELS:
        raise source.fault(f"`labels` has more than {MAX_LABELS} entries")
    for key, value in table.items():
        if not _LABEL.fullmatch(key) or not isinstance(value, str) or len(value) > 255:
            raise source.fault(f"`labels.{key[:64]}` must be a string of at most 255 characters, under a plain name")
    return table


def _quote(text: str) -> str:
    if "'" not in text and text.isprintable():
        return f"'{text}'"
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _block(text: str) -> str:
    plain = "'''" not in text and not text.endswith("'") and text.replace("\n", "").isprintable()
    return f"'''\n{text}'''" if plain else _quote(text)


def _list(items: Iterable[str]) -> str:
    lines = "".join(f"  {_quote(item)},\n" for item in items)
    return f"[\n{lines}]" if lines else "[]"
