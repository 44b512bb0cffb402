"""The packages that a project asks for, for every kind of node of the grid: from the cache, or fetched now."""

import asyncio
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from pathlib import Path

from gridctl.client import Connecting, Grid
from gridctl.dependencies import NODE_MODULES, NodeAsked, PythonAsked, node_asked, python_asked
from gridctl.grafts import Graft, check_links
from gridctl.node_packages import fetch_node, node_key
from gridctl.python_packages import PLACE, fetch_python, python_key
from gridctl.target import Target, targets_of
from gridctl.vendored import Cache, Fetched, cache_directory, counted
from gridnode.errors import ProjectInvalid
from gridnode.gridfile import Gridfile
from gridnode.model import TaskSpec

__all__ = ["Vendor", "vendor_of"]

Targets = Callable[[], Sequence[Target]]
Say = Callable[[str], object]


class Vendor:
    """Finds the packages of the project in `directory`. targets: asks the grid, and only where it matters."""

    def __init__(self, directory: Path, targets: Targets, cache: Cache, say: Say) -> None:
        self._directory, self._targets, self._cache, self._say = directory, targets, cache, say

    def grafts(self, tasks: Collection[TaskSpec], top: Collection[str]) -> list[Graft]:
        """What to add to the release. top: the names in the project's own directory that go to the nodes."""
        runtimes = {task.runtime for task in tasks}
        python = python_asked(self._directory) if runtimes - {"node", "image"} else None
        node = node_asked(self._directory) if "node" in runtimes else None
        if python and PLACE.partition("/")[0] in top:
            hint = "rename it, or list it in .gridignore"
            raise ProjectInvalid(f"the project has a {PLACE.partition('/')[0]}, where its packages would go", hint=hint)
        if node and NODE_MODULES in top:
            self._say(f"the project's own {NODE_MODULES} goes along as it is; listed in .gridignore, gridctl makes it")
            node = None
        if not python and not node:
            return []
        targets = self._targets()
        found = list(self._python(python, targets)) if python else []
        return found + (list(self._node(node, targets)) if node else [])

    def _python(self, asked: PythonAsked, targets: Sequence[Target]) -> Iterator[Graft]:
        for target in targets:
            fetch = partial(fetch_python, asked, target, self._directory, say=self._say)
            yield self._graft(f"{PLACE}/{target.tag}", python_key(asked, target), fetch, str(target))

    def _node(self, asked: NodeAsked, targets: Sequence[Target]) -> Iterator[Graft]:
        """One for each kind of machine, all to the same place: packages that differ by it differ in their names."""
        for target in {one.npm_flags: one for one in targets}.values():
            fetch = partial(fetch_node, asked, target, self._directory, say=self._say)
            yield self._graft(NODE_MODULES, node_key(asked, target), fetch, f"Node on {target.machine}")

    def _graft(self, prefix: str, key: str, fetch: Callable[[Path], Fetched], what: str) -> Graft:
        tree = self._cache.get(key)
        if tree:
            self._say(f"{counted(len(tree.packages))} for {what}, vendored before")
        else:
            tree = self._cache.put(key, fetch)
        for note in tree.notes:
            self._say(f"warning: {note}")
        graft = Graft(prefix, tree)
        check_links(graft)
        return graft


def vendor_of(gridfile: Gridfile, directory: Path, say: Say) -> Vendor:
    """For the nodes of this grid, who are asked only where the project asks for packages; not inside an event loop."""
    return Vendor(
        directory.resolve(),
        lambda: asyncio.run(_targets(Grid.connect(gridfile))),
        Cache(cache_directory()),
        say,
    )


async def _targets(connecting: Connecting) -> Sequence[Target]:
    async with connecting as grid:
        return targets_of(await grid.nodes())
