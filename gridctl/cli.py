"""The command line: which command is where, and one place where errors become exit codes."""

import difflib
import importlib
import sys
from collections.abc import Sequence
from typing import Final, NamedTuple

import click

from gridctl.failure import INTERRUPTED, OK, exit_code, explain
from gridctl.options import Settings, gridfile_option

__all__ = ["cli", "main"]


class _Entry(NamedTuple):
    """Where a command is, and its line in `gridctl --help`, so that help imports none of them."""

    module: str
    help: str


COMMANDS: Final = {
    "new": _Entry("gridctl.access", "Make a Gridfile: a new grid's secret, its servers, its SSH key."),
    "card": _Entry("gridctl.access", "Print a card, with which one server joins the grid."),
    "cloud-init": _Entry("gridctl.cloud_init", "Print user-data for servers that join when they boot."),
    "share": _Entry("gridctl.share", "Make a Gridfile for somebody who may call and look, nothing else."),
    "backup": _Entry("gridctl.backup", "Save what the grid is told to do: releases, orders, secrets, images, files."),
    "restore": _Entry("gridctl.backup", "Bring back what `gridctl backup` saved."),
    "audit": _Entry("gridctl.audit", "List who changed the grid, when, and from where."),
    "renew": _Entry("gridctl.renew", "Make the cards of servers last longer, without SSH."),
    "status": _Entry("gridctl.renew", "Show until when cards are good."),
    "revoke": _Entry("gridctl.revoke", "Shut out a server or a user."),
    "provision": _Entry("gridctl.provision", "Make the Gridfile's servers nodes of its grid, by SSH."),
    "upgrade": _Entry("gridctl.upgrade", "Replace gridnode on every server, one after the other."),
    "unprovision": _Entry("gridctl.provision", "Remove the node and all it keeps from servers."),
    "keygen": _Entry("gridctl.keygen", "Make a new SSH key, and have every server take it for the old one."),
    "ssh": _Entry("gridctl.shell", "Open a shell on a server."),
    "multissh": _Entry("gridctl.shell", "Run a command on every server at once."),
    "sample": _Entry("gridctl.sample", "Copy a sample project to start from."),
    "config": _Entry("gridctl.config", "Show how each task of a project will run, and which line says so."),
    "deploy": _Entry("gridctl.deploy", "Put a project on every node of the grid."),
    "dev": _Entry("gridctl.dev", "Put a project on the grid again whenever a file of it changes."),
    "releases": _Entry("gridctl.releases", "List the releases of the grid, newest first."),
    "rollback": _Entry("gridctl.releases", "Bring every node back to an earlier release."),
    "invoke": _Entry("gridctl.invoke", "Call a task and print its result."),
    "publish": _Entry("gridctl.publish", "Send an event to all who listen to its topic."),
    "subscribe": _Entry("gridctl.subscribe", "Print events as they are published."),
    "ls": _Entry("gridctl.ls", "List the nodes of the grid."),
    "ping": _Entry("gridctl.ping", "Measure how long the way to a node takes, or between all of them."),
    "drain": _Entry("gridctl.nodes", "Have nodes take no new calls; those inside finish."),
    "undrain": _Entry("gridctl.nodes", "Have drained nodes take calls again."),
    "forget": _Entry("gridctl.nodes", "Take a dead node out of every node's memory."),
    "ps": _Entry("gridctl.ps", "List what runs: every task's instances, node by node."),
    "describe": _Entry("gridctl.describe", "Show a task's settings, orders, handlers and instances."),
    "scale": _Entry("gridctl.orders", "Have N instances of a task on every node."),
    "restart": _Entry("gridctl.orders", "Replace a task's instances, or restart nodes, one after the other."),
    "stop": _Entry("gridctl.orders", "Run no instance of a task until it is started again."),
    "start": _Entry("gridctl.orders", "Run a stopped task again."),
    "secret": _Entry("gridctl.secret", "Keep passwords and keys for tasks."),
    "image": _Entry("gridctl.image", "Ship container images to every node, without a registry."),
    "files": _Entry("gridctl.files", "Keep directories on every node, for tasks to read."),
    "logs": _Entry("gridctl.logs", "Show what tasks print, of all nodes."),
    "doctor": _Entry("gridctl.doctor", "Find what is wrong with the grid, and say what to do."),
    "completion": _Entry("gridctl.version", "Print the completion script for a shell."),
    "version": _Entry("gridctl.version", "Print gridctl's version."),
}
ALIASES: Final = {"list": "ls", "exec": "invoke"}


class LazyGroup(click.Group):
    """Imports a command's module only to run it or to show its own help."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        name = ALIASES.get(cmd_name, cmd_name)
        entry = COMMANDS.get(name)
        if entry is None:
            return None
        command = getattr(importlib.import_module(entry.module), f"{name.replace('-', '_')}_command")
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if not name.startswith("-") and name not in COMMANDS and name not in ALIASES:
            near = difflib.get_close_matches(name, [*COMMANDS, *ALIASES], n=1)
            raise click.UsageError(f"no command {name!r}" + (f"; did you mean {near[0]}?" if near else ""), ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        also = {name: alias for alias, name in ALIASES.items()}
        with formatter.section("Commands"):
            formatter.write_dl(
                [
                    (name, entry.help + (f" Also: {also[name]}." if name in also else ""))
                    for name, entry in COMMANDS.items()
                ]
            )


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="`gridctl COMMAND -h` shows each command's options and examples.",
)
@gridfile_option
def cli() -> None:
    """Many servers, one compute grid: deploy a directory of tasks, call them anywhere.

    \b
    Examples:
      gridctl sample hello && gridctl deploy hello
      gridctl invoke words -d '"to be or not to be"'
    """


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command line; its exit code."""
    settings = Settings()
    try:
        code = cli.main(arguments, prog_name="gridctl", standalone_mode=False, obj=settings)
    except BrokenPipeError:
        sys.stderr.close()  # whoever read our output has gone, and an error on exit would help nobody
        return 1
    except (Exception, KeyboardInterrupt) as exc:
        explain(exc, verbose=settings.verbose, as_json=settings.as_json and exit_code(exc) != INTERRUPTED)
        return exit_code(exc)
    return code if isinstance(code, int) else OK


def main() -> None:
    """The console script."""
    sys.exit(run())
