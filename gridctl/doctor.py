"""`gridctl doctor`: what is wrong with the grid, and what to do about it."""

import asyncio

import click

from gridctl.client import Grid
from gridctl.failure import OK
from gridctl.options import Settings, examples, gridfile_option, json_option, pass_settings, timeout_option
from gridctl.render import Progress, print_json
from gridctl.store_check import NodeStore, as_fields, check_stores, lines, look_at_stores

__all__ = ["doctor_command"]

WRONG = 1
"""Exit code when something is wrong."""


@click.command("doctor", epilog=examples("gridctl doctor", "gridctl doctor --store --json | jq '.stores[].bad'"))
@click.option("--store", "store", is_flag=True, help="Have every node read all its chunks, and get bad ones again.")
@timeout_option(3600.0)
@json_option
@gridfile_option
@pass_settings
def doctor_command(settings: Settings, store: bool, timeout: float) -> int:
    """Ask every node what is wrong with it. Exit code 1 when something is.

    A chunk that rotted on a node's disk is fetched from another node; no call and no deploy waits for that.
    """
    progress = Progress()
    stores = asyncio.run(_stores(settings, store, timeout, progress))
    if settings.as_json:
        print_json({"ok": all(one.is_sound for one in stores), "stores": [as_fields(one) for one in stores]})
    else:
        for one in stores:
            for line in lines(one):
                progress.line(line, None if one.is_sound else "red")
    return OK if all(one.is_sound for one in stores) else WRONG


async def _stores(settings: Settings, thorough: bool, timeout: float, progress: Progress) -> list[NodeStore]:
    async with Grid.connect(settings.gridfile()) as grid:
        return await check_stores(grid, timeout, progress) if thorough else await look_at_stores(grid)
