"""The Gridfile on disk: make a new one, find it, read it, and mint cards from it."""

import itertools
import os
import re
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from gridnode.errors import GridfileInvalid, UsageError
from gridnode.gridfile import (
    MAX_TEXT,
    Gridfile,
    parse_address,
    parse_gridfile,
    parse_server,
    render_card,
    render_gridfile,
    render_secret,
)
from gridnode.model import Address

__all__ = [
    "NewGridfile",
    "card_text",
    "find_gridfile",
    "load_gridfile",
    "new_gridfile",
    "new_key_pair",
    "write_private",
    "write_private_bytes",
]

_T = TypeVar("_T")
GRIDFILE: Final = "Gridfile"
VARIABLE: Final = "GRIDCTL_GRIDFILE"
EXAMPLE_SERVERS: Final = ("ubuntu@ip1", "ubuntu@ip2", "ubuntu@ip3")
DEFAULT_TTL: Final = 365 * 86_400.0
MAX_TTL: Final = 100 * 365 * 86_400.0


@dataclass(frozen=True, slots=True)
class NewGridfile:
    """What `new_gridfile` wrote. backup: where the Gridfile that was there before is kept now."""

    path: Path
    gridfile: Gridfile
    backup: Path | None = None


def new_gridfile(
    directory: Path,
    name: str | None = None,
    force: bool = False,
    servers: Iterable[str] = EXAMPLE_SERVERS,
    seeds: Iterable[str] = (),
) -> NewGridfile:
    """Write a 0600 Gridfile with a fresh secret and SSH key; UsageError when one is there, unless `force` keeps it."""
    path = directory / GRIDFILE
    name = name or _name_from(directory)
    private, public = new_key_pair(name)
    draft = Gridfile(
        grid_name=name,
        servers=_parsed(servers, parse_server, "user@host or user@host:port"),
        grid_password=render_secret(secrets.token_bytes(32)),
        ssh_key=private,
        ssh_public_key=public,
        seeds=_parsed(seeds, parse_address, "host:port"),
    )
    text = render_gridfile(draft)
    gridfile = parse_gridfile(text, str(path))
    try:
        backup = _keep(path) if force and path.exists() else None
        write_private(path, text, force)
    except FileExistsError as exc:
        raise UsageError(
            f"{path} is there already",
            hint="`gridctl new --force` replaces it and keeps it as Gridfile.bak; its servers know only the old one",
        ) from exc
    except OSError as exc:
        raise UsageError(f"{path} cannot be written: {exc.strerror}", hint="choose a directory you can write") from exc
    return NewGridfile(path, gridfile, backup)


def find_gridfile(start: Path, flag: str | None = None, environ: Mapping[str, str] = os.environ) -> Path:
    """The Gridfile to use: the flag's, else $GRIDCTL_GRIDFILE's, else the nearest in `start` or above it."""
    chosen = flag or environ.get(VARIABLE)
    if chosen:
        return Path(chosen)
    for directory in (start.absolute(), *start.absolute().parents):
        if (directory / GRIDFILE).is_file():
            return _own(directory / GRIDFILE)
    raise UsageError(
        f"no Gridfile in {start.absolute()} or above it",
        hint=f"`gridctl new` makes one; to use one elsewhere: --gridfile PATH or {VARIABLE}=PATH",
    )


def _own(path: Path) -> Path:
    """A Gridfile that was found, not named: one that another user laid above us would take our code to their grid."""
    if path.stat().st_uid not in (0, os.geteuid()):
        raise UsageError(f"{path} belongs to another user", hint=f"if it is yours to use: --gridfile {path}")
    return path


def load_gridfile(path: Path) -> Gridfile:
    """The Gridfile at `path`, with warnings about its permissions and secret; GridfileInvalid says what is wrong."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            raw = file.read(MAX_TEXT * 4 + 1)
        text = raw.decode()
    except OSError as exc:
        hint = "`gridctl new` makes one, or give the path of yours with --gridfile"
        raise GridfileInvalid(f"{path}: cannot be read: {exc.strerror}", hint=hint) from exc
    except UnicodeDecodeError as exc:
        line = raw[: exc.start].count(b"\n") + 1
        raise GridfileInvalid(f"{path}: line {line} is not UTF-8 text", hint="is it a Gridfile at all?") from exc
    gridfile = parse_gridfile(text, str(path))
    if mode & 0o077 == 0:
        return gridfile
    warning = f"{path}: other users of this machine can read the grid's secrets: chmod 600 {path}"
    return replace(gridfile, warnings=(warning, *gridfile.warnings))


def card_text(
    gridfile: Gridfile,
    host: str,
    ttl: float = DEFAULT_TTL,
    labels: Mapping[str, str] | None = None,
    seeds: Iterable[Address] | None = None,
) -> str:
    """A fresh card for `host` as TOML, valid for `ttl` seconds; seeds default to the Gridfile's."""
    from gridnode.identity import authority_of, mint_card  # certificates take 0.1 s to import

    if not 0 < ttl <= MAX_TTL:
        raise UsageError(f"a card cannot be valid for {ttl:g} seconds", hint="from a second to 100 years")
    authority = authority_of(gridfile)
    chosen = gridfile.seeds if seeds is None else seeds
    return render_card(mint_card(authority, host, time.time(), ttl, secrets.token_bytes(32), chosen, labels))


def _parsed(texts: Iterable[str], parse: Callable[[str], _T | None], form: str) -> tuple[_T, ...]:
    found = []
    for text in texts:
        parsed = parse(text)
        if parsed is None:
            raise UsageError(f"{text!r:.80} is not {form}", hint=f"write it as {form}")
        found.append(parsed)
    return tuple(found)


def _name_from(directory: Path) -> str:
    """The directory's name as a grid's name, `grid` when nothing is left of it."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", directory.absolute().name).strip("-._")
    return plain[:63] or "grid"


def new_key_pair(name: str) -> tuple[str, str]:
    """A fresh Ed25519 key pair in OpenSSH's formats."""
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode()
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    return private, f"{public} gridcontrol:{name}"


def _keep(path: Path) -> Path:
    """Copy the Gridfile to the first free of Gridfile.bak, Gridfile.bak2, ... (0600): an old secret is never lost."""
    content = path.read_bytes()
    for number in itertools.count(1):
        backup = path.with_name(f"{path.name}.bak{number if number > 1 else ''}")
        with suppress(FileExistsError), open(backup, "xb", opener=_private) as file:
            file.write(content)
            return backup
    raise AssertionError("unreachable")


def write_private(path: Path, text: str, replacing: bool = False) -> None:
    """Write all or nothing, 0600; FileExistsError when something is there and is not to be replaced."""
    write_private_bytes(path, text.encode(), replacing)


def write_private_bytes(path: Path, content: bytes, replacing: bool = False) -> None:
    """As `write_private`."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with open(draft, "xb", opener=_private) as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if replacing:
            draft.replace(path)
        else:
            path.hardlink_to(draft)
    finally:
        draft.unlink(missing_ok=True)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
