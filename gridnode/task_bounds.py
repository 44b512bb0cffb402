"""How far each field of a TaskSpec may go: what grid.toml is checked against, a release, and a sandbox."""

import re
from collections.abc import Mapping
from typing import Final

from gridnode.errors import TopicInvalid
from gridnode.model import TaskSpec
from gridnode.topics import check_pattern

__all__ = [
    "are_files",
    "env_size",
    "is_env_name",
    "is_files",
    "is_health",
    "is_image",
    "is_label",
    "is_pattern",
    "is_runtime",
    "is_runtime_class",
    "is_secret",
    "refused",
]

INSTANCES_RANGE: Final = (0, 1024)
MEMORY_RANGE: Final = (16 * 1024 * 1024, 1 << 40)
CPU_RANGE: Final = (0.01, 1024.0)
TIMEOUT_RANGE: Final = (0.001, 86_400.0)
CONCURRENCY_RANGE: Final = (0, 1024)
MAX_RESTARTS_RANGE: Final = (0, 1000)
MIN_UPTIME_RANGE: Final = (0.0, 3600.0)
MAX_ENV: Final = 16 * 1024
"""Bytes of all names and values together."""
MAX_VARIABLES: Final = 128
MAX_SECRETS: Final = 64
MAX_FILES: Final = 32
MAX_LABELS: Final = 64
MAX_TOPICS: Final = 32
MAX_LABEL: Final = 255
MAX_PATH: Final = 1024
_MAX_PART: Final = 255

_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./-]{0,127}")
_RUNTIME: Final = re.compile(r"[a-z][a-z0-9_-]{0,31}")
_ENV_NAME: Final = re.compile(r"(?!GRID_|PATH\Z)[A-Za-z_][A-Za-z0-9_]{0,127}")
_SECRET: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
_FILES: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_IMAGE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:@-]{0,254}")
_RUNTIME_CLASS: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_CODE: Final = re.compile(r"[0-9a-f]{64}")
_FUNCTION: Final = re.compile(r"[A-Za-z$][A-Za-z0-9_$]{0,99}")
_HEALTH_PATH: Final = re.compile(r"/[!-~]{0,254}")
_LABEL: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,62}")


def refused(task: TaskSpec) -> list[str]:
    """Names of the fields that are out of bounds; none when the task may run."""
    checks = {
        "name": _NAME.fullmatch(task.name),
        "file": _is_task_file(task.file),
        "runtime": is_runtime(task.runtime),
        "instances": _within(task.instances, INSTANCES_RANGE),
        "memory": _within(task.memory, MEMORY_RANGE),
        "cpu": _within(task.cpu, CPU_RANGE),
        "timeout": _within(task.timeout, TIMEOUT_RANGE),
        "concurrency": _within(task.concurrency, CONCURRENCY_RANGE),
        "env": len(task.env) <= MAX_VARIABLES and env_size(task.env) <= MAX_ENV and _is_env(task.env),
        "secrets": len(task.secrets) <= MAX_SECRETS and _are_secrets(task.secrets),
        "files": len(task.files) <= MAX_FILES and are_files(task.files),
        "image": task.image == "" or is_image(task.image),
        "runtime_class": task.runtime_class == "" or is_runtime_class(task.runtime_class),
        "max_restarts": _within(task.max_restarts, MAX_RESTARTS_RANGE),
        "min_uptime": _within(task.min_uptime, MIN_UPTIME_RANGE),
        "on": len(task.on) <= MAX_LABELS and all(is_label(*label) for label in task.on.items()),
        "topics": len(task.topics) <= MAX_TOPICS and _are_patterns(task.topics),
        "health": task.health == "" or is_health(task.health, task.runtime),
        "code": task.code == "" or bool(_CODE.fullmatch(task.code)),
    }
    return [name for name, holds in checks.items() if not holds]


def is_runtime(name: str) -> bool:
    return bool(_RUNTIME.fullmatch(name))


def is_env_name(name: str) -> bool:
    """Whether a task may set it: by GRID_* the runtime learns where it is, and by PATH it is found in its image."""
    return bool(_ENV_NAME.fullmatch(name))


def env_size(env: Mapping[str, str]) -> int:
    """Bytes as the sandbox gets it."""
    return sum(len(name.encode()) + len(value.encode()) + 2 for name, value in env.items())


def is_secret(name: str) -> bool:
    """Whether it can name a secret, which is a file in the sandbox."""
    return bool(_SECRET.fullmatch(name))


def is_files(name: str) -> bool:
    """Whether it can name a directory of the grid's, which is one below /files in the sandbox."""
    return bool(_FILES.fullmatch(name))


def are_files(names: tuple[str, ...]) -> bool:
    return len(set(names)) == len(names) and all(map(is_files, names))


def is_pattern(pattern: str) -> bool:
    """Whether it can be a pattern of topics."""
    try:
        check_pattern(pattern)
    except TopicInvalid:
        return False
    return True


def is_image(name: str) -> bool:
    return bool(_IMAGE.fullmatch(name))


def is_runtime_class(name: str) -> bool:
    return bool(_RUNTIME_CLASS.fullmatch(name))


def is_health(health: str, runtime: str) -> bool:
    """Whether such a task can be asked so: a path of an HTTP server, else a function; a program can not."""
    if runtime == "http":
        return bool(_HEALTH_PATH.fullmatch(health))
    return runtime != "exec" and bool(_FUNCTION.fullmatch(health))


def is_label(name: str, value: str) -> bool:
    """Whether a node can have this label: the bounds of a card's."""
    return bool(_LABEL.fullmatch(name)) and len(value) <= MAX_LABEL


def _is_env(env: Mapping[str, str]) -> bool:
    return all(is_env_name(name) and "\0" not in value for name, value in env.items())


def _are_secrets(names: tuple[str, ...]) -> bool:
    return len(set(names)) == len(names) and all(map(is_secret, names))


def _are_patterns(patterns: tuple[str, ...]) -> bool:
    return len(set(patterns)) == len(patterns) and all(map(is_pattern, patterns))


def _is_task_file(path: str) -> bool:
    parts = path.split("/")
    plain = all(part not in {"", ".", ".."} and len(part.encode()) <= _MAX_PART for part in parts)
    return plain and len(parts) > 1 and parts[0] == "tasks" and len(path) <= MAX_PATH and path.isprintable()


def _within(value: float, bounds: tuple[float, float]) -> bool:
    return bounds[0] <= value <= bounds[1]
