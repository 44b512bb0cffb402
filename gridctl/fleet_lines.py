"""A fleet at work, as lines: `host | step ... ok 1.2 s`, and below a failure what the host printed."""

from collections.abc import Iterable

import click

from gridctl.fleet import HostResult, State
from gridctl.render import Colour, Progress, clean
from gridnode.gridfile import Server

__all__ = ["Lines", "Outputs", "failure_lines", "result_fields"]

_COLOURS: dict[str, Colour] = {State.FAILED: "red", State.DONE: "green", State.WANTED: "yellow"}
_WIDTH = 16


class Lines:
    """Steps as they end, on stderr. everything: also what commands print, as they print it."""

    def __init__(self, servers: Iterable[Server], everything: bool = False) -> None:
        self._progress = Progress()
        self._everything = everything
        self._width = max((len(str(server)) for server in servers), default=0)

    def begun(self, server: Server, step: str) -> None:
        return

    def line(self, server: Server, text: str) -> None:
        if self._everything:
            self._progress.line(f"{self._name(server)} | {text}")

    def ended(self, server: Server, step: str, state: str, seconds: float) -> None:
        text = f"{step} {'.' * (_WIDTH + 2 - len(step))} {state} {seconds:.1f} s"
        self._progress.line(f"{self._name(server)} | {text}", _COLOURS.get(state))

    def _name(self, server: Server) -> str:
        return str(server).ljust(self._width)


class Outputs:
    """What one command prints on many hosts: `host | line` on stdout"""

    def __init__(self, servers: Iterable[Server], shown: bool = True) -> None:
        names = [str(server) for server in servers]
        self._shown = shown
        self._width = max(map(len, names), default=0)

    def begun(self, server: Server, step: str) -> None:
        return

    def line(self, server: Server, text: str) -> None:
        if self._shown:
            click.echo(f"{str(server).ljust(self._width)} | {clean(text)}")

    def ended(self, server: Server, step: str, state: str, seconds: float) -> None:
        return


def failure_lines(result: HostResult) -> list[str]:
    """Why a host was left unfinished, what to do next, and what it printed last."""
    error = result.error
    if error is None:
        return []
    hint = [f"hint: {error.hint}"] if error.hint else []
    return [f"gridctl: {error.message}", *hint, *(f"    {line}" for line in (error.trace or "").splitlines())]


def result_fields(result: HostResult) -> dict[str, object]:
    """One host as `--json` prints it."""
    error = result.error
    return {
        "host": str(result.server),
        "ok": error is None,
        "changed": result.changed,
        "seconds": round(result.seconds, 3),
        "error": error and {"code": error.code, "message": error.message, "hint": error.hint, "trace": error.trace},
    }
