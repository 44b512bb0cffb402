"""`gridctl ps`: what runs where."""

import asyncio
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

import click

from gridctl.failure import OK, PARTIAL
from gridctl.options import Settings, examples, gridfile_option, json_option, pass_settings
from gridctl.orders import known_tasks
from gridctl.render import Progress, clean, print_json, span, table
from gridnode.messages import ProcessReport
from gridnode.model import MemberState, Order, Process

__all__ = ["node_fields", "process_lines", "ps_command", "warn_of"]

_HEAD = ("NODE", "TASK", "INSTANCE", "STATE", "AGE", "RESTARTS", "CALLS")
_LOG_LINES = 8
_READY = "ready"


@click.command("ps", epilog=examples("gridctl ps", "gridctl ps resize --all", "gridctl ps --json"))
@click.argument("task", default="")
@click.option("--all", "every", is_flag=True, help="A line for every instance, those that are ready too.")
@json_option
@gridfile_option
@pass_settings
def ps_command(settings: Settings, task: str, every: bool) -> int:
    """List the instances of TASK, or of every task, node by node.

    Instances that are ready share a line; what is not ready has one each, and its last log lines below.
    """
    reports, orders = asyncio.run(_ask(settings, task))
    if settings.as_json:
        print_json({"nodes": [node_fields(report) for report in reports]})
    else:
        for line in process_lines(reports, every):
            click.echo(line)
        _report_stopped(orders, task)
    return warn_of(reports)


async def _ask(settings: Settings, task: str) -> tuple[list[ProcessReport], dict[str, Order]]:
    from gridctl.client import Grid

    async with Grid.connect(settings.gridfile()) as grid:
        if not grid.is_operator:
            return await grid.processes(task), {}
        orders = {name: order for name, (order, _) in (await grid.orders()).items()}
        known_tasks([task] if task else [], await grid.release())
        return await grid.processes(task), orders


def process_lines(reports: Iterable[ProcessReport], every: bool, ends: bool = False) -> list[str]:
    """A table, with the last log lines below what is errored or waits; ends: also how what is ready ended before."""
    rows: list[Sequence[str]] = []
    logs: dict[int, list[str]] = {}
    for report in reports:
        for process, row in _rows(report, every):
            rows.append(row)
            if process and process.why and (ends or process.state != _READY):
                lines = [f"    {clean(line)}" for line in process.why.strip().splitlines()[-_LOG_LINES:]]
                logs[len(rows)] = ["    its last end:", *lines] if process.state == _READY else lines
    return [line for number, head in enumerate(table(_HEAD, rows)) for line in (head, *logs.get(number, []))]


def _rows(report: ProcessReport, every: bool) -> Iterable[tuple[Process | None, Sequence[str]]]:
    for task, group in groupby(sorted(report.processes, key=lambda one: (one.task, one.state)), lambda one: one.task):
        processes = list(group)
        ready = [process for process in processes if process.state == _READY]
        if ready and not every:
            yield None, _together(report.name, task, ready, len(processes))
        for process in processes:
            if every or process.state != _READY:
                yield process, _alone(report.name, process)


def _together(node: str, task: str, ready: list[Process], count: int) -> Sequence[str]:
    restarts, calls = sum(one.restarts for one in ready), sum(one.calls for one in ready)
    youngest = span(min(one.age for one in ready))
    return (node, task, f"{len(ready)} of {count}", _READY, youngest, str(restarts), str(calls))


def _alone(node: str, process: Process) -> Sequence[str]:
    state = (process.instance or "-", process.state, span(process.age), str(process.restarts), str(process.calls))
    return (node, process.task, *state)


def _report_stopped(orders: dict[str, Order], task: str) -> None:
    stopped = sorted(name for name, order in orders.items() if order.stopped and task in ("", name))
    if stopped:
        names = " ".join(stopped)
        Progress().line(f"stopped: {names} (to run again: gridctl start {names})", "yellow")


def warn_of(reports: Iterable[ProcessReport]) -> int:
    """Name the nodes that did not answer; 3 when one of them is alive."""
    progress = Progress()
    silent = [report for report in reports if report.error]
    for report in silent:
        progress.line(f"warning: nothing known of {report.name}: {report.error}", "yellow")
    return PARTIAL if any(report.state is MemberState.ALIVE for report in silent) else OK


def node_fields(report: ProcessReport) -> dict[str, Any]:
    """One node as `--json` prints it; age: seconds."""
    return {
        "name": report.name,
        "id": report.node,
        "state": report.state.value,
        "error": report.error or None,
        "processes": [
            {
                "task": one.task,
                "file": one.file,
                "instance": one.instance,
                "state": one.state,
                "age": round(one.age, 3),
                "restarts": one.restarts,
                "calls": one.calls,
                "why": one.why or None,
            }
            for one in report.processes
        ],
    }
