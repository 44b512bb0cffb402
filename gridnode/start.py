"""What a node needs before it begins: its card, directories of its own, ports that are free."""

import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog

from gridnode import __version__
from gridnode.errors import CardInvalid, SettingsInvalid
from gridnode.gridfile import Card, parse_card, parse_gridfile
from gridnode.identity import Credentials, authority_of, mint_card
from gridnode.model import Address, NodeId, NodeRecord
from gridnode.own_name import OwnName
from gridnode.sandbox.roster import RestartPolicy
from gridnode.sandbox.task_pool import PoolLimits
from gridnode.settings import Settings

__all__ = ["listening", "make_private", "own_name", "own_record", "pool_limits", "read_card"]

log = structlog.get_logger()

_YEAR = 365 * 24 * 3600.0


def read_card(settings: Settings) -> Card:
    """The card this node serves by; a whole Gridfile makes it its own operator. Raises CardInvalid."""
    path = settings.gridfile or settings.card
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as exc:
        hint = "make one with `gridctl card NAME -o Card`; GRIDNODE_CARD says where it is"
        raise CardInvalid(f"{path}: {exc}", hint=hint) from exc
    if path.stat().st_mode & 0o077:
        log.warning("others on this server can read the grid's secrets", path=str(path), hint=f"chmod 600 {path}")
    if not settings.gridfile:
        return parse_card(text, str(path))
    gridfile = parse_gridfile(text, str(path))
    entropy = secrets.token_bytes(32)
    return mint_card(authority_of(gridfile), settings.name, time.time(), _YEAR, entropy, gridfile.seeds)


def own_record(
    credentials: Credentials, name: str, settings: Settings, card: Card, addresses: tuple[Address, ...]
) -> NodeRecord:
    """What a node says of itself when it begins."""
    now = time.time()
    numbers = int(now * 1000), 0, addresses, __version__, int(now)
    labels, until = dict(card.labels), int(credentials.until)
    return NodeRecord(credentials.node, name, *numbers, runtime=settings.runtime, until=until, labels=labels)


def make_private(directory: Path, variable: str) -> None:
    """Make it, for us alone; SettingsInvalid when it cannot be."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.chmod(0o700)  # an engine that made it for a mount left it open to all
    except OSError as exc:
        hint = f"{variable} has to name a directory that gridnode can write"
        raise SettingsInvalid(f"cannot use {directory}: {exc.strerror}", hint=hint) from exc


@contextmanager
def listening(host: str, port: int, variable: str) -> Iterator[None]:
    """SettingsInvalid when nobody can listen there."""
    try:
        yield
    except OSError as exc:
        hint = f"stop what listens there (`ss -tlnp`), or choose another port: {variable}"
        raise SettingsInvalid(f"cannot listen on {host}, port {port}: {exc.strerror or exc}", hint=hint) from exc


def pool_limits(settings: Settings) -> PoolLimits:
    """What bounds the instances of a task."""
    return PoolLimits(
        max_queued=settings.max_queued,
        max_queued_size=settings.max_queued_size,
        cancel_grace=settings.cancel_grace,
        stop_grace=settings.stop_grace,
        drain_timeout=settings.drain_timeout,
        adopt_timeout=settings.adopt_timeout,
        restarts=RestartPolicy(settings.restart_first, settings.restart_last),
        start_timeout=settings.start_timeout,
        starts_at_once=settings.starts_at_once,
    )


def own_name(settings: Settings, node: NodeId) -> OwnName:
    """What this node is called."""
    given = settings.name if "name" in settings.model_fields_set else ""
    return OwnName(settings.data_dir / "name", node, given, settings.name)
