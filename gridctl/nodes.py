"""`gridctl drain`, `undrain` and `forget`: nodes that are to take no calls, and nodes that are gone."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import click
from msgspec.structs import replace

from gridctl.author import author
from gridctl.client import Grid
from gridctl.failure import OK, PARTIAL
from gridctl.options import Settings, examples, gridfile_option, json_option, pass_settings, timeout_option
from gridctl.render import Progress, print_json
from gridctl.tail import chosen
from gridnode.errors import LedgerError, UsageError
from gridnode.model import Member, MemberState, NodeId
from gridnode.node_document import NodeOrder

__all__ = ["Drained", "drain_command", "forget_command", "undrain_command"]

_ATTEMPTS = 3
_POLL = 0.2
_THERE = (MemberState.ALIVE, MemberState.SUSPECT)


@dataclass(slots=True)
class Drained:
    """How far a node is with what was ordered. calls: inside it, as it last said."""

    id: NodeId
    name: str
    wanted: bool
    state: MemberState = MemberState.ALIVE
    shown: bool = False
    calls: int = 0

    @property
    def is_done(self) -> bool:
        """Whether the node shows it, and has no call left if it is to have none."""
        return self.shown and (not self.wanted or not self.calls)

    def take(self, member: Member | None) -> None:
        """What the grid says of the node now; None when it knows it no more."""
        self.state = member.state if member else MemberState.LEFT
        if member and member.state is MemberState.ALIVE:
            self.shown, self.calls = member.record.drained is self.wanted, member.record.load.in_flight


@click.command("drain", epilog=examples("gridctl drain web-2", "gridctl drain web-2 web-3 --timeout 300 --json"))
@click.argument("nodes", nargs=-1, required=True, metavar="NODE...")
@timeout_option(60.0)
@json_option
@gridfile_option
@pass_settings
def drain_command(settings: Settings, nodes: tuple[str, ...], timeout: float) -> int:
    """Have nodes take no new calls until `gridctl undrain`, restarts included; wait until those inside have finished.

    NODE is a name, an id or a unique prefix of one. Its instances stay warm, and it follows deploys.
    """
    return _run(settings, nodes, True, timeout)


@click.command("undrain", epilog=examples("gridctl undrain web-2", "gridctl undrain web-2 web-3 --json"))
@click.argument("nodes", nargs=-1, required=True, metavar="NODE...")
@timeout_option(60.0)
@json_option
@gridfile_option
@pass_settings
def undrain_command(settings: Settings, nodes: tuple[str, ...], timeout: float) -> int:
    """Have drained nodes take calls again."""
    return _run(settings, nodes, False, timeout)


@click.command("forget", epilog=examples("gridctl forget web-3", "gridctl forget 3f9c2a --json"))
@click.argument("node")
@json_option
@gridfile_option
@pass_settings
def forget_command(settings: Settings, node: str) -> None:
    """Take NODE, which is dead or has left, out of every node's memory; else they look for it for a day.

    If it starts again it is a member again: `gridctl revoke HOST` shuts its card out.
    """
    member = asyncio.run(_forget(settings, node))
    if settings.as_json:
        print_json({"id": member.record.id, "name": member.record.name, "was": member.state.value})
    else:
        click.echo(f"forgot {member.record.name} {member.record.id[:12]}, which was {member.state.value}", err=True)


# -- drain and undrain ----------------------------------------------------------------------------------------------


def _run(settings: Settings, nodes: Sequence[str], wanted: bool, timeout: float) -> int:
    progress = Progress()
    found = asyncio.run(_carry_out(settings, nodes, wanted, timeout, progress))
    for one in found:
        text, is_well = _said(one)
        progress.line(f"{one.name}: {text}", "green" if is_well else "yellow")
    if settings.as_json:
        print_json({"nodes": [_fields(one) for one in found]})
    return OK if all(one.is_done for one in found) else PARTIAL


async def _carry_out(
    settings: Settings, nodes: Sequence[str], wanted: bool, timeout: float, progress: Progress
) -> list[Drained]:
    """Order it and wait until the nodes within reach show it, `timeout` seconds at most."""
    async with Grid.connect(settings.gridfile()) as grid:
        members = await grid.nodes()
        records = {row.record.id: row.record for name in nodes for row in chosen(members, name)}
        for record in records.values():
            await _order(grid, record.id, record.name, lambda order: replace(order, draining=wanted))
        found = [Drained(record.id, record.name, wanted) for record in records.values()]
        try:
            async with asyncio.timeout(timeout):
                await _settle(grid, found, progress)
        except TimeoutError:
            pass
    progress.clear()
    return found


async def _settle(grid: Grid, found: list[Drained], progress: Progress) -> None:
    while True:
        rows = {row.record.id: row for row in await grid.nodes()}
        for one in found:
            one.take(rows.get(one.id))
        waiting = [one for one in found if not one.is_done and one.state in _THERE]
        if not waiting:
            return
        progress.bars(lambda: [f"{one.name}: {_said(one)[0]}" for one in waiting])  # noqa: B023
        await asyncio.sleep(_POLL)


async def _order(
    grid: Grid, node: NodeId, name: str, change: Callable[[NodeOrder], NodeOrder], attempts: int = _ATTEMPTS
) -> None:
    """Put what is wanted of the node, again when somebody else was quicker; what changes nothing is not put."""
    before, sequence = (await grid.node_orders()).get(node, (NodeOrder(), 0))
    order = change(before)
    if order == before:
        return
    try:
        await grid.put_node_order(node, replace(order, name=name, by=author()), sequence + 1)
    except LedgerError:
        if attempts == 1:
            raise
        await _order(grid, node, name, change, attempts - 1)


def _said(one: Drained) -> tuple[str, bool]:
    """For people, and whether it is as it should be."""
    if one.state is not MemberState.ALIVE:
        return f"it is {one.state.value}; it will follow when it is back", False
    if not one.shown:
        return "it does not show it yet", False
    if not one.wanted:
        return "takes calls", True
    return (f"takes no calls; {one.calls} still inside", False) if one.calls else ("drained, no call inside", True)


def _fields(one: Drained) -> dict[str, Any]:
    return {
        "name": one.name,
        "id": one.id,
        "state": one.state.value,
        "drained": one.wanted,
        "done": one.is_done,
        "calls": one.calls,
    }


# -- forget ---------------------------------------------------------------------------------------------------------


async def _forget(settings: Settings, wanted: str) -> Member:
    async with Grid.connect(settings.gridfile()) as grid:
        [member] = chosen(await grid.nodes(), wanted)
        record = member.record
        if member.state in _THERE:
            raise UsageError(
                f"{record.name} is {member.state.value}: only a node that is dead or has left can be forgotten",
                hint=f"gridctl drain {record.name} keeps calls away; gridctl unprovision takes a server out",
            )
        await _order(grid, record.id, record.name, lambda order: NodeOrder(forgotten=record.incarnation))
        return member
