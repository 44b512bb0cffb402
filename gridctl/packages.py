"""The packages in a release, told by the paths of its files: what `deploy --plan` lists in place of these."""

import re
from collections.abc import Mapping
from typing import Final

from gridctl.dependencies import NODE_MODULES
from gridctl.python_packages import PLACE

__all__ = ["is_vendored", "packages_of"]

_PYTHON: Final = re.compile(rf"{re.escape(PLACE)}/([^/]+)/([^/]+)-([^/-]+)\.dist-info/")
_NODE: Final = re.compile(rf"{NODE_MODULES}/((?:@[^/]+/)?[^/]+)(?:/|$)")


def is_vendored(path: str) -> bool:
    """Whether it is a file of a package, and no file of the project."""
    return path.startswith((f"{PLACE}/", f"{NODE_MODULES}/"))


def packages_of(entries: Mapping[str, object]) -> dict[str, object]:
    """By name, what changes when the package does: of Python its version, by target, of Node all its files."""
    found: dict[str, object] = {}
    node: dict[str, list[tuple[str, object]]] = {}
    for path, content in entries.items():
        if python := _PYTHON.match(path):
            found[f"{python[2]} ({python[1]})"] = python[3]
        elif (in_node := _NODE.match(path)) and not in_node[1].startswith("."):
            node.setdefault(f"{in_node[1]} ({NODE_MODULES})", []).append((path, content))
    return found | node
