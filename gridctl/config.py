"""`gridctl config`: how each task of a project will run, and which line says so."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import click

from gridctl.gridtoml import Configured, nearest
from gridctl.gridtoml_rules import RULES, TABLES, as_text
from gridctl.options import Settings, examples, json_option, pass_settings, verbose_option
from gridctl.project import configured_tasks
from gridctl.render import print_json, table
from gridnode.errors import TaskNotFound

__all__ = ["as_fields", "choose", "config_command", "rows"]

_HEAD = ("TASK", "SETTING", "VALUE", "FROM")


def _keys() -> str:
    """What grid.toml may say, for the help."""
    single = [f"  {key:<14} {rule.allowed}" for key, rule in RULES.items()]
    tables = [f"  {key:<14} a table, such as {{ {rule.example} }}" for key, rule in TABLES.items()]
    return "\n\n\b\nKeys of grid.toml, in [defaults] and [tasks.NAME]:\n" + "\n".join([*single, *tables])


@click.command("config", epilog=_keys() + examples("gridctl config", "gridctl config ./hello req --json"))
@click.argument("directory", default=".", type=click.Path(path_type=Path))
@click.argument("task", required=False)
@json_option
@verbose_option
@pass_settings
def config_command(settings: Settings, directory: Path, task: str | None) -> None:
    """Print how the tasks of the project in DIRECTORY will run, and where each setting is from.

    With TASK only that one; alone it means the project here. A setting is the built-in default, unless [defaults]
    in grid.toml has another, unless [tasks.NAME] has.
    """
    if task is None and len(directory.parts) == 1 and not directory.exists():
        directory, task = Path(), str(directory)
    chosen = choose(configured_tasks(directory), task)
    if settings.as_json:
        print_json({"tasks": [as_fields(one) for one in chosen]})
        return
    for line in table(_HEAD, rows(chosen)):
        click.echo(line)


def choose(tasks: tuple[Configured, ...], name: str | None) -> list[Configured]:
    """All, or the one whose file has the name, or has the function of that name; TaskNotFound."""
    if name is None:
        return list(tasks)
    found = {one.spec.name: one for one in tasks}
    chosen = found.get(name) or found.get(name.rpartition(".")[0])
    if chosen is None:
        raise TaskNotFound(f"no task {name:.60}{nearest(name, found)}", hint="`gridctl config` shows all of them")
    return [chosen]


def rows(tasks: Iterable[Configured]) -> Iterator[tuple[str, str, str, str]]:
    """Lines of the table."""
    for task in tasks:
        for key, setting in task.settings.items():
            yield task.spec.name, key, as_text(key, setting.value), str(setting)


def as_fields(task: Configured) -> dict[str, Any]:
    """A task as `--json` prints it: bytes, cores, seconds; instances "max" for one a core."""
    settings = {
        key: {
            "value": "max" if key == "instances" and setting.value == 0 else setting.value,
            "from": setting.section,
            "line": setting.line,
        }
        for key, setting in task.settings.items()
    }
    return {"name": task.spec.name, "file": task.spec.file, "settings": settings}
