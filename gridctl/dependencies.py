"""What a project asks for: its requirements.txt, pyproject.toml or package.json, and all that these name."""

import contextlib
import hashlib
import json
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from gridctl.requirements import Requirements, read_requirements
from gridctl.tool import redacted
from gridnode.errors import ProjectInvalid

__all__ = ["NODE_MODULES", "NodeAsked", "PythonAsked", "digest", "node_asked", "python_asked", "read_plain"]

REQUIREMENTS: Final = "requirements.txt"
PYPROJECT: Final = "pyproject.toml"
UV_LOCK: Final = "uv.lock"
PACKAGE_JSON: Final = "package.json"
NPM_LOCKS: Final = ("npm-shrinkwrap.json", "package-lock.json")
NPMRC: Final = ".npmrc"
NODE_MODULES: Final = "node_modules"
MAX_TEXT: Final = 32 * 1024 * 1024
_POSITION: Final = re.compile(r"\(at line (\d+), column \d+\)$")
_INDEXES: Final = re.compile(
    r"UV_(?:.*INDEX.*(?<!USERNAME)(?<!PASSWORD)|FIND_LINKS|RESOLUTION|PRERELEASE|EXCLUDE_NEWER|CONSTRAINT|OVERRIDE)"
)
"""Of uv's own variables, those that change which packages it chooses."""


@dataclass(frozen=True, slots=True)
class PythonAsked:
    """Python packages. file: which one asks; key: of all that decides which packages they are.

    options: lines of requirements.txt that say where packages come from; locked: by uv.lock.
    """

    file: str
    key: str
    options: tuple[str, ...] = ()
    locked: bool = False


@dataclass(frozen=True, slots=True)
class NodeAsked:
    """Packages of npm. files: what npm needs of the project to choose them; lock: the lock's name, if there is one."""

    key: str
    files: tuple[str, ...]
    lock: str = ""


def digest(*parts: str | bytes) -> str:
    """Hex digits that stand for these parts, in this order."""
    hashed = hashlib.sha256()
    for part in parts:
        content = part.encode("utf-8", "surrogateescape") if isinstance(part, str) else part
        hashed.update(b"%d:" % len(content) + content)
    return hashed.hexdigest()[:40]


def python_asked(directory: Path, environ: Mapping[str, str] = os.environ) -> PythonAsked | None:
    """requirements.txt, else the dependencies of pyproject.toml; None when they ask for nothing."""
    settings = [f"{name}={redacted(environ[name])}" for name in sorted(environ) if _INDEXES.fullmatch(name)]
    settings += [_text(directory, "uv.toml"), _settings(directory)]
    if os.path.lexists(directory / REQUIREMENTS):
        found = read_requirements(directory, REQUIREMENTS, read_plain)
        return _from_requirements(found, settings)
    return _from_pyproject(directory, settings)


def _from_requirements(found: Requirements, settings: list[str]) -> PythonAsked | None:
    if not found.packages:
        return None
    return PythonAsked(REQUIREMENTS, digest("requirements", *found.parts, *settings), found.options)


def _from_pyproject(directory: Path, settings: list[str]) -> PythonAsked | None:
    project = _below(_pyproject(directory), "project")
    dynamic = project.get("dynamic", [])
    if not isinstance(dynamic, list):
        raise ProjectInvalid(f"{PYPROJECT}: [project].dynamic has to be a list of texts")
    if "dependencies" in dynamic:
        raise ProjectInvalid(
            f"{PYPROJECT}: its dependencies are dynamic, which only building it would tell",
            hint=f"list them in [project].dependencies, or in {REQUIREMENTS}",
        )
    asked = project.get("dependencies", [])
    if not isinstance(asked, list) or not all(isinstance(one, str) for one in asked):
        raise ProjectInvalid(f"{PYPROJECT}: [project].dependencies has to be a list of texts")
    if not asked:
        return None
    lock = _text(directory, UV_LOCK)
    if lock:
        _check_lock(lock, asked)
    key = digest("pyproject", json.dumps(asked), lock, *settings)
    return PythonAsked(UV_LOCK if lock else PYPROJECT, key, locked=bool(lock))


def _check_lock(lock: str, asked: list[str]) -> None:
    """ProjectInvalid when uv.lock lacks a package that is asked for."""
    try:
        packages = {str(one["name"]) for one in tomllib.loads(lock).get("package", [])}
    except (tomllib.TOMLDecodeError, KeyError, TypeError, AttributeError) as exc:
        raise ProjectInvalid(f"{UV_LOCK} is not one: {exc}", hint="make it again: `uv lock`") from exc
    names = (re.match(r"\s*([A-Za-z0-9._-]+)", one) for one in asked)
    lacking = [found[1] for found in names if found and _normal(found[1]) not in packages]
    if lacking:
        raise ProjectInvalid(f"{UV_LOCK} does not have {', '.join(lacking)} of {PYPROJECT}", hint="renew it: `uv lock`")


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _settings(directory: Path) -> str:
    """uv's own settings in pyproject.toml."""
    return json.dumps(_below(_below(_pyproject(directory), "tool"), "uv"), default=str)


def _below(table: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = table.get(name, {})
    if not isinstance(found, dict):
        raise ProjectInvalid(f"{PYPROJECT}: {name} has to be a table")
    return found


def _pyproject(directory: Path) -> dict[str, Any]:
    text = _text(directory, PYPROJECT)
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as exc:
        at = _POSITION.search(str(exc))
        where = f"{PYPROJECT}, line {at[1]}" if at else PYPROJECT
        raise ProjectInvalid(f"{where}: not valid TOML: {_POSITION.sub('', str(exc)).strip()}") from exc


def node_asked(directory: Path) -> NodeAsked | None:
    """What package.json and its lock ask for; None when that is nothing."""
    package = _package_json(directory, PACKAGE_JSON)
    asked = {**_table(package, "dependencies"), **_table(package, "optionalDependencies")}
    if not asked:
        return None
    if package.get("workspaces"):
        hint = f"install them with npm and deploy {NODE_MODULES} with the project"
        raise ProjectInvalid(f"{PACKAGE_JSON} has workspaces, which gridctl cannot install", hint=hint)
    lock = next((name for name in NPM_LOCKS if os.path.isfile(directory / name)), "")
    local = sorted(_local(directory, asked))
    files = (PACKAGE_JSON, *filter(None, [lock]), *local)
    parts = [part for name in files for part in (name, read_plain(directory, name))]
    npmrc = [line for line in _text(directory, NPMRC).splitlines() if "_auth" not in line and "_password" not in line]
    return NodeAsked(digest("npm", *parts, *map(redacted, npmrc)), files, lock)


def _local(directory: Path, asked: Mapping[str, object]) -> Iterator[str]:
    """Of packages in the project itself, what npm has to read: an archive, or a directory's package.json."""
    for name, spec in asked.items():
        found = re.fullmatch(r"(?:file:|link:)?(\.{0,2}/.+)|(?:file:|link:)(.+)", str(spec))
        if not found:
            continue
        path = os.path.normpath(found[1] or found[2])
        if path.startswith(("/", "..")):
            hint = "copy it into the project, and name it by its place there"
            raise ProjectInvalid(f"{PACKAGE_JSON}: {name} lies outside of the project, in {path}", hint=hint)
        yield f"{path}/{PACKAGE_JSON}" if os.path.isdir(directory / path) else path


def _package_json(directory: Path, path: str) -> dict[str, Any]:
    text = _text(directory, path)
    try:
        found = json.loads(text or "{}")
    except json.JSONDecodeError as exc:
        raise ProjectInvalid(f"{path}, line {exc.lineno}: not valid JSON: {exc.msg}") from exc
    except RecursionError as exc:
        raise ProjectInvalid(f"{path}: nested too deep") from exc
    if not isinstance(found, dict):
        raise ProjectInvalid(f"{path} has to be an object")
    return found


def _table(package: Mapping[str, Any], name: str) -> dict[str, object]:
    found = package.get(name, {})
    if not isinstance(found, dict):
        raise ProjectInvalid(f"{PACKAGE_JSON}: {name} has to be an object of names and versions")
    return found


def _text(directory: Path, name: str) -> str:
    """A file's text, empty where there is none; ProjectInvalid when it is not UTF-8."""
    if not os.path.lexists(directory / name):
        return ""
    try:
        return read_plain(directory, name).decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise ProjectInvalid(f"{name} is not UTF-8", hint="save it as UTF-8") from exc


def read_plain(directory: Path, name: str) -> bytes:
    """A regular file's content, MAX_TEXT at most; ProjectInvalid."""
    with contextlib.ExitStack() as stack:
        try:
            handle = os.open(directory / name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            file = stack.enter_context(open(handle, "rb"))
            content = file.read(MAX_TEXT + 1)
        except OSError as exc:
            raise ProjectInvalid(f"cannot read {name}: {exc.strerror}") from exc
    if len(content) > MAX_TEXT:
        raise ProjectInvalid(f"{name} is larger than {MAX_TEXT} bytes")
    return content
