"""A SandboxSpec as the body of the engine's POST /containers/create: every default that isolates a task."""

import hashlib
import re
from pathlib import PurePosixPath
from typing import Any, Final

import msgspec

from gridnode.errors import SandboxError
from gridnode.model import InstanceId, Network, NodeId
from gridnode.sandbox import SandboxSpec
from gridnode.sandbox.egress import NETWORK
from gridnode.task_bounds import is_env_name, is_files, is_health, is_runtime_class

LABEL_NODE: Final = "gridcontrol.node"
LABEL_INSTANCE: Final = "gridcontrol.instance"
LABEL_GRID: Final = "gridcontrol.grid"
LABEL_TASK: Final = "gridcontrol.task"
LABEL_RELEASE: Final = "gridcontrol.release"
LABEL_SHAPE: Final = "gridcontrol.shape"

RELEASE_MOUNT: Final = "/task"
SOCKET_MOUNT: Final = "/run/grid"
SOCKET_NAME: Final = "grid.sock"
RUNTIMES_MOUNT: Final = "/usr/lib/gridnode/runtimes"
SECRETS_MOUNT: Final = "/run/secrets"
FILES_MOUNT: Final = "/files"

SANDBOX_USER: Final = (65534, 65534)
NOBODY: Final = "{}:{}".format(*SANDBOX_USER)
ENTRYPOINTS: Final[dict[str, tuple[str, ...]]] = {
    "python": ("python3", "-I", f"{RUNTIMES_MOUNT}/python.py"),
    "node": ("node", f"{RUNTIMES_MOUNT}/node.js"),
    "exec": ("python3", "-I", f"{RUNTIMES_MOUNT}/exec.py"),
    "http": ("python3", "-I", f"{RUNTIMES_MOUNT}/http.py"),
    "image": (),
}
"""What runs in a sandbox, found on the image's own PATH; nothing of ours with `image`, which speaks for itself."""

MIN_MEMORY: Final = 16 * 1024 * 1024
MIN_PIDS: Final = 8
MAX_CPU: Final = 1024.0
_OPEN_FILES: Final = 4096
_TMP_INODES: Final = 16384
_LOG_SIZE: Final = "1m"
_LOG_FILES: Final = "2"
_IDS: Final = {"instance": r"[0-9a-f]{8}", "node": r"[0-9a-f]{40}"}
_TEXTS: Final = {"node_name": 64, "grid": 100, "release": 100, "task": 200, "file": 1000, "image": 300}
_CONTAINER_ID: Final = re.compile(r"containers/([0-9a-f]{64})/\S* /etc/(?:hostname|hosts|resolv\.conf) ")


def container_name(spec: SandboxSpec) -> str:
    """`gridcontrol-<node8>-<task>-<instance>`, in the characters an engine takes."""
    return f"gridcontrol-{spec.node[:8]}-{re.sub(r'[^A-Za-z0-9_.-]', '-', spec.task)[:40]}-{spec.instance}"


def container_config(spec: SandboxSpec) -> dict[str, Any]:
    """The engine's container configuration, HostConfig included; SandboxError when a field is out of bounds."""
    _check(spec)
    return {
        "Image": spec.image,
        **_program(spec),
        "Env": [f"{name}={value}" for name, value in environment(spec).items()],
        "Labels": labels(spec),
        "Hostname": spec.instance,
        "User": NOBODY,
        "WorkingDir": RELEASE_MOUNT,
        "Tty": False,
        "OpenStdin": False,
        "NetworkDisabled": spec.network is Network.NONE,
        "Healthcheck": {"Test": ["NONE"]},
        "StopSignal": "SIGTERM",
        "HostConfig": _isolation(spec) | _limits(spec),
    }


def _program(spec: SandboxSpec) -> dict[str, list[str]]:
    program = ENTRYPOINTS[spec.runtime]
    return {"Entrypoint": list(program), "Cmd": []} if program else {}


def environment(spec: SandboxSpec) -> dict[str, str]:
    """The task's own variables, and what the runtime learns; never a secret, `docker inspect` shows it."""
    own = {
        "GRID_SOCKET": f"{SOCKET_MOUNT}/{SOCKET_NAME}",
        "GRID_TASK": spec.task,
        "GRID_FILE": spec.file,
        "GRID_NODE": spec.node_name,
        "GRID_INSTANCE": spec.instance,
    }
    if spec.concurrency:
        own["GRID_CONCURRENCY"] = str(spec.concurrency)
    if spec.health:
        own["GRID_HEALTH"] = spec.health
    return {"HOME": "/tmp", "LANG": "C.UTF-8"} | spec.env | own


def labels(spec: SandboxSpec) -> dict[str, str]:
    """By what a node finds its sandboxes again."""
    return {
        LABEL_NODE: spec.node,
        LABEL_INSTANCE: spec.instance,
        LABEL_GRID: spec.grid,
        LABEL_TASK: spec.task,
        LABEL_RELEASE: spec.release,
        LABEL_SHAPE: shape(spec),
    }


def shape(spec: SandboxSpec) -> str:
    """32 hex digits that are the same for instances started alike: whatever the spec says but which one it is.

    Of the release it says as much as the task's code, where that is known; of the node's own image, its Python. Which
    runtime speaks in it is no part: its Hello tells. So an upgrade of the node leaves instances as they are.
    """
    alike = msgspec.structs.replace(spec, instance=InstanceId(""), socket_dir="", secrets_dir="", runtimes_dir="")
    if spec.code:
        alike = msgspec.structs.replace(alike, release="", release_dir="")
    if spec.python:
        alike = msgspec.structs.replace(alike, image="")
    fields = msgspec.to_builtins(alike)
    if not spec.files:  # so that those of a version that had none are still alike
        del fields["files"]
    return hashlib.sha256(msgspec.json.encode(fields, order="deterministic")).hexdigest()[:32]


def node_filters(node: NodeId, instance: InstanceId | None = None) -> list[str]:
    """Label filters for one node's sandboxes, or for one of them."""
    return [f"{LABEL_NODE}={node}"] + ([f"{LABEL_INSTANCE}={instance}"] if instance else [])


def container_id(mountinfo: str) -> str | None:
    """The id of the container whose /proc/self/mountinfo this is, from the files the engine mounts over /etc."""
    found = _CONTAINER_ID.search(mountinfo)
    return found.group(1) if found else None


def _isolation(spec: SandboxSpec) -> dict[str, Any]:
    # The engine's seccomp and AppArmor profiles apply because SecurityOpt does not name any.
    return {
        "NetworkMode": NETWORK if spec.network is Network.EGRESS else "none",
        "ReadonlyRootfs": True,
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges:true"],
        "Privileged": False,
        "Runtime": spec.runtime_class,
        "IpcMode": "private",
        "Init": True,
        "RestartPolicy": {"Name": "no"},
        "AutoRemove": False,
        "Mounts": [_mount(source, target) for target, source in _mounts(spec).items()],
        "Tmpfs": {"/tmp": f"rw,nosuid,nodev,noexec,mode=1777,size={spec.tmp_size},nr_inodes={_TMP_INODES}"},
        "ShmSize": spec.tmp_size,
        "LogConfig": {"Type": "json-file", "Config": {"max-size": _LOG_SIZE, "max-file": _LOG_FILES}},
    }


def _limits(spec: SandboxSpec) -> dict[str, Any]:
    return {
        "Memory": spec.memory,
        "MemorySwap": spec.memory,
        "NanoCpus": int(spec.cpu * 1_000_000_000),
        "PidsLimit": spec.pids,
        "Ulimits": [
            {"Name": "nofile", "Soft": _OPEN_FILES, "Hard": _OPEN_FILES},
            {"Name": "core", "Soft": 0, "Hard": 0},
        ],
    }


def _mounts(spec: SandboxSpec) -> dict[str, str]:
    """Of the host's directories, by where they are in the sandbox."""
    mounts = {RELEASE_MOUNT: spec.release_dir, SOCKET_MOUNT: spec.socket_dir}
    optional = {RUNTIMES_MOUNT: spec.runtimes_dir, SECRETS_MOUNT: spec.secrets_dir}
    files = {f"{FILES_MOUNT}/{name}": source for name, source in spec.files.items()}
    return mounts | {target: source for target, source in optional.items() if source} | files


def _mount(source: str, target: str) -> dict[str, Any]:
    # A mount, unlike a bind string, takes any path as it is, and fails when the source is missing instead of making it.
    return {
        "Type": "bind",
        "Source": source,
        "Target": target,
        "ReadOnly": True,
        "BindOptions": {"Propagation": "rprivate"},
    }


def _check(spec: SandboxSpec) -> None:
    for field, pattern in _IDS.items():
        _demand(re.fullmatch(pattern, getattr(spec, field)), spec, field)
    for field, longest in _TEXTS.items():
        text = getattr(spec, field)
        _demand(0 < len(text) <= longest and text.isprintable(), spec, field)
    for field in ("release_dir", "socket_dir", *(["secrets_dir"] if spec.secrets_dir else [])):
        _demand(_is_mountable(getattr(spec, field)), spec, field)
    _demand(not spec.runtimes_dir or _is_mountable(spec.runtimes_dir), spec, "runtimes_dir")
    sound = all(is_files(name) and _is_mountable(source) for name, source in spec.files.items())
    _demand(sound, spec, "files")
    file = PurePosixPath(spec.file)
    _demand(not file.is_absolute() and ".." not in file.parts, spec, "file")
    _demand(spec.runtime in ENTRYPOINTS, spec, "runtime")
    _demand(spec.concurrency >= 0, spec, "concurrency")
    _demand(spec.health == "" or is_health(spec.health, spec.runtime), spec, "health")
    _demand(spec.memory >= MIN_MEMORY, spec, "memory")
    _demand(spec.pids >= MIN_PIDS, spec, "pids")
    _demand(0.01 <= spec.cpu <= MAX_CPU, spec, "cpu")
    _demand(0 < spec.tmp_size <= spec.memory, spec, "tmp_size")
    _demand(spec.runtime_class == "" or is_runtime_class(spec.runtime_class), spec, "runtime_class")
    _demand(isinstance(spec.network, Network), spec, "network")
    _demand(all(is_env_name(name) and "\0" not in value for name, value in spec.env.items()), spec, "env")


def _is_mountable(path: str) -> bool:
    pure = PurePosixPath(path)
    return (
        path.isprintable()
        and path == str(pure)
        and pure.is_absolute()
        and len(pure.parts) > 2
        and ".." not in pure.parts
    )


def _demand(holds: object, spec: SandboxSpec, field: str) -> None:
    if not holds:
        raise SandboxError(f"sandbox of {spec.task!r}: {field} {getattr(spec, field)!r} is not allowed")
