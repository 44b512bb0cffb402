"""grid.toml: how a project wants its tasks to run. Its text in; every task's settings, and where each is from, out."""

import difflib
import json
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from gridctl.gridtoml_rules import RULES, TABLES, Rule
from gridctl.toml_lines import Path, key_lines
from gridnode.errors import ProjectInvalid
from gridnode.ledger import MAX_BODY
from gridnode.model import TaskSpec
from gridnode.task_bounds import MAX_ENV, MAX_LABELS, MAX_VARIABLES, env_size, is_health

__all__ = ["GRID_TOML", "Configured", "Setting", "configure", "nearest"]

GRID_TOML: Final = "grid.toml"
MAX_TEXT: Final = 1024 * 1024
MAX_FAULTS: Final = 20
_HINT: Final = "`gridctl config -h` lists every key and what it may be"
_OVERHEAD: Final = 4096
_MAX_NAME: Final = 128
_MAX_SHOWN: Final = 40
_BARE: Final = re.compile(r"[A-Za-z0-9_.-]{1,60}")
_POSITION: Final = re.compile(r" \(at line (\d+), column (\d+)\)$")


@dataclass(frozen=True, slots=True)
class Setting:
    """One effective value. section: `[defaults]`, `[tasks.NAME]`, or where no line of grid.toml says it, `default`."""

    value: Any
    section: str = "default"
    line: int | None = None

    def __str__(self) -> str:
        return self.section if self.line is None else f"{self.section} line {self.line}"


Settings = dict[str, Setting]
"""By key; of the tables env and on, each entry by itself, as `env.NAME`."""


@dataclass(frozen=True, slots=True)
class Configured:
    """A task file as it will run, and why so."""

    spec: TaskSpec
    settings: Settings = field(hash=False)


def configure(specs: Iterable[TaskSpec], raw: bytes = b"") -> tuple[Configured, ...]:
    """What grid.toml, given as `raw`, makes of the specs; ProjectInvalid lists all that is wrong with it."""
    found = {spec.name: spec for spec in specs}
    reading = _Reading(_text(raw), found)
    configured = tuple(reading.merged(spec) for spec in found.values())
    reading.judge()
    taken = len(msgspec.msgpack.encode([one.spec for one in configured]))
    if taken > MAX_BODY - _OVERHEAD:
        raise ProjectInvalid(
            f"{GRID_TOML}: the settings of all tasks take {taken} bytes, at most {MAX_BODY - _OVERHEAD} are allowed",
            hint="put what is large in a file of the project",
        )
    return configured


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean NAME?`, or nothing."""
    near = difflib.get_close_matches(name[:_MAX_NAME], list(known), n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else ""


class _Reading:
    """One text's settings and faults. faults: by line."""

    def __init__(self, text: str, specs: Mapping[str, TaskSpec]) -> None:
        self._specs = specs
        self._lines: dict[Path, int] = {}
        self._defaults: Settings = {}
        self._tasks: dict[str, Settings] = {}
        self._faults: list[tuple[int, str]] = []
        table = _parse(text)
        self._lines = key_lines(text)
        self._read(table)

    def merged(self, spec: TaskSpec) -> Configured:
        """The built-in defaults below [defaults] below [tasks.NAME]; of a table, name by name."""
        said = self._defaults | self._tasks.get(spec.name, {})
        settings = {key: Setting(getattr(spec, key)) for key in (*RULES, *TABLES)}
        for key in TABLES:
            if any(one.startswith(f"{key}.") for one in said):
                del settings[key]
        settings |= dict(sorted(said.items()))
        fields = {key: setting.value for key, setting in settings.items() if key in RULES}
        for key in TABLES:
            fields[key] = {one[len(key) + 1 :]: said[one].value for one in said if one.startswith(f"{key}.")}
        self._check_whole(spec.name, fields, said)
        return Configured(msgspec.structs.replace(spec, **fields), settings)

    def judge(self) -> None:
        """ProjectInvalid with every fault, in order of lines."""
        if not self._faults:
            return
        faults = sorted(set(self._faults))
        told = [f"{GRID_TOML}, line {line}: {fault}" for line, fault in faults[:MAX_FAULTS]]
        if len(faults) > MAX_FAULTS:
            told.append(f"and {len(faults) - MAX_FAULTS} more")
        raise ProjectInvalid("\n".join(told), hint=_HINT)

    # -- reading ----------------------------------------------------------------------------------------------------

    def _read(self, table: Mapping[str, Any]) -> None:
        for key, value in table.items():
            if key not in ("defaults", "tasks"):
                self._fault((key,), f"unknown table {_plain(key)}{nearest(key, ('defaults', 'tasks'))}")
            elif not isinstance(value, dict):
                self._fault((key,), f"{key} has to be a table")
            elif key == "defaults":
                self._defaults = self._settings("[defaults]", (key,), value)
            else:
                for name, content in value.items():
                    self._read_task(name, (key, name), content)

    def _read_task(self, name: str, path: Path, content: object) -> None:
        """One [tasks.NAME]; without quotes, the NAME a.b is a table b in a table a."""
        if not isinstance(content, dict):
            self._fault(path, f"{_plain('.'.join(path))} has to be a table")
            return
        if len(name) > _MAX_NAME:
            self._fault(path, f"no task can have the name {_plain(name)}")
            return
        below = {key: value for key, value in content.items() if self._is_task(name, key, value)}
        for key, value in below.items():
            self._read_task(f"{name}.{key}", (*path, key), value)
        own = {key: value for key, value in content.items() if key not in below}
        if below and not own:
            return
        if name not in self._specs:
            self._fault(path, f"no task file makes a task {_plain(name)}{nearest(name, self._specs)}")
        elif name in self._tasks:
            self._fault(path, f"[tasks.{name}] is there twice")
        else:
            self._tasks[name] = self._settings(f"[tasks.{name}]", path, own)

    def _is_task(self, name: str, key: str, value: object) -> bool:
        """Whether [tasks.NAME.KEY] is a task of its own, and not a setting of NAME."""
        longer = f"{name}.{key}"
        if not isinstance(value, dict):
            return False
        if any(known == longer or known.startswith(f"{longer}.") for known in self._specs):
            return name not in self._specs or key not in TABLES
        return name not in self._specs and key not in TABLES and key not in RULES

    def _settings(self, section: str, path: Path, table: Mapping[str, Any]) -> Settings:
        settings: Settings = {}
        for key, value in table.items():
            place = (*path, key)
            if key in RULES:
                self._set(settings, key, RULES[key], value, section, place)
            elif key not in TABLES:
                self._fault(place, f"unknown key {_plain(key)} in {section}{nearest(key, (*RULES, *TABLES))}")
            elif not isinstance(value, dict):
                meant = "; for events, write topics = [...]" if key == "on" and isinstance(value, list) else ""
                self._fault(place, f"{key} has to be a table, such as {key} = {{ {TABLES[key].example} }}{meant}")
            else:
                self._set_each(settings, key, value, section, place)
        return settings

    def _set_each(self, settings: Settings, key: str, table: Mapping[str, Any], section: str, path: Path) -> None:
        rule = TABLES[key]
        for name, value in table.items():
            if rule.is_name(name):
                self._set(settings, f"{key}.{name}", rule.values, value, section, (*path, name))
            else:
                self._fault((*path, name), f"{key} cannot have the name {_shown(name)}: {rule.names}")

    def _set(self, settings: Settings, key: str, rule: Rule, value: object, section: str, path: Path) -> None:
        read = rule.read(value)
        if read is None:
            self._fault(path, f"{_plain(key)} cannot be {_shown(value)}: {rule.allowed}")
        else:
            settings[key] = Setting(read, section, self._line(path))

    def _check_whole(self, name: str, fields: Mapping[str, Any], said: Settings) -> None:
        """What only all of a task's settings together show: the defaults count too."""
        if fields["runtime"] == "image" and not fields["image"] and "runtime" in said:
            self._fault_at(said["runtime"].line or 1, f'{name} has runtime = "image", but no image')
        self._check_health(name, fields["runtime"], said.get("health"))
        env, labels = fields["env"], fields["on"]
        if len(env) > MAX_VARIABLES or env_size(env) > MAX_ENV:
            self._fault_at(
                max(said[f"env.{one}"].line or 1 for one in env),
                f"env of {name} has {len(env)} names in {env_size(env)} bytes: "
                f"at most {MAX_VARIABLES} in {MAX_ENV} bytes are allowed",
            )
        if len(labels) > MAX_LABELS:
            self._fault_at(
                max(said[f"on.{one}"].line or 1 for one in labels),
                f"on of {name} has {len(labels)} labels: at most {MAX_LABELS} are allowed",
            )

    def _check_health(self, name: str, runtime: str, said: Setting | None) -> None:
        """Which tasks can be asked how: the runtime decides."""
        if said is None or is_health(said.value, runtime):
            return
        expected = {"exec": "a program that runs once a call cannot be asked", "http": 'a path such as "/healthz"'}
        why = expected.get(runtime, "the name of a public function of its file")
        self._fault_at(said.line or 1, f"health of {name} cannot be {_shown(said.value)}: {why}")

    def _fault(self, path: Path, message: str) -> None:
        self._fault_at(self._line(path), message)

    def _line(self, path: Path) -> int:
        return next((self._lines[path[:end]] for end in range(len(path), 0, -1) if path[:end] in self._lines), 1)

    def _fault_at(self, line: int, message: str) -> None:
        self._faults.append((line, message))


def _text(raw: bytes) -> str:
    if len(raw) > MAX_TEXT:
        raise ProjectInvalid(f"{GRID_TOML} is larger than {MAX_TEXT} bytes", hint=_HINT)
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        line = raw.count(b"\n", 0, exc.start) + 1
        raise ProjectInvalid(f"{GRID_TOML}, line {line}: not UTF-8", hint="save it as UTF-8") from exc


def _parse(text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as exc:
        message = str(exc)
        match = _POSITION.search(message)
        line, column = (int(match[1]), f", column {match[2]}") if match else (text.rstrip().count("\n") + 1, "")
        wrong = _POSITION.sub("", message).removesuffix(" (at end of document)")
        raise ProjectInvalid(f"{GRID_TOML}, line {line}{column}: not valid TOML: {wrong:.200}", hint=_HINT) from exc


def _shown(value: object) -> str:
    """A value as grid.toml would spell it, short and on one line."""
    match value:
        case bool():
            return "true" if value else "false"
        case dict():
            return "a table"
        case list():
            plain = all(isinstance(one, str | int | float) for one in value[:_MAX_SHOWN])
            return f"[{', '.join(map(_shown, value[:3]))}{', ...' if len(value) > 3 else ''}]" if plain else "a list"
        case int() if abs(value) >= 1 << 64:
            return "a number so large"
        case str():
            return json.dumps(value[:_MAX_SHOWN] + ("..." if len(value) > _MAX_SHOWN else ""), ensure_ascii=False)
        case _:
            return str(value)


def _plain(name: str) -> str:
    """A key as grid.toml would spell it, quoted only where it has to be."""
    return name if _BARE.fullmatch(name) else _shown(name)
