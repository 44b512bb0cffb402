"""What every command takes, and what it finds out before it starts."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from gridctl.render import clean, is_terminal, paint
from gridnode.errors import UsageError

if TYPE_CHECKING:
    from gridnode.gridfile import Gridfile

__all__ = [
    "Settings",
    "confirm",
    "examples",
    "gridfile_option",
    "json_option",
    "pass_settings",
    "timeout_option",
    "yes_option",
]

F = TypeVar("F", bound=Callable[..., Any])
VIA_VARIABLE: Final = "GRIDCTL_VIA"
_VIAS: Final = ("auto", "direct", "ssh")
"""As gridnode.gridfile has it, which takes longer to import than help may."""


@dataclass(slots=True)
class Settings:
    """What the flags of one command line say."""

    gridfile_flag: str | None = None
    via_flag: str = ""
    as_json: bool = False
    yes: bool = False
    verbose: bool = False

    def gridfile(self) -> Gridfile:
        """The Gridfile to use; what its owner should know goes to stderr."""
        from gridctl.new import find_gridfile, load_gridfile

        gridfile = load_gridfile(find_gridfile(Path.cwd(), self.gridfile_flag))
        for warning in gridfile.warnings:
            click.echo(paint(f"warning: {clean(warning)}", "yellow", sys.stderr), err=True)
        return replace(gridfile, via=self.via_flag or _via_variable() or gridfile.via or "auto")


def _via_variable() -> str:
    """What $GRIDCTL_VIA says, nothing when it is not set; UsageError."""
    via = os.environ.get(VIA_VARIABLE, "")
    if via and via not in _VIAS:
        raise UsageError(f"${VIA_VARIABLE} is {via!r:.40}", hint=f"one of {', '.join(_VIAS)}")
    return via


pass_settings = click.make_pass_decorator(Settings, ensure=True)


def _sets(name: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    """Stores a flag that was given; the group's and the command's go to the same place."""

    def store(context: click.Context, parameter: click.Parameter, value: Any) -> None:
        if value:
            setattr(context.ensure_object(Settings), name, value)

    return store


def gridfile_option(command: F) -> F:
    """--gridfile, --via and --verbose."""
    command = click.option(
        "--via",
        type=click.Choice(_VIAS),
        expose_value=False,
        callback=_sets("via_flag"),
        help="Reach nodes at their port, or through SSH to their servers; auto: through SSH where no port answers.",
    )(command)
    command = click.option(
        "--gridfile",
        metavar="PATH",
        expose_value=False,
        callback=_sets("gridfile_flag"),
        help="Gridfile to use; else $GRIDCTL_GRIDFILE, else the nearest one in or above this directory.",
    )(command)
    return verbose_option(command)


def verbose_option(command: F) -> F:
    """--verbose."""
    return click.option(
        "-v",
        "--verbose",
        is_flag=True,
        expose_value=False,
        callback=_sets("verbose"),
        help="Show gridctl's own traceback when something fails.",
    )(command)


def json_option(command: F) -> F:
    """--json."""
    return click.option(
        "--json", is_flag=True, expose_value=False, callback=_sets("as_json"), help="Print JSON, for programs."
    )(command)


def timeout_option(default: float) -> Callable[[F], F]:
    """--timeout, in seconds."""
    return click.option(
        "--timeout",
        type=click.FloatRange(min=0, min_open=True),
        default=default,
        show_default=True,
        metavar="SECONDS",
        help="How long to wait for the nodes.",
    )


def yes_option(command: F) -> F:
    """--yes."""
    return click.option(
        "-y", "--yes", is_flag=True, expose_value=False, callback=_sets("yes"), help="Do not ask, go ahead."
    )(command)


def confirm(question: str, settings: Settings) -> None:
    """Ask on a terminal, unless --yes; UsageError where there is nobody to ask, click.Abort on a no."""
    if settings.yes:
        return
    if not (is_terminal(sys.stdin) and is_terminal(sys.stderr)):
        raise UsageError(f"{clean(question)} There is no terminal to ask on.", hint="-y goes ahead without asking")
    click.confirm(clean(question) + " Go ahead?", abort=True, err=True)


def examples(*lines: str) -> str:
    """The end of a command's help."""
    return "\n\n\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)
