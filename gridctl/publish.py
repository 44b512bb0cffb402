"""`gridctl publish`: send an event to all who listen to its topic."""

import asyncio
import sys

import click

from gridctl.invoke import read_body
from gridctl.options import Settings, examples, gridfile_option, json_option, pass_settings
from gridctl.render import clean, is_terminal, paint, print_json
from gridnode.topics import check_topic

__all__ = ["publish_command"]


@click.command(
    "publish",
    epilog=examples(
        "gridctl publish orders.created '{\"id\": 17}'",
        "cat report.json | gridctl publish reports.daily - --json",
    ),
)
@click.argument("topic")
@click.argument("content", metavar="[JSON|@FILE|-]", required=False)
@json_option
@gridfile_option
@pass_settings
def publish_command(settings: Settings, topic: str, content: str | None) -> None:
    """Publish an event on TOPIC: words parted by dots, such as orders.created.

    It goes to everybody who listens at this moment, and is kept for nobody else.
    """
    check_topic(topic)
    listeners = asyncio.run(_publish(settings, topic, read_body(content)))
    if settings.as_json:
        print_json({"topic": topic, "listeners": listeners})
    elif is_terminal(sys.stderr):
        said = f"{clean(topic)}: {'nobody listens' if not listeners else f'sent to {listeners}'}"
        click.echo(paint(said, "bright_black", sys.stderr), err=True)


async def _publish(settings: Settings, topic: str, body: bytes) -> int:
    from gridctl.client import Grid

    async with Grid.connect(settings.gridfile()) as grid:
        return await grid.publish_json(topic, body)
