"""gridctl: the operator's side of a grid: the command line, and the SDK.

    from gridctl import Grid

    async with Grid.connect() as grid:          # the Gridfile here or above
        print(await grid.invoke("words", "to be or not to be"))

    with Grid.open() as grid:                   # the same without async
        print(grid.invoke("words", "to be or not to be"))

    import gridctl
    grid = gridctl.init(instances_per_task=2)   # deploys this program's project if it changed

What it raises is in gridnode.errors.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gridctl.client import Grid
    from gridctl.executor import GridExecutor
    from gridctl.outcomes import RemoteTraceback
    from gridctl.ready import init
    from gridctl.sync_client import SyncGrid

__all__ = ["Grid", "GridExecutor", "RemoteTraceback", "SyncGrid", "init"]

_HOMES = {
    "Grid": "gridctl.client",
    "GridExecutor": "gridctl.executor",
    "RemoteTraceback": "gridctl.outcomes",
    "SyncGrid": "gridctl.sync_client",
    "init": "gridctl.ready",
}


def __getattr__(name: str) -> object:
    """Loaded when first used: the command line starts without them."""
    if name not in _HOMES:
        raise AttributeError(f"module 'gridctl' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
