"""`gridctl doctor`: what is wrong with the grid, and what to do about it."""

import asyncio
import sys

import click

from gridctl.client import Grid
from gridctl.diagnosing import Findings, as_fields, diagnose, lines
from gridctl.failure import OK
from gridctl.options import Settings, examples, gridfile_option, json_option, pass_settings, timeout_option
from gridctl.render import Progress, print_json
from gridctl.store_check import NodeStore, check_stores, look_at_stores
from gridctl.store_check import as_fields as store_fields
from gridctl.store_check import lines as store_lines
from gridnode.gridfile import Gridfile

__all__ = ["doctor_command"]

WRONG = 1
"""Exit code when something is wrong."""


@click.command(
    "doctor", epilog=examples("gridctl doctor", "gridctl doctor --json | jq '.nodes[].checks[] | select(.hint)'")
)
@click.option("--all", "every", is_flag=True, help="Show what is well, too.")
@click.option("--store", "store", is_flag=True, help="Have every node read all its chunks, and get bad ones again.")
@timeout_option(3600.0)
@json_option
@gridfile_option
@pass_settings
def doctor_command(settings: Settings, every: bool, store: bool, timeout: float) -> int:
    """Find what is wrong with the grid, and say what to do. Exit code 1 when something is.

    Every node looks at its engine, images, disk, card, ports, NAT, multicast and chunks; gridctl at clocks, seeds,
    members and the release. A `note` is worth knowing and fails nothing. A chunk that rotted on a node's disk is
    fetched from another node (--store looks for such); no call and no deploy waits for that.
    """
    progress, gridfile = Progress(), settings.gridfile()
    found = asyncio.run(diagnose(gridfile))
    stores = asyncio.run(_stores(gridfile, store, timeout, progress))
    is_well = all(one.is_well for one in found) and all(one.is_sound for one in stores)
    if settings.as_json:
        whole, *nodes = map(as_fields, found)
        print_json({"ok": is_well, "grid": whole, "nodes": nodes, "stores": [store_fields(one) for one in stores]})
    else:
        _show(found, stores, every, store, progress)
    return OK if is_well else WRONG


def _show(found: list[Findings], stores: list[NodeStore], every: bool, store: bool, progress: Progress) -> None:
    for one in found:
        for line in lines(one, every, sys.stdout):
            click.echo(line)
    for held in stores:
        if store or every or not held.is_sound:
            for line in store_lines(held):
                progress.line(line, None if held.is_sound else "red")


async def _stores(gridfile: Gridfile, thorough: bool, timeout: float, progress: Progress) -> list[NodeStore]:
    async with Grid.connect(gridfile) as grid:
        return await check_stores(grid, timeout, progress) if thorough else await look_at_stores(grid)
