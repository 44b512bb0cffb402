"""`gridctl subscribe`: print events as they are published."""

import asyncio
import json
import sys
from datetime import UTC, datetime

import click

from gridctl.options import Settings, examples, gridfile_option, json_option, pass_settings
from gridctl.render import SCHEMA, clean, is_terminal, paint
from gridctl.subscription import Event
from gridnode.topics import check_pattern

__all__ = ["as_line", "subscribe_command"]


@click.command(
    "subscribe", epilog=examples("gridctl subscribe 'orders.*'", "gridctl subscribe 'orders.>' stock.low --json -n 10")
)
@click.argument("patterns", metavar="PATTERN...", nargs=-1, required=True)
@click.option("-n", "count", type=click.IntRange(min=1), metavar="N", help="End after so many events.")
@json_option
@gridfile_option
@pass_settings
def subscribe_command(settings: Settings, patterns: tuple[str, ...], count: int | None) -> None:
    """Print the events whose topics match, one a line, until interrupted.

    In a PATTERN `*` is any one word, and `>` at its end the rest: quote it, so that the shell does not read it.
    """
    for pattern in patterns:
        check_pattern(pattern)
    asyncio.run(_print(settings, patterns, count))


async def _print(settings: Settings, patterns: tuple[str, ...], count: int | None) -> None:
    from gridctl.client import Grid

    async with Grid.connect(settings.gridfile()) as grid, grid.subscribe(*patterns) as subscription:
        if is_terminal(sys.stderr):
            click.echo(paint(f"listening to {', '.join(patterns)}", "bright_black", sys.stderr), err=True)
        async for event in subscription:
            if event.dropped:
                click.echo(f"gridctl: {event.dropped} events were lost here", err=True)
            click.echo(as_line(event, settings.as_json))
            sys.stdout.flush()
            count = count - 1 if count else None
            if count == 0:
                return


def as_line(event: Event, as_json: bool) -> str:
    """An event for people, or for programs."""
    if as_json:
        fields = event._asdict()
        fields["data"] = fields.pop("payload")
        return json.dumps({"schema": SCHEMA, **fields}).replace("\x7f", "\\u007f")
    time = datetime.fromtimestamp(event.time, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3]
    return clean(f"{time}Z {event.topic} {json.dumps(event.payload, ensure_ascii=False)}")
