"""npm packages for nodes: chosen and unpacked by npm; without install scripts, so that none of their code runs here."""

import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from gridctl.dependencies import NODE_MODULES, NPMRC, PACKAGE_JSON, NodeAsked, digest
from gridctl.target import Target
from gridctl.tool import Ran, find_tool, run_tool
from gridctl.vendored import TREE, Fetched, counted
from gridnode.errors import DependencyError, GridError, ProjectInvalid

__all__ = ["fetch_node", "node_key"]

_FORMAT: Final = "npm 1"
_HINT: Final = (
    f"install Node.js with npm (https://nodejs.org), or deploy {NODE_MODULES} with the project: "
    "gridctl then takes it as it is"
)
_FLAGS: Final = (
    "--omit=dev",
    "--ignore-scripts",
    "--no-audit",
    "--no-fund",
    "--no-update-notifier",
    "--loglevel=error",
)
_OFFLINE: Final = re.compile(r"\b(?:ENOTFOUND|ECONNREFUSED|ECONNRESET|EAI_AGAIN|ETIMEDOUT|ENOTCACHED|ENETUNREACH)\b")
_UNFIT: Final = re.compile(r"\b(EBADPLATFORM|ETARGET|E404|EUSAGE|EINTEGRITY|ERESOLVE)\b")
_ADVICE: Final = {
    "EBADPLATFORM": "a package is not for the nodes' platform: choose another one",
    "ETARGET": "no such version: pin one that exists",
    "E404": "no such package: is its name right?",
    "EUSAGE": "package.json and its lock differ: `npm install` renews the lock",
    "EINTEGRITY": "what the registry sent is not what the lock says: `npm install` renews the lock",
    "ERESOLVE": "packages that ask for different versions of another: `npm install` says more",
}


def node_key(asked: NodeAsked, target: Target) -> str:
    """Name of the tree in the cache."""
    return digest(_FORMAT, asked.key, *target.npm_flags)


def fetch_node(asked: NodeAsked, target: Target, directory: Path, into: Path, say: Callable[[str], object]) -> Fetched:
    """Fill `into`/tree with what belongs in node_modules; ProjectInvalid, DependencyError."""
    npm = find_tool("npm", _HINT)
    place = into / "npm"
    for name in (*asked.files, *([NPMRC] if (directory / NPMRC).is_file() else [])):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(directory / name, place / name)
    if not asked.lock:
        _run([npm, "install", "--package-lock-only", *_FLAGS, *target.npm_flags], place)
    locked = _locked(place / (asked.lock or "package-lock.json"))
    say(f"vendoring {counted(len(locked))} for Node on {target.machine} ...")
    _run([npm, "ci", *_FLAGS, *target.npm_flags], place)
    _take(place, into / TREE)
    return Fetched(tuple(sorted(_packages(into / TREE, locked))), tuple(_notes(into / TREE, locked)))


def _run(argv: list[str], place: Path) -> None:
    ran = run_tool(argv, place)
    if ran.code:
        raise _error(ran)


def _error(ran: Ran) -> GridError:
    if _OFFLINE.search(ran.told):
        hint = "is this machine online? .npmrc names other registries"
        return DependencyError(
            f"{PACKAGE_JSON}: packages cannot be fetched from their registry", hint=hint, trace=ran.told
        )
    known = _UNFIT.search(ran.told)
    hint = _ADVICE[known[1]] if known else "`npm ci` in the project may say more"
    return ProjectInvalid(f"{PACKAGE_JSON}: npm cannot install its packages", hint=hint, trace=ran.told)


def _locked(lock: Path) -> dict[str, Mapping[str, Any]]:
    """What the lock says of each package that is not for development only, by its place."""
    try:
        packages = json.loads(lock.read_bytes())["packages"]
        found = {str(place): dict(one) for place, one in packages.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
        hint = f"renew it with npm 7 or later: rm {lock.name} && npm install"
        raise ProjectInvalid(f"{lock.name} cannot be read", hint=hint) from exc
    places = (place for place in found if place.startswith(f"{NODE_MODULES}/") and not found[place].get("dev"))
    return {place: found[place] for place in places}


def _take(place: Path, tree: Path) -> None:
    """Make npm's node_modules the tree; ProjectInvalid when it has put packages elsewhere too."""
    modules = place / NODE_MODULES
    for other in place.rglob(NODE_MODULES):
        if not other.is_relative_to(modules):
            where = other.parent.relative_to(place)
            hint = f"list in {PACKAGE_JSON} the same versions as {where}/{PACKAGE_JSON} does"
            raise ProjectInvalid(f"{where} needs other versions of packages than the project", hint=hint)
    if modules.is_dir():
        (modules / ".package-lock.json").unlink(missing_ok=True)
        tree.rmdir()
        modules.rename(tree)
    shutil.rmtree(place)


def _packages(tree: Path, locked: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    for place, one in locked.items():
        if (tree.parent / TREE / place.removeprefix(f"{NODE_MODULES}/")).exists() or one.get("link"):
            yield f"{place.rpartition(f'{NODE_MODULES}/')[2]} {one.get('version', '')}".rstrip()


def _notes(tree: Path, locked: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    wanted = sorted(
        place.rpartition(f"{NODE_MODULES}/")[2]
        for place, one in locked.items()
        if one.get("hasInstallScript") and (tree / place.removeprefix(f"{NODE_MODULES}/")).exists()
    )
    if wanted:
        yield (
            f"install scripts are not run: what those of {', '.join(wanted[:10])} build or fetch is missing. "
            "Native modules have to come as prebuilt packages, or in an image of the task's own"
        )
