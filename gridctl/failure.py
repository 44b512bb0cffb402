"""The one switch from what went wrong to an exit code, and how it is said."""

import sys
import traceback
from typing import Final

import click

from gridctl.render import clean, paint, print_json
from gridnode.errors import (
    CallTimeout,
    GridError,
    HostUnreachable,
    LedgerError,
    LinkError,
    NodeNotFound,
    NoNode,
    ReleaseNotFound,
    TaskNotFound,
    TaskRaised,
    UsageError,
)

__all__ = ["INTERRUPTED", "OK", "PARTIAL", "exit_code", "explain"]

OK: Final = 0
PARTIAL: Final = 3
INTERRUPTED: Final = 130

_CODES: Final[tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], int], ...]] = (
    ((UsageError, click.UsageError), 2),
    ((LinkError, NoNode, HostUnreachable), 4),
    ((TaskNotFound, NodeNotFound, ReleaseNotFound), 5),
    (TaskRaised, 6),
    (CallTimeout, 124),
    ((KeyboardInterrupt, click.Abort), INTERRUPTED),
)
_HINTS: Final[tuple[tuple[type[GridError], str], ...]] = (
    (NoNode, "`gridctl deploy` puts a project there; `gridctl ls` shows the nodes"),
    (NodeNotFound, "`gridctl ls` shows the nodes"),
    (CallTimeout, "--timeout SECONDS gives it longer"),
    (LedgerError, "somebody else may have deployed in the meantime: `gridctl deploy` again"),
)
"""For errors that came without a hint of their own."""


def exit_code(error: BaseException) -> int:
    """2 usage, 4 unreachable or not let in, 5 not found, 6 the task raised, 124 timeout, 130 interrupted, else 1."""
    return next((code for kinds, code in _CODES if isinstance(error, kinds)), 1)


def explain(error: BaseException, *, verbose: bool = False, as_json: bool = False) -> None:
    """One red line on stderr, a hint, and the remote traceback; ours only when verbose."""
    message, hint, trace = _parts(error)
    if as_json:
        code = error.code if isinstance(error, GridError) else "usage" if exit_code(error) == 2 else "error"
        print_json({"error": {"code": code, "message": message, "hint": hint, "trace": trace}})
    click.echo(paint(f"gridctl: {clean(message)}", "red", sys.stderr), err=True)
    if hint:
        click.echo(f"hint: {clean(hint)}", err=True)
    if trace:
        click.echo(clean(trace).rstrip(), err=True)
    if verbose:
        click.echo("".join(traceback.format_exception(error)).rstrip(), err=True)


def _parts(error: BaseException) -> tuple[str, str | None, str | None]:
    """Message, hint, remote traceback."""
    if isinstance(error, GridError):
        general = next((hint for kind, hint in _HINTS if isinstance(error, kind)), None)
        return error.message, error.hint or general, error.trace
    if isinstance(error, click.UsageError):
        return error.format_message(), f"`{error.ctx.command_path} --help`" if error.ctx else "`gridctl --help`", None
    if isinstance(error, click.ClickException):
        return error.format_message(), None, None
    if exit_code(error) == INTERRUPTED:
        return "interrupted", None, None
    return f"unexpected {type(error).__name__}: {error}", "--verbose shows where; please report it", None
