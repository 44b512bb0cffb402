"""What each key of grid.toml may be, how it is read, and how that is said."""

import re
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from gridnode import task_bounds as bounds
from gridnode.model import Deliver, Network

__all__ = ["RULES", "RUNTIMES", "TABLES", "Rule", "TableRule", "as_text", "memory_text"]

RUNTIMES: Final = ("python", "node", "exec", "http", "image")
_SPANS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_SPAN: Final = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,6})?) ?(ms|s|m|h|d)")
_UNITS: Final = "KMGT"
_MEMORY: Final = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,6})?) ?([KMGT])(?:i?B)?", re.IGNORECASE)


class Rule(NamedTuple):
    """allowed: for people; read: from what TOML gives to what a TaskSpec holds, None when it is not allowed."""

    allowed: str
    read: Callable[[Any], Any]


class TableRule(NamedTuple):
    """A table of texts. names: what a name may be, for people."""

    example: str
    names: str
    is_name: Callable[[str], bool]
    values: Rule


def memory_text(size: int) -> str:
    """`256MB`, with units of 1024, in the largest that leaves no fraction."""
    unit = ""
    for larger in _UNITS:
        if not size or size % 1024:
            break
        size //= 1024
        unit = larger
    return f"{size}{unit}B"


def as_text(key: str, value: Any) -> str:
    """A setting's value for people: as grid.toml would have it, `-` for none."""
    match key, value:
        case "instances", 0:
            return "max"
        case "memory", int():
            return memory_text(value)
        case (("timeout" | "min_uptime"), _):
            return f"{value:g}s"
        case ("concurrency", 0) | (_, "" | {} | ()) if not key.startswith(("env.", "on.")):
            return "-"
        case _, bool():
            return "true" if value else "false"
        case _, tuple():
            return ", ".join(value)
        case _, float():
            return f"{value:g}"
        case _:
            return str(value)


def _whole(low: int, high: int) -> Callable[[Any], int | None]:
    return lambda value: value if type(value) is int and low <= value <= high else None


def _instances(value: Any) -> int | None:
    return 0 if value == "max" else _whole(1, bounds.INSTANCES_RANGE[1])(value)


def _memory(value: Any) -> int | None:
    if isinstance(value, str) and (match := _MEMORY.fullmatch(value.strip())):
        value = int(float(match[1]) * 1024 ** (1 + _UNITS.index(match[2].upper())))
    return _whole(*bounds.MEMORY_RANGE)(value)


def _number(low: float, high: float) -> Callable[[Any], float | None]:
    def read(value: Any) -> float | None:
        return float(value) if type(value) in (int, float) and low <= value <= high else None

    return read


def _duration(low: float, high: float) -> Callable[[Any], float | None]:
    def read(value: Any) -> float | None:
        if isinstance(value, str) and (match := _SPAN.fullmatch(value.strip())):
            value = float(match[1]) * _SPANS[match[2]]
        return _number(low, high)(value)

    return read


def _name(fits: Callable[[str], bool]) -> Callable[[Any], str | None]:
    return lambda value: value if isinstance(value, str) and fits(value) else None


def _is_health(text: str) -> bool:
    return bounds.is_health(text, "http" if text.startswith("/") else "")


def _secrets(value: Any) -> tuple[str, ...] | None:
    if not isinstance(value, list) or len(value) > bounds.MAX_SECRETS:
        return None
    fits = all(isinstance(name, str) and bounds.is_secret(name) for name in value) and len(set(value)) == len(value)
    return tuple(value) if fits else None


def _files(value: Any) -> tuple[str, ...] | None:
    if not isinstance(value, list) or len(value) > bounds.MAX_FILES:
        return None
    fits = all(isinstance(name, str) for name in value) and bounds.are_files(tuple(value))
    return tuple(value) if fits else None


def _deliver(value: Any) -> Deliver | None:
    return Deliver(value) if value in ("one", "each") else None


def _topics(value: Any) -> tuple[str, ...] | None:
    if not isinstance(value, list) or len(value) > bounds.MAX_TOPICS:
        return None
    fits = all(isinstance(one, str) and bounds.is_pattern(one) for one in value) and len(set(value)) == len(value)
    return tuple(value) if fits else None


def _text(value: Any) -> str | None:
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return str(value) if abs(value) < 1 << 64 else None
        case str() | float():
            return None if "\0" in (text := str(value)) else text
        case _:
            return None


def _label_value(value: Any) -> str | None:
    text = _text(value)
    return text if text is not None and len(text) <= bounds.MAX_LABEL else None


RULES: Final[dict[str, Rule]] = {
    "instances": Rule(f'1 to {bounds.INSTANCES_RANGE[1]} on each node, or "max" for one a core', _instances),
    "memory": Rule('bytes, or text such as "256MB" or "1.5GB"; 16MB to 1TB', _memory),
    "cpu": Rule("cores, 0.01 to 1024", _number(*bounds.CPU_RANGE)),
    "timeout": Rule('seconds, or text such as "500ms", "30s", "5m"; 1ms to 24h', _duration(*bounds.TIMEOUT_RANGE)),
    "concurrency": Rule(
        f"calls at once in one instance, 1 to {bounds.CONCURRENCY_RANGE[1]}", _whole(1, bounds.CONCURRENCY_RANGE[1])
    ),
    "network": Rule('"none" or "egress"', lambda value: Network(value) if value in ("none", "egress") else None),
    "secrets": Rule(f"a list of at most {bounds.MAX_SECRETS} names, each once, of letters, digits and _ . -", _secrets),
    "files": Rule(f"a list of at most {bounds.MAX_FILES} names of `gridctl files ls`, each once", _files),
    "runtime": Rule(" or ".join(f'"{name}"' for name in RUNTIMES), _name(lambda name: name in RUNTIMES)),
    "image": Rule("the name of an image that the nodes have", _name(bounds.is_image)),
    "runtime_class": Rule('a runtime of the nodes\' engine, such as "runsc"', _name(bounds.is_runtime_class)),
    "idempotent": Rule("true or false", lambda value: value if isinstance(value, bool) else None),
    "max_restarts": Rule(
        f"restarts within a minute, 0 to {bounds.MAX_RESTARTS_RANGE[1]}", _whole(*bounds.MAX_RESTARTS_RANGE)
    ),
    "min_uptime": Rule('seconds, or text such as "500ms", "5s"; 0 to 1h', _duration(*bounds.MIN_UPTIME_RANGE)),
    "health": Rule('a public function of the file, or a path such as "/healthz" of an HTTP server', _name(_is_health)),
    "topics": Rule(f'a list of at most {bounds.MAX_TOPICS} patterns of topics, each once, such as "orders.*"', _topics),
    "deliver": Rule('"one" (one instance in the grid gets an event) or "each" (one on each node)', _deliver),
}
"""Keys with one value, which the last of [defaults] and [tasks.NAME] says."""
TABLES: Final[dict[str, TableRule]] = {
    "env": TableRule(
        'GREETING = "hello"',
        "letters, digits and _, at most 128, not a digit first; GRID_* and PATH are the runtime's own",
        bounds.is_env_name,
        Rule("text, a number, true or false", _text),
    ),
    "on": TableRule(
        "gpu = true",
        "letters, digits and . _ / -, at most 63, a letter or digit first",
        lambda name: bounds.is_label(name, ""),
        Rule(f"text of at most {bounds.MAX_LABEL} characters, a number, true or false", _label_value),
    ),
}
"""Keys with a table, of which [defaults] and [tasks.NAME] each may say some names."""
