"""Everything that can be set, from GRIDNODE_* in the environment; the only reader of it. Seconds and bytes."""

import json
import logging
import platform
import socket
import sys
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from gridnode.errors import SettingsInvalid
from gridnode.flow import FIRST_ITEMS, FIRST_SIZE, MAX_ITEMS, MAX_SIZE
from gridnode.gridfile import parse_address
from gridnode.membership import MembershipLimits
from gridnode.model import Runtime

PREFIX = "GRIDNODE_"


class Settings(BaseSettings):
    """One node's settings. Secrets are no settings: they come in the Card, a 0600 file."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True)

    card: Path = Path("/etc/gridnode/Card")
    gridfile: Path | None = None
    """The whole Gridfile instead of a card: a laptop, or a grid of one server."""
    data_dir: Path = Path("/var/lib/gridnode")
    run_dir: Path = Path("/run/gridnode")
    name: str = Field(default_factory=socket.gethostname, min_length=1, max_length=64)

    listen: str = ""
    """Address the link listens on; empty: all, IPv4 and IPv6."""
    port: int = Field(default=7400, ge=0, le=65535)
    advertise: Annotated[tuple[str, ...], NoDecode] = ()
    """host:port others can dial, when it is not the address of an interface; with commas between, or a JSON list."""
    api_port: int = Field(default=10000, ge=0, le=65535)
    mdns: bool = True
    dht: bool = True
    client_group: int | None = Field(default=None, ge=0, le=0xFFFFFFFE)
    """Id of the group that may use the socket client.sock in run_dir; without one, root alone."""

    sandbox_image: str = ""
    """Image of Python tasks and programs; empty: the one gridnode itself runs from."""
    sandbox_python: str = Field(default="{}.{}".format(*sys.version_info), pattern=r"^3\.[0-9]{1,3}$")
    """The Python of that image, for which deploys choose packages; else that of gridnode itself."""
    node_image: str = "gridcontrol/runtime-node:latest"
    """Image of JavaScript tasks: scripts/image --node makes it."""
    log_level: str = "info"
    log_size: int = Field(default=2 * 1024 * 1024, ge=64 * 1024)
    log_files: int = Field(default=3, ge=1)
    """gridnode's own log on disk: bytes of one file, and how many."""
    kept_log_size: int = Field(default=256 * 1024, ge=64 * 1024)
    kept_logs_size: int = Field(default=16 * 1024 * 1024, ge=64 * 1024)
    """Bytes for the last lines of instances that are gone: of one task file, and of all."""

    call_timeout: float = Field(default=30.0, gt=0)
    max_call_timeout: float = Field(default=3600.0, gt=0)
    max_queued: int = Field(default=256, ge=0)
    """Calls waiting per task file; past it NoCapacity."""
    max_queued_size: int = Field(default=64 * 1024 * 1024, ge=0)
    """Bytes of their arguments."""
    max_calls: int = Field(default=8192, ge=1)
    max_calls_size: int = Field(default=256 * 1024 * 1024, ge=0)
    """Calls under way anywhere in the grid that came in through this node, and bytes of their arguments."""
    max_requests: int = Field(default=1024, ge=1)
    max_requests_size: int = Field(default=128 * 1024 * 1024, ge=0)
    """HTTP requests being read or answered that invoke a task, and bytes of their bodies."""
    stream_items: int = Field(default=256, ge=FIRST_ITEMS, le=MAX_ITEMS)
    stream_size: int = Field(default=1024 * 1024, ge=FIRST_SIZE, le=MAX_SIZE)
    """Items and bytes of one stream that may be on their way to an HTTP client of this node, or wait for it here."""
    key_window: float = Field(default=600.0, ge=0)
    max_keys: int = Field(default=10_000, ge=1)
    max_keys_size: int = Field(default=64 * 1024 * 1024, ge=0)
    """How long the outcome of a call with an idempotency key is kept; how many at most, and their bytes."""
    cancel_grace: float = 1.0
    start_timeout: float = 60.0
    drain_timeout: float = 30.0
    adopt_timeout: float = 3.0
    """How long a sandbox of an earlier life may take to dial again."""
    leave_timeout: float = 8.0
    """How long calls inside may take to finish once the node is told to stop; docker stop waits 10 s by default."""
    stop_grace: float = 2.0
    restart_first: float = 0.1
    restart_last: float = 15.0
    starts_at_once: int = 4

    tick: float = 0.25
    silent_after: float = 1.0
    """How long a link may be quiet before its peer is suspect; in a grid of more than full_mesh nodes 1.5 s more."""
    suspect_after: float = 1.25
    """How long a suspect may take to object, in a grid of ten; longer in a larger one, by log n."""
    full_mesh: int = Field(default=64, ge=2, le=512)
    """Up to so many nodes all are linked to all; above, each to a few, and to others on demand."""
    fetch_timeout: float = 20.0
    fetches_at_once: int = 4
    upload_quiet: float = Field(default=300.0, ge=0)
    """How long after an operator's last question or chunk an upload counts as over, and what nothing holds may go."""
    max_image_size: int = Field(default=32 * 1024**3, ge=1024 * 1024)
    disk_reserve: int = Field(default=1024**3, ge=0)
    """What stays free on the disk when an image is fetched."""
    image_timeout: float = Field(default=600.0, gt=0)
    """How long a release waits for an image that is on its way."""

    @field_validator("advertise", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        """What the environment says, as a list."""
        if not isinstance(value, str):
            return value
        if value.lstrip().startswith("["):
            try:
                return json.loads(value)
            except (ValueError, RecursionError) as exc:
                raise ValueError(f"starts like a JSON list, and is none: {exc}") from exc
        return [part.strip() for part in value.split(",") if part.strip()]

    @field_validator("advertise")
    @classmethod
    def _can_be_dialled(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            if parse_address(text) is None:
                raise ValueError(f"{text!r:.80} is not host:port")
        return value

    @field_validator("log_level")
    @classmethod
    def _is_level(cls, value: str) -> str:
        if value.upper() not in logging.getLevelNamesMapping():
            raise ValueError("expected debug, info, warning, error or critical")
        return value

    @property
    def membership(self) -> MembershipLimits:
        return MembershipLimits(
            silent_after=self.silent_after,
            silent_after_apart=self.silent_after + 1.5,
            suspect_after=self.suspect_after,
            full=self.full_mesh,
        )

    @property
    def runtime(self) -> Runtime:
        """What Python tasks run on here: an image is for the kind of machine that it is on."""
        libc, version = platform.libc_ver()
        return Runtime(platform.machine().lower(), self.sandbox_python, version if libc == "glibc" else "")

    @property
    def log_dir(self) -> Path:
        return self.data_dir / "logs"

    @property
    def own_log(self) -> Path:
        return self.log_dir / "gridnode.log"


def read_settings() -> Settings:
    """The settings of this process; SettingsInvalid names every variable that cannot be, and what is expected."""
    try:
        return Settings()
    except ValidationError as exc:
        faults = [_fault(str(one["loc"][0]), one["input"], one["msg"]) for one in exc.errors()]
        raise SettingsInvalid("; ".join(dict.fromkeys(faults)), hint="mend it and start gridnode again") from exc


def _fault(name: str, value: object, expected: str) -> str:
    said = expected.removeprefix("Value error, ")
    return f"{PREFIX}{name.upper()} cannot be {str(value)!r:.80}: {said[:1].lower()}{said[1:]}"
