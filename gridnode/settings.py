"""Everything that can be set, from GRIDNODE_* in the environment; the only reader of it. Seconds and bytes."""

import socket
from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """One node's settings. Secrets are no settings: they come in the Card, a 0600 file."""

    model_config = SettingsConfigDict(env_prefix="GRIDNODE_", frozen=True)

    card: Path = Path("/etc/gridnode/Card")
    gridfile: Path | None = None
    """The whole Gridfile instead of a card: a laptop, or a grid of one server."""
    data_dir: Path = Path("/var/lib/gridnode")
    run_dir: Path = Path("/run/gridnode")
    name: str = Field(default_factory=socket.gethostname, min_length=1, max_length=64)

    listen: str = ""
    """Address the link listens on; empty: all, IPv4 and IPv6."""
    port: int = Field(default=7400, ge=0, le=65535)
    advertise: tuple[str, ...] = ()
    """host:port others can dial, when it is not the address of an interface."""
    api_port: int = Field(default=10000, ge=0, le=65535)
    mdns: bool = True

    sandbox_image: str = ""
    """Image of Python tasks and programs; empty: the one gridnode itself runs from."""
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

    tick: float = 0.5
    silent_after: float = 2.0
    suspect_after: float = 1.75
    fetch_timeout: float = 20.0
    fetches_at_once: int = 4

    @property
    def log_dir(self) -> Path:
        return self.data_dir / "logs"

    @property
    def own_log(self) -> Path:
        return self.log_dir / "gridnode.log"
