"""`gridctl invoke`: call a task and print its result."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import click

from gridctl.failure import OK, exit_code, explain
from gridctl.options import Settings, examples, gridfile_option, json_option, pass_settings
from gridctl.render import clean, is_terminal, paint, print_json
from gridnode.errors import BodyInvalid, BodyTooLarge, UsageError
from gridnode.model import Outcome
from gridnode.wire import MAX_CALL_BODY

__all__ = ["invoke_command"]


def _refuse_async(context: click.Context, parameter: click.Parameter, given: bool) -> None:
    """A flag that others have, and what to do instead."""
    if given:
        hint = "the shell can wait for it: `gridctl invoke TASK &`, or a program: `grid.submit(TASK)`"
        raise UsageError("there is no queue that would keep the call: --async is not supported", hint=hint)


@click.command(
    "invoke",
    epilog=examples(
        "gridctl invoke whoami",
        "gridctl invoke words -d '\"to be or not to be\"' --json",
        "echo '{\"below\": 1000}' | gridctl invoke primes -d - --node node-2 --timeout 5",
        "gridctl invoke echo -d 1 --repeat 10000 --concurrency 64",
        "gridctl invoke report --stream",
        "gridctl invoke whoami --all --json",
    ),
)
@click.argument("task")
@click.option("-d", "body", metavar="JSON|@FILE|-", help="What the task gets: JSON, a file of JSON, or - for stdin.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="How long it may take; else what the task says, 30 s if it says nothing.",
)
@click.option("--node", default="", metavar="NAME", help="Run it on this node: name, id or a unique prefix of the id.")
@click.option(
    "--idempotency-key",
    "key",
    default="",
    metavar="KEY",
    help="Calls with the same key run once within ten minutes, and get the same result.",
)
@click.option(
    "--repeat",
    "count",
    type=click.IntRange(1, 10_000_000),
    metavar="N",
    help="Call it so many times, and print a summary instead of results.",
)
@click.option(
    "--concurrency", type=click.IntRange(1, 1024), default=1, metavar="C", help="With --repeat: so many at a time."
)
@click.option("--stream", is_flag=True, help="Print what the task yields, an item a line, as it comes.")
@click.option("--all", "everywhere", is_flag=True, help="Call it on every node, and print a line for each.")
@click.option("--async", is_flag=True, expose_value=False, hidden=True, callback=_refuse_async)
@json_option
@gridfile_option
@pass_settings
def invoke_command(
    settings: Settings,
    task: str,
    body: str | None,
    timeout: float | None,
    node: str,
    key: str,
    count: int | None,
    concurrency: int,
    stream: bool,
    everywhere: bool,
) -> int:
    """Call TASK and print its result as JSON.

    A task is named after its file, or the file and a function: tasks/echo.py is `echo`, and get_ip in
    tasks/req.py is `req.get_ip`.
    """
    if stream or everywhere:
        _check_alone(stream and everywhere, count, key, node if everywhere else "")
        return _print_lines(settings, task, read_body(body), timeout, node, everywhere)
    if count:
        return _repeat(settings, task, read_body(body), count, concurrency, timeout, node, key)
    outcome = asyncio.run(_invoke(settings, task, read_body(body), timeout, node, key))
    if settings.as_json:
        print_json(as_fields(outcome))
    if outcome.error:
        explain(outcome.error, verbose=settings.verbose)
        return exit_code(outcome.error)
    if not settings.as_json:
        _print_result(outcome)
    return OK


def _print_lines(settings: Settings, task: str, body: bytes, timeout: float | None, node: str, everywhere: bool) -> int:
    from gridctl import invoke_lines

    if everywhere:
        return invoke_lines.broadcast(settings, task, body, timeout)
    return invoke_lines.stream(settings, task, body, timeout, node)


def _check_alone(both: bool, count: int | None, key: str, node: str) -> None:
    """Raises UsageError for flags that make no sense with --stream or --all."""
    other = "--all" if both else "--repeat" if count else "--idempotency-key" if key else "--node" if node else ""
    if other:
        raise UsageError(f"{other} does not go together with {'--all' if node else '--stream'}")


def _repeat(
    settings: Settings,
    task: str,
    body: bytes,
    count: int,
    concurrency: int,
    timeout: float | None,
    node: str,
    key: str,
) -> int:
    from gridctl.repeat import repeat

    if key:
        raise UsageError("calls with one idempotency key run once: --repeat has nothing to repeat")
    return repeat(settings, task, body, count=count, concurrency=concurrency, timeout=timeout, node=node)


async def _invoke(settings: Settings, task: str, body: bytes, timeout: float | None, node: str, key: str) -> Outcome:
    from gridctl.client import Grid

    async with Grid.connect(settings.gridfile()) as grid:
        return await grid.send(task, body, timeout=timeout, node=node, idempotency_key=key)


def read_body(given: str | None) -> bytes:
    """The JSON that -d names; UsageError says where it is not JSON, BodyTooLarge past 6 MiB."""
    if given is None:
        return b""
    raw = _read(given)
    if len(raw) > MAX_CALL_BODY:
        raise BodyTooLarge(
            f"the body is larger than {MAX_CALL_BODY} bytes (6 MiB), the most a call can carry",
            hint="put large input where the task can read it, or split it into several calls",
        )
    try:
        json.loads(raw.decode(), parse_constant=_refuse)
    except json.JSONDecodeError as exc:
        raise _not_json(given, exc) from exc
    except UnicodeDecodeError as exc:
        raise UsageError(f"the body is not UTF-8 text: byte {exc.start}", hint="-d takes JSON") from exc
    except (ValueError, RecursionError) as exc:
        raise UsageError(f"the body is not JSON: {exc}") from exc
    return raw


def _read(given: str) -> bytes:
    if given == "-":
        return sys.stdin.buffer.read(MAX_CALL_BODY + 1)
    if not given.startswith("@"):
        return given.encode("utf-8", "surrogateescape")
    try:
        with Path(given[1:]).open("rb") as file:
            return file.read(MAX_CALL_BODY + 1)
    except OSError as exc:
        raise UsageError(f"cannot read {given[1:]}: {exc.strerror}", hint="-d @FILE sends a file of JSON") from exc


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


def _not_json(given: str, exc: json.JSONDecodeError) -> UsageError:
    where = f"line {exc.lineno}, column {exc.colno}" if exc.lineno > 1 else f"column {exc.colno}"
    source = "stdin" if given == "-" else given[1:] if given.startswith("@") else "the body"
    hint = None
    if given[:1] not in ("-", "@", "{", "[", '"'):
        hint = f"text goes in quotes: -d '{json.dumps(given[:60], ensure_ascii=False)}'"
    return UsageError(f"{source} is not JSON at {where}: {exc.msg}", hint=hint)


def as_fields(outcome: Outcome) -> dict[str, Any]:
    """The outcome as `--json` prints it."""
    ran = {
        "node": {"id": outcome.node, "name": outcome.name or None},
        "instance": outcome.instance,
        "attempts": outcome.attempts,
        "duration_ms": round(outcome.duration * 1000, 3),
    }
    if outcome.error:
        error = outcome.error
        return {"error": {"code": error.code, "message": error.message, "trace": error.trace}, **ran}
    return {"result": _parse(outcome.body), **ran}


def _parse(body: bytes) -> Any:
    from gridctl.client import decode_result

    return decode_result(body)


def _print_result(outcome: Outcome) -> None:
    """Indented on a terminal, as it came elsewhere; where it ran goes to stderr when somebody watches."""
    result = _parse(outcome.body)
    if is_terminal(sys.stdout):
        click.echo(clean(json.dumps(result, indent=2, ensure_ascii=False)))
    else:
        try:
            click.echo(outcome.body.decode() or "null")
        except UnicodeDecodeError as exc:
            raise BodyInvalid("the result is not UTF-8 text") from exc
    if is_terminal(sys.stderr):
        where = outcome.name or (outcome.node or "a node")[:8]
        click.echo(paint(f"{clean(where)} in {outcome.duration * 1000:.1f} ms", "bright_black", sys.stderr), err=True)
