"""Checked TOML: tables in, with faults that name the file and what to do; quoted text out. Pure."""

import base64
import binascii
import difflib
import json
import re
import tomllib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from gridnode.errors import UsageError

__all__ = [
    "MAX_TEXT",
    "Source",
    "block",
    "check",
    "check_each",
    "check_key",
    "check_pem",
    "inline_list",
    "load",
    "quote",
]

_T = TypeVar("_T")
MAX_TEXT: Final = 1024 * 1024
MAX_STRING: Final = 64 * 1024
KEY_SIZE: Final = 32
_POSITION: Final = re.compile(r" \(at line (\d+), column (\d+)\)$")
_TYPES: Final = {str: "a string", bool: "true or false", list: "a list", dict: "a table", int: "a whole number"}


@dataclass(frozen=True, slots=True)
class Source:
    """Where a text came from and how its faults are raised: every message names the file."""

    name: str
    error: type[UsageError]
    hint: str

    def fault(self, message: str, hint: str | None = None) -> UsageError:
        return self.error(f"{self.name}: {message}", hint=hint or self.hint)


def load(text: str, source: Source) -> dict[str, Any]:
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


def check(
    table: dict[str, Any], keys: dict[str, type], required: tuple[str, ...], source: Source, at: str = ""
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


def check_each(
    table: dict[str, Any], key: str, parse: Callable[[str], _T | None], form: str, limit: int, source: Source
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


def check_pem(table: dict[str, Any], key: str, kind: str, source: Source) -> str:
    text: str = table[key].strip() + "\n"
    if not text.startswith(f"-----BEGIN {kind}-----\n") or not text.endswith(f"\n-----END {kind}-----\n"):
        raise source.fault(f"`{key}` must be a PEM {kind.lower()}")
    return text


def check_key(table: dict[str, Any], key: str, source: Source) -> bytes:
    try:
        raw = base64.b64decode(table[key], validate=True)
    except (binascii.Error, ValueError) as exc:
        raise source.fault(f"`{key}` must be base64") from exc
    if len(raw) != KEY_SIZE:
        raise source.fault(f"`{key}` must be base64 of {KEY_SIZE} bytes, not {len(raw)}")
    return raw


def quote(text: str) -> str:
    if "'" not in text and text.isprintable():
        return f"'{text}'"
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def block(text: str) -> str:
    plain = "'''" not in text and not text.endswith("'") and text.replace("\n", "").isprintable()
    return f"'''\n{text}'''" if plain else quote(text)


def inline_list(items: Iterable[str]) -> str:
    lines = "".join(f"  {quote(item)},\n" for item in items)
    return f"[\n{lines}]" if lines else "[]"
