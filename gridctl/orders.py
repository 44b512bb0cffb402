"""`gridctl scale`, `restart`, `stop` and `start`: what the grid should run, whatever a release says."""

import asyncio
import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import click
from msgspec.structs import replace

from gridctl.failure import OK, PARTIAL
from gridctl.options import Settings, examples, gridfile_option, json_option, pass_settings, timeout_option
from gridctl.render import Progress, print_json
from gridctl.settle import Settle, Standing
from gridnode.errors import LedgerError, TaskNotFound, UsageError
from gridnode.ledger import MAX_INSTANCES
from gridnode.model import Order, Release

if TYPE_CHECKING:
    from gridctl.client import Connecting, Grid

__all__ = ["known_tasks", "restart_command", "scale_command", "start_command", "stop_command"]

Change = Callable[[Order], Order]
_ATTEMPTS = 3


@dataclass(slots=True)
class Carried:
    """What became of an order: the orders as they are now, and where each node is."""

    orders: dict[str, Order]
    standings: list[Standing] = field(default_factory=list)

    @property
    def behind(self) -> list[Standing]:
        """Nodes within reach that do not show it."""
        return [one for one in self.standings if one.reachable and one.state != "done"]


def _for_tasks(command: Callable[..., int]) -> Callable[..., int]:
    """The arguments and options of an order that is the same for every task named."""
    for decorate in (pass_settings, gridfile_option, json_option, timeout_option(60.0)):
        command = decorate(command)
    return click.argument("tasks", nargs=-1, required=True, metavar="TASK...")(command)


@click.command("scale", epilog=examples("gridctl scale resize=4", "gridctl scale echo=2 resize=max words=-"))
@click.argument("wanted", nargs=-1, required=True, metavar="TASK=N...")
@timeout_option(60.0)
@json_option
@gridfile_option
@pass_settings
def scale_command(settings: Settings, wanted: tuple[str, ...], timeout: float) -> int:
    """Have N instances of a task on every node, now and in releases to come.

    N is a number, `max` for one a core, or `-` for what the release says.
    """
    return _run(settings, dict(map(_scaling, wanted)), timeout, "scaled")


@click.command(
    "restart",
    epilog=examples("gridctl restart resize", "gridctl restart --all --timeout 120", "gridctl restart --node web-1"),
)
@click.argument("tasks", nargs=-1, metavar="TASK...")
@click.option("--all", "every", is_flag=True, help="Every task of the release.")
@click.option(
    "--node", "nodes", multiple=True, metavar="NODE", help="gridnode itself, on the node's server; repeat for more."
)
@timeout_option(60.0)
@json_option
@gridfile_option
@pass_settings
def restart_command(
    settings: Settings, tasks: tuple[str, ...], every: bool, nodes: tuple[str, ...], timeout: float
) -> int:
    """Replace every instance of a task, one after the other, without failing a call; revive what is errored.

    --node restarts gridnode, by SSH, also one that hangs: it lets its calls finish, its sandboxes live on and are
    adopted, and the next NODE's turn is only when it serves again. NODE is a node's name or id, or its server's host.
    """
    if bool(tasks) + every + bool(nodes) != 1:
        hint = "gridctl restart TASK..., gridctl restart --all, or gridctl restart --node NODE"
        raise UsageError("say what to restart: tasks, or nodes", hint=hint)
    if nodes:
        from gridctl.restart_nodes import restart_nodes

        return restart_nodes(settings, nodes)
    changes = None if every else dict.fromkeys(tasks, _restarted)
    return _run(settings, changes, timeout, "restarted", renew=True)


@click.command("stop", epilog=examples("gridctl stop resize", "gridctl stop echo words --json"))
@_for_tasks
def stop_command(settings: Settings, tasks: tuple[str, ...], timeout: float) -> int:
    """Run no instance of a task on any node until `gridctl start`; calls inside finish first."""
    return _run(settings, dict.fromkeys(tasks, partial(replace, stopped=True)), timeout, "stopped")


@click.command("start", epilog=examples("gridctl start resize", "gridctl start echo words --json"))
@_for_tasks
def start_command(settings: Settings, tasks: tuple[str, ...], timeout: float) -> int:
    """Run a task again that was stopped, with as many instances as before."""
    return _run(settings, dict.fromkeys(tasks, partial(replace, stopped=False)), timeout, "started")


def _scaling(text: str) -> tuple[str, Change]:
    task, equals, number = text.rpartition("=")
    if not task or not equals:
        raise UsageError(f"{text!r:.80} is not TASK=N", hint="such as resize=4, resize=max or resize=-")
    instances = {"max": 0, "-": None}.get(number, -1)
    if instances == -1:
        instances = int(number) if number.isascii() and number.isdigit() and len(number) < 6 else -1
        if instances == 0:
            raise UsageError(f"{task}=0 would leave no instance", hint=f"gridctl stop {task}")
        if not 0 < instances <= MAX_INSTANCES:
            raise UsageError(f"{number!r:.40} is not a number of instances", hint=f"1 to {MAX_INSTANCES}, max, or -")
    return task, lambda order: replace(order, instances=instances)


def _restarted(order: Order) -> Order:
    return replace(order, restarts=order.restarts + 1)


def known_tasks(names: Iterable[str], release: Release | None) -> list[str]:
    """The names, all of task files of the release; TaskNotFound names near ones."""
    if release is None:
        raise TaskNotFound("the grid has no release yet", hint="`gridctl deploy` puts a project there")
    known = [task.name for task in release.tasks]
    for name in names:
        if name not in known:
            above = [task for task in known if name.startswith(f"{task}.")]
            near = above or difflib.get_close_matches(name, known, n=3, cutoff=0.5)
            hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(sorted(known)[:10])}"
            raise TaskNotFound(f"no task file {name!r:.80} in the release", hint=hint)
    return list(names)


def _run(
    settings: Settings, changes: Mapping[str, Change] | None, timeout: float, done: str, renew: bool = False
) -> int:
    from gridctl.client import Grid

    progress = Progress()
    carried = asyncio.run(_carry_out(Grid.connect(settings.gridfile()), changes, timeout, renew, progress))
    _report(carried, done, progress)
    if settings.as_json:
        print_json(_as_fields(carried))
    return PARTIAL if carried.behind else OK


async def _carry_out(
    connecting: "Connecting", changes: Mapping[str, Change] | None, timeout: float, renew: bool, progress: Progress
) -> Carried:
    """Order it and wait until the nodes show it. changes: None to restart everything; renew: no instance may stay."""
    shown: dict[str, str] = {}

    def tell(one: Standing) -> None:
        text = _progress(one)
        if shown.get(one.node) != text and not one.final:
            shown[one.node] = text
            progress.line(f"{one.name}: {text}")

    async with connecting as grid:
        release = await grid.release()
        if changes is None:
            changes = {task.name: _restarted for task in release.tasks} if release else {}
        tasks = known_tasks(changes, release)
        stale = await _running(grid, tasks) if renew else {}
        ordered = {task: await _order(grid, task, changes[task]) for task in tasks}
        settle = Settle(grid, {task: sequence for task, (_, sequence) in ordered.items()}, tell, stale)
        try:
            async with asyncio.timeout(timeout):
                await settle.run()
        except TimeoutError:
            pass
    return Carried({task: order for task, (order, _) in ordered.items()}, list(settle.standings.values()))


async def _running(grid: "Grid", tasks: list[str]) -> dict[str, str]:
    """Instances of these tasks, and what was said of each."""
    reports = await grid.processes(tasks[0] if len(tasks) == 1 else "")
    found = [process for report in reports for process in report.processes if process.task in tasks]
    return {process.instance: process.why for process in found if process.instance}


async def _order(grid: "Grid", task: str, change: Change, attempts: int = _ATTEMPTS) -> tuple[Order, int]:
    """The changed order and its sequence, again when somebody else was quicker; one that changes nothing stays."""
    before, sequence = (await grid.orders()).get(task, (Order(), 0))
    order = change(before)
    if order == before:
        return order, sequence
    try:
        await grid.put_order(task, order, sequence + 1)
    except LedgerError:
        if attempts == 1:
            raise
        return await _order(grid, task, change, attempts - 1)
    return order, sequence + 1


def _progress(one: Standing) -> str:
    draining = f", {one.draining} finishing" if one.draining else ""
    return one.error.rpartition("\n")[2] or f"{one.ready} of {one.wanted} ready{draining}"


def _report(carried: Carried, done: str, progress: Progress) -> None:
    for one in carried.standings:
        if not one.reachable:
            progress.line(f"warning: {one.name} is {one.state}; it will follow when it is back", "yellow")
    for one in carried.behind:
        progress.line(f"gridctl: {one.name} does not show it: {one.state}, {one.ready} of {one.wanted} ready", "red")
        if one.error:
            progress.line(one.error)
    shown = [f"{one.name} ({one.ready})" for one in carried.standings if one.state == "done"]
    progress.line(
        f"{', '.join(carried.orders)} {done}: ready on {', '.join(shown) or 'no node'}",
        None if carried.behind else "green",
    )
    stopped = [task for task, order in carried.orders.items() if order.stopped]
    if stopped and done != "stopped":
        progress.line(f"{', '.join(stopped)} is stopped; to run it: gridctl start {' '.join(stopped)}", "yellow")


def _as_fields(carried: Carried) -> dict[str, Any]:
    return {
        "tasks": [
            {"task": task, "instances": order.instances, "stopped": order.stopped, "restarts": order.restarts}
            for task, order in carried.orders.items()
        ],
        "nodes": [
            {
                "name": one.name,
                "id": one.node,
                "state": one.state,
                "ready": one.ready,
                "wanted": one.wanted,
                "draining": one.draining,
                "error": one.error or None,
            }
            for one in carried.standings
        ],
    }
