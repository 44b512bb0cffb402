"""`gridctl ping`: how long the way to a node takes, and between all of them."""

import asyncio
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import click

from gridctl.client import Grid
from gridctl.failure import OK, PARTIAL
from gridctl.options import Settings, examples, gridfile_option, json_option, pass_settings
from gridctl.render import print_json, table
from gridctl.tail import chosen
from gridnode.diagnosis import MAX_TIMES, RoundTrip
from gridnode.errors import GridError, UsageError
from gridnode.model import Member, MemberState, NodeId, NodeRecord

__all__ = ["Pinged", "Row", "matrix", "ping_command", "time_text"]


@dataclass(frozen=True, slots=True)
class Pinged:
    """One node from here. via: the node we are linked to; times: seconds; error: why there are not more."""

    node: NodeRecord
    via: str
    times: tuple[float, ...]
    error: str = ""


@dataclass(slots=True)
class Row:
    """From one node to all others, by id. error: why it did not say."""

    node: NodeRecord
    trips: dict[NodeId, RoundTrip] = field(default_factory=dict)
    error: str = ""


@click.command("ping", epilog=examples("gridctl ping web-2 --count 10", "gridctl ping --all"))
@click.argument("node", required=False)
@click.option("--all", "every", is_flag=True, help="Every node to every other, as a matrix.")
@click.option(
    "-c",
    "--count",
    type=click.IntRange(1, MAX_TIMES),
    default=4,
    show_default=True,
    help="How often.",
)
@json_option
@gridfile_option
@pass_settings
def ping_command(settings: Settings, node: str | None, every: bool, count: int) -> int:
    """Measure how long a question takes to NODE and back, through the node that gridctl is linked to.

    With --all, every node asks every other over the links that calls take. Exit code 3 when one does not answer.
    """
    if (node is None) != every:
        raise UsageError("ping which node?", hint="gridctl ping NODE, or gridctl ping --all")
    if every:
        return _show_all(settings, asyncio.run(_all(settings, count)))
    return _show_one(settings, asyncio.run(_one(settings, node or "", count)))


async def _one(settings: Settings, wanted: str, count: int) -> Pinged:
    async with Grid.connect(settings.gridfile(), links=1) as grid:
        [member] = chosen(await grid.nodes(), wanted)
        via = grid.record.name if grid.record else "?"
        times: list[float] = []
        error = "" if member.state is MemberState.ALIVE else f"it is {member.state.value}"
        while len(times) < count and not error:
            try:
                times.append(await grid.ping(member.record.id))
            except GridError as exc:
                error = exc.message
        return Pinged(member.record, via, tuple(times), error)


async def _all(settings: Settings, count: int) -> list[Row]:
    async with Grid.connect(settings.gridfile()) as grid:
        members = [row for row in await grid.nodes() if row.state is not MemberState.LEFT]
        members.sort(key=lambda row: (row.record.name, row.record.id))
        return list(await asyncio.gather(*(_row(grid, member, count) for member in members)))


async def _row(grid: Grid, member: Member, count: int) -> Row:
    if member.state is not MemberState.ALIVE:
        return Row(member.record, error=member.state.value)
    try:
        trips = await grid.round_trips(member.record.id, count)
    except GridError as exc:
        return Row(member.record, error=exc.message)
    return Row(member.record, {trip.node: trip for trip in trips})


# -- showing --------------------------------------------------------------------------------------------------------


def _show_one(settings: Settings, pinged: Pinged) -> int:
    name = pinged.node.name
    if settings.as_json:
        times = [round(time * 1000, 3) for time in pinged.times]
        fields = {"name": name, "id": pinged.node.id, "via": pinged.via, "ms": times, "error": pinged.error or None}
        print_json(fields)
    else:
        way = "" if pinged.via == name else f" via {pinged.via}"
        for time in pinged.times:
            click.echo(f"{name}{way}: {time_text(time)}")
        if pinged.times:
            least, most = time_text(min(pinged.times)), time_text(max(pinged.times))
            click.echo(f"median {time_text(statistics.median(pinged.times))}, {least} to {most}")
        if pinged.error:
            click.echo(f"gridctl: {name}: {pinged.error}", err=True)
    return PARTIAL if pinged.error else OK


def _show_all(settings: Settings, rows: Sequence[Row]) -> int:
    if settings.as_json:
        print_json({"nodes": [_fields(row) for row in rows]})
    else:
        for line in matrix(rows):
            click.echo(line)
    return PARTIAL if any(row.error or any(trip.error for trip in row.trips.values()) for row in rows) else OK


def matrix(rows: Sequence[Row]) -> list[str]:
    """A line for each node, a column for each node it asked; what failed is said below."""
    head = ("FROM \\ TO", *(row.node.name for row in rows))
    cells = [(row.node.name, *(_cell(row, other.node) for other in rows)) for row in rows]
    lines = table(head, cells)
    for row in rows:
        if row.error:
            lines.append(f"{row.node.name}: {row.error}")
        lines += [f"{row.node.name} to {trip.name}: {trip.error}" for trip in row.trips.values() if trip.error]
    return lines


def _cell(row: Row, to: NodeRecord) -> str:
    if row.node.id == to.id:
        return "-"
    trip = row.trips.get(to.id)
    return time_text(statistics.median(trip.times) / 1e6) if trip and trip.times else "?"


def time_text(seconds: float) -> str:
    """`0.83 ms`, `12.1 ms`, `1.2 s`."""
    if seconds >= 1:
        return f"{seconds:.1f} s"
    return f"{seconds * 1000:.2f} ms" if seconds < 0.01 else f"{seconds * 1000:.1f} ms"


def _fields(row: Row) -> dict[str, Any]:
    """ms: of each question, there and back."""
    trips = [
        {"id": trip.node, "name": trip.name, "ms": [time / 1000 for time in trip.times], "error": trip.error or None}
        for trip in row.trips.values()
    ]
    return {"id": row.node.id, "name": row.node.name, "error": row.error or None, "to": trips}
