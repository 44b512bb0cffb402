"""`gridctl describe`: all that is known of one task file."""

import asyncio
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import click

from gridctl.options import Settings, examples, gridfile_option, json_option, pass_settings
from gridctl.orders import known_tasks
from gridctl.ps import node_fields, process_lines, warn_of
from gridctl.render import clean, print_json
from gridctl.task_settings import setting_text, settings_of
from gridnode.messages import ProcessReport
from gridnode.model import MemberState, Order, Release, TaskSpec

__all__ = ["describe_command"]


@dataclass(frozen=True, slots=True)
class _Known:
    """About one task file. handlers: the names it can be called by."""

    release: Release
    spec: TaskSpec
    order: Order
    handlers: list[str]
    reports: list[ProcessReport]


@click.command("describe", epilog=examples("gridctl describe resize", "gridctl describe resize --json | jq .settings"))
@click.argument("task")
@json_option
@gridfile_option
@pass_settings
def describe_command(settings: Settings, task: str) -> int:
    """Show TASK's settings in the current release, its orders, handlers, and its instances with their last end."""
    known = asyncio.run(_ask(settings, task))
    if settings.as_json:
        print_json(_as_fields(known))
    else:
        for line in _lines(known):
            click.echo(line)
    return warn_of(known.reports)


async def _ask(settings: Settings, task: str) -> _Known:
    from gridctl.client import Grid

    async with Grid.connect(settings.gridfile()) as grid:
        release = await grid.release()
        known_tasks([task], release)
        assert release
        order, _ = (await grid.orders()).get(task, (Order(), 0))
        names = {name for one in await grid.nodes() if one.state is MemberState.ALIVE for name in one.record.tasks}
        spec = next(one for one in release.tasks if one.name == task)
        return _Known(release, spec, order, _handlers(task, names, release), await grid.processes(task))


def _handlers(task: str, names: Iterable[str], release: Release) -> list[str]:
    """Of all names, those of this file: a longer task file's name takes its own away."""
    files = {spec.name for spec in release.tasks}

    def file_of(name: str) -> str:
        return max((file for file in files if f"{name}.".startswith(f"{file}.")), key=len, default="")

    return sorted(name for name in names if file_of(name) == task)


def _lines(known: _Known) -> Iterator[str]:
    release, order = known.release, known.order
    yield f"{known.spec.name}, in release {release.sequence} of {clean(release.project)} {release.root[:8]}"
    for name, value in settings_of(known.spec).items():
        yield f"{name:14}{clean(setting_text(name, value))}"
    yield f"handlers      {', '.join(map(clean, known.handlers)) or '-'}"
    yield f"ordered       {_order_text(order)}"
    yield ""
    yield from process_lines(known.reports, every=True, ends=True)


def _order_text(order: Order) -> str:
    texts = ["stopped"] if order.stopped else []
    if order.instances is not None:
        texts.append(f"instances {setting_text('instances', order.instances)}")
    if order.restarts:
        texts.append(f"restarted {order.restarts} times")
    return ", ".join(texts) or "-"


def _as_fields(known: _Known) -> dict[str, Any]:
    order = known.order
    return {
        "task": known.spec.name,
        "release": {"sequence": known.release.sequence, "root": known.release.root, "project": known.release.project},
        "settings": settings_of(known.spec),
        "order": {"instances": order.instances, "stopped": order.stopped, "restarts": order.restarts},
        "handlers": known.handlers,
        "nodes": [node_fields(report) for report in known.reports],
    }
