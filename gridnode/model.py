"""Frozen types and id types shared by every layer. Types that travel are msgspec Structs."""

import enum
from collections.abc import Callable
from typing import NewType

import msgspec

from gridnode.errors import GridError, TaskFailure
from gridnode.flow import Stream

NodeId = NewType("NodeId", str)
"""40 hex digits: the first 20 bytes of SHA-256 of the node's raw Ed25519 public key."""
TaskName = NewType("TaskName", str)
"""`echo` (the file's own handler) or `req.get_ip` (a function of tasks/req.py)."""
InstanceId = NewType("InstanceId", str)
"""8 hex digits, unique on its node."""
InvocationId = NewType("InvocationId", str)
"""32 hex digits."""
ChunkHash = NewType("ChunkHash", bytes)
"""SHA-256 of a chunk's uncompressed bytes, 32 raw bytes."""
Root = NewType("Root", str)
"""64 hex digits: the hash of a manifest's root directory node."""


class Role(enum.StrEnum):
    """Who is at the other end, by certificate, or by the permission of a node's socket; enforced for every op."""

    OPERATOR = "operator"
    USER = "user"
    NODE = "node"
    LOCAL = "local"
    """A program on the node's machine: in no certificate."""


class Address(msgspec.Struct, frozen=True, order=True):
    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Sighting(msgspec.Struct, frozen=True):
    """An unauthenticated hint that somebody may listen at `address`; `node` is what it claims to be."""

    address: Address
    node: NodeId | None = None


class Load(msgspec.Struct, frozen=True):
    """Calls inside the node now, and how many it runs at once."""

    in_flight: int = 0
    capacity: int = 0


class Network(enum.StrEnum):
    """What a sandbox may reach: nothing, or the world outside but no private address of its server."""

    NONE = "none"
    EGRESS = "egress"


class Deliver(enum.StrEnum):
    """Which instances get an event that a task listens to: one in the grid, or one on each node that serves it."""

    ONE = "one"
    EACH = "each"


class TaskSpec(msgspec.Struct, frozen=True, omit_defaults=True):
    """One task file of a release. Bytes, cores, seconds.

    instances: warm on each node, 0 for one a core. concurrency: calls at once in each, 0 for what the runtime says.
    max_restarts: within a minute, past which the task is errored. on: labels a node must have to serve it.
    topics: patterns of the events it gets.
    health: a function of the file that says whether an instance is well, or a path of its HTTP server; none when empty.
    files: names of directories that the grid keeps, at /files/NAME.
    code: 64 hex digits that change with whatever the task may read of its project; nothing when that is not known.
    """

    name: str
    file: str
    runtime: str = "python"
    instances: int = 1
    memory: int = 256 * 1024 * 1024
    cpu: float = 1.0
    timeout: float = 30.0
    concurrency: int = 0
    network: Network = Network.NONE
    env: dict[str, str] = {}
    secrets: tuple[str, ...] = ()
    image: str = ""
    runtime_class: str = ""
    idempotent: bool = False
    max_restarts: int = 10
    min_uptime: float = 1.0
    on: dict[str, str] = {}
    topics: tuple[str, ...] = ()
    deliver: Deliver = Deliver.ONE
    health: str = ""
    code: str = ""
    files: tuple[str, ...] = ()


class Order(msgspec.Struct, frozen=True):
    """What an operator wants of a task file, whatever its release says. instances: None for the release's own.

    restarts: how often a restart was ordered so far.
    """

    instances: int | None = None
    stopped: bool = False
    restarts: int = 0


class Process(msgspec.Struct, frozen=True):
    """One instance of a task file, or a slot that waits for one. age: seconds in its state; why: its last end."""

    task: str
    file: str
    state: str
    instance: InstanceId | None = None
    age: float = 0.0
    restarts: int = 0
    calls: int = 0
    why: str = ""


class LogLine(msgspec.Struct, frozen=True, array_like=True):
    """One line of output. time: unix nanoseconds; stream: stdout or stderr, a level where task is gridnode itself."""

    time: int
    task: str
    instance: str
    stream: str
    text: str


class Release(msgspec.Struct, frozen=True):
    """What a deploy publishes. sequence: the ledger's, only ever grows; created: unix seconds."""

    project: str
    root: Root
    sequence: int
    created: int
    size: int
    files: int
    tasks: tuple[TaskSpec, ...]


class ReleaseState(enum.StrEnum):
    FETCHING = "fetching"
    STARTING = "starting"
    ACTIVE = "active"
    FAILED = "failed"


class ReleaseStatus(msgspec.Struct, frozen=True):
    """How far one node is with one release. have/total: bytes of chunks; rate: what comes of them in a second."""

    sequence: int
    root: Root
    state: ReleaseState
    have: int = 0
    total: int = 0
    error: str = ""
    rate: int = 0


class ReleaseReport(msgspec.Struct, frozen=True):
    """One node's whole answer about its release: the status, and why task files failed."""

    node: NodeId
    status: ReleaseStatus | None
    failures: tuple[TaskFailure, ...] = ()


class Image(msgspec.Struct, frozen=True):
    """A container image that the grid ships. id, manifest: SHA-256 of its configuration and of its OCI manifest, hex.

    root: its tree's; size: bytes of configuration and layers, uncompressed; created: unix seconds; by: who pushed it.
    """

    id: str
    manifest: str
    root: Root
    size: int
    created: int
    by: str = ""


class FileSet(msgspec.Struct, frozen=True):
    """A read-only directory that the grid keeps for tasks. root: its tree's; size: bytes of all `count` files.

    created: unix seconds; by: who pushed it.
    """

    root: Root
    size: int
    count: int
    created: int
    by: str = ""


class ImageState(enum.StrEnum):
    WAITING = "waiting"
    FETCHING = "fetching"
    LOADING = "loading"
    PRESENT = "present"
    FAILED = "failed"
    REMOVING = "removing"


class ImageStatus(msgspec.Struct, frozen=True):
    """How far one node is with one image, or set of files. id: Image.id, FileSet.root; have/total: bytes of chunks."""

    name: str
    id: str
    state: ImageState
    have: int = 0
    total: int = 0
    error: str = ""


class Runtime(msgspec.Struct, frozen=True):
    """What Python tasks run on. machine: as `uname -m` says; python: `3.13`; libc: of glibc, empty for others."""

    machine: str
    python: str
    libc: str = ""


class NodeRecord(msgspec.Struct, frozen=True):
    """What a node says of itself; a higher (incarnation, version of record) replaces a lower one.

    draining: it takes no new calls, for it is about to go, or an operator wants none there.
    interest: the version of what it listens to.
    runtime: what its Python tasks run on, where they name no image; unknown of a node that is older.
    refuted: how often in this life it has objected to being called suspect or dead. gone: it has left in order.
    served: digest of `tasks`, which stay behind when a record travels; labels: its card's.
    until: unix seconds when its card ends, 0 of a node that is older. drained: it drains because an operator says so.
    """

    id: NodeId
    name: str
    incarnation: int
    revision: int
    addresses: tuple[Address, ...]
    version: str
    started: int
    load: Load = Load()
    release: ReleaseStatus | None = None
    tasks: tuple[TaskName, ...] = ()
    draining: bool = False
    interest: int = 0
    runtime: Runtime | None = None
    until: int = 0
    refuted: int = 0
    gone: bool = False
    served: str = ""
    labels: dict[str, str] = {}
    drained: bool = False


class Claim(msgspec.Struct, frozen=True, array_like=True):
    """Somebody cannot reach a node as it was at (incarnation, refuted): it is suspect, or dead.

    ask: whoever hears this is to try whether he can reach it.
    """

    node: NodeId
    incarnation: int
    refuted: int
    dead: bool = False
    ask: bool = False


class RecordVersion(msgspec.Struct, frozen=True, array_like=True):
    """Which of a node's records somebody knows."""

    node: NodeId
    incarnation: int
    refuted: int
    revision: int


class MemberState(enum.StrEnum):
    ALIVE = "alive"
    SUSPECT = "suspect"
    DEAD = "dead"
    LEFT = "left"


class Member(msgspec.Struct, frozen=True):
    """A peer's row in the Membership. since: the time of the last state change, unix seconds."""

    record: NodeRecord
    state: MemberState
    since: float


class Invocation(msgspec.Struct, frozen=True, gc=False):
    """One call on its way. deadline: the loop's clock, seconds; body and meta pass through undecoded.

    key: its idempotency key, which meta holds too; empty: none. stream: takes the result item by item; None: whole.
    """

    id: InvocationId
    task: TaskName
    body: bytes
    deadline: float
    meta: bytes = b""
    key: str = ""
    stream: Stream | None = None


class Outcome(msgspec.Struct, frozen=True, gc=False):
    """What became of an Invocation: `body`, or `error`. started: the task may have run, wholly or in part.

    body: of a call that streamed, nothing, or one last item.
    name: the node's own; duration: seconds.
    """

    body: bytes = b""
    error: GridError | None = None
    node: NodeId | None = None
    name: str = ""
    instance: InstanceId | None = None
    started: bool = True
    attempts: int = 1
    duration: float = 0.0


Done = Callable[[Outcome], None]
"""Called exactly once with a call's Outcome, from the event loop; must not raise."""
