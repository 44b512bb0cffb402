"""A task's settings as people and programs read them, and what differs between two releases."""

from typing import Any

from msgspec import to_builtins
from msgspec.structs import fields

from gridctl.render import size
from gridnode.model import TaskSpec

__all__ = ["changed_settings", "setting_text", "settings_of"]


def settings_of(spec: TaskSpec) -> dict[str, Any]:
    """Every setting, defaults too; values of the environment are left out, they may be secret."""
    names = [field.name for field in fields(spec) if field.name not in ("name", "code")]
    found = {name: to_builtins(getattr(spec, name)) for name in names}
    return found | {"env": sorted(spec.env)}


def setting_text(name: str, value: Any) -> str:
    """One of `settings_of` in words."""
    if name == "memory":
        return size(value)
    if name == "instances" and value == 0:
        return "max"
    if isinstance(value, dict):
        return ", ".join(f"{key}={one}" for key, one in sorted(value.items())) or "-"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "-"
    return str(value) if value != "" else "-"


def changed_settings(old: TaskSpec, new: TaskSpec) -> list[str]:
    """`memory 256.0 MB → 1.0 GB`, one each."""
    before, after = settings_of(old), settings_of(new)
    texts = [
        f"{name} {setting_text(name, before[name])} → {setting_text(name, after[name])}"
        for name in after
        if before[name] != after[name]
    ]
    values = sorted(key for key in old.env.keys() & new.env.keys() if old.env[key] != new.env[key])
    return texts + ([f"env: another value of {', '.join(values)}"] if values else [])
