"""Isolation of tasks: what a sandbox backend must do, and the pool's side of it.

A backend (docker.py) starts one container per instance from a SandboxSpec. The runtime inside dials the unix
socket `grid.sock` in `socket_dir`, which is mounted read-only at /run/grid, and speaks the wire protocol.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import msgspec

from gridnode.model import InstanceId, Network, NodeId

__all__ = ["Exit", "Held", "Keep", "Output", "Sandbox", "SandboxSpec"]


class SandboxSpec(msgspec.Struct, frozen=True):
    """One instance to start. Paths are the host's. memory, tmp_size: bytes; cpu: cores; code: as in a TaskSpec.

    python: the version in the node's own image, where that is the image. files: directories by the name below /files.
    """

    instance: InstanceId
    node: NodeId
    node_name: str
    grid: str
    release: str
    task: str
    file: str
    runtime: str
    image: str
    release_dir: str
    socket_dir: str
    memory: int
    cpu: float
    concurrency: int = 0
    network: Network = Network.NONE
    env: dict[str, str] = {}
    secrets_dir: str = ""
    runtimes_dir: str = ""
    runtime_class: str = ""
    health: str = ""
    code: str = ""
    python: str = ""
    files: dict[str, str] = {}
    pids: int = 128
    tmp_size: int = 64 * 1024 * 1024


class Exit(msgspec.Struct, frozen=True):
    """How a sandbox ended."""

    code: int
    oom: bool = False
    log: str = ""


class Held(msgspec.Struct, frozen=True):
    """What a backend still knows of an instance. shape: spec.shape of what it was started from."""

    instance: InstanceId
    release: str
    task: str
    shape: str
    running: bool


class Output(NamedTuple):
    """One line a sandbox wrote. time: unix nanoseconds; stream: stdout or stderr; text: bounded, no newline."""

    time: int
    stream: str
    text: str


Keep = Callable[[str, InstanceId, list[Output]], None]
"""Takes a task file's name, an instance and its last lines, which go with it; called in a thread, must not raise."""


class Sandbox(Protocol):
    """A backend. Every method raises EngineUnavailable or SandboxError, never the engine's own errors."""

    async def start(self, spec: SandboxSpec) -> None:
        """Start the instance; returns once it runs."""

    async def wait(self, instance: InstanceId) -> Exit:
        """Wait until it ended, with its last log lines."""

    async def stop(self, instance: InstanceId, grace: float) -> None:
        """Terminate after `grace` seconds at most and remove it; unknown instances are fine."""

    async def logs(self, instance: InstanceId, lines: int) -> str:
        """Its last lines of output, bounded."""

    async def log_lines(self, instance: InstanceId, since: int, lines: int) -> list[Output]:
        """Its newest `lines` later than `since` (unix nanoseconds), by time; none for an unknown instance."""

    async def running(self) -> list[InstanceId]:
        """Instances of this node that the backend holds, ended ones included."""

    async def held(self) -> list[Held]:
        """The same, with what each was started as."""

    async def sweep(self, grid: str, age: float) -> int:
        """Remove what ended more than `age` seconds ago, of any node of the grid; how many."""

    async def close(self) -> None:
        """Let go of the engine's connection; sandboxes stay."""
