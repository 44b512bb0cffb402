"""`gridctl invoke --stream` and `--all`: a line for each item, or for each node, as it comes."""

import asyncio
import json
import sys
from typing import Any

import click

from gridctl.client import Grid
from gridctl.failure import OK, PARTIAL, exit_code, explain
from gridctl.node_answers import NodeAnswer
from gridctl.options import Settings
from gridctl.render import SCHEMA, clean, is_terminal, paint
from gridnode.errors import GridError
from gridnode.model import Outcome

__all__ = ["answer_fields", "broadcast", "stream"]


def stream(settings: Settings, task: str, body: bytes, timeout: float | None, node: str) -> int:
    """Print what the task yields; the exit code is that of its end."""
    return asyncio.run(_stream(settings, task, body, timeout, node))


def broadcast(settings: Settings, task: str, body: bytes, timeout: float | None) -> int:
    """Print what each node answers; 3 when some gave no result, the exit code of the first error when none did."""
    return asyncio.run(_broadcast(settings, task, body, timeout))


async def _stream(settings: Settings, task: str, body: bytes, timeout: float | None, node: str) -> int:
    async with Grid.connect(settings.gridfile()) as grid:
        items = grid.stream_json(task, body, timeout=timeout, node=node)
        try:
            async for item in items:
                _print({"item": item} if settings.as_json else item, settings.as_json)
        except GridError as exc:
            if settings.as_json:
                _print({"error": _error(exc)}, True)
            explain(exc, verbose=settings.verbose)
            return exit_code(exc)
        outcome = items.outcome or Outcome()
    if settings.as_json:
        _print({"end": {"node": outcome.name, "duration_ms": round(outcome.duration * 1000, 3)}}, True)
    elif is_terminal(sys.stderr):
        said = f"{clean(outcome.name)} in {outcome.duration * 1000:.1f} ms"
        click.echo(paint(said, "bright_black", sys.stderr), err=True)
    return OK


async def _broadcast(settings: Settings, task: str, body: bytes, timeout: float | None) -> int:
    errors: list[GridError] = []
    count = 0
    async with Grid.connect(settings.gridfile()) as grid:
        async for answer in grid.broadcast_json(task, body, timeout=timeout):
            count += 1
            if answer.error:
                errors.append(answer.error)
            if settings.as_json:
                _print(answer_fields(answer), True)
            else:
                _print_answer(answer)
    if not errors:
        return OK
    return PARTIAL if len(errors) < count else exit_code(errors[0])


def answer_fields(answer: NodeAnswer) -> dict[str, Any]:
    """One node's answer as `--json` prints it."""
    fields: dict[str, Any] = {"node": {"id": answer.node, "name": answer.name}}
    if answer.missing:
        fields["missing"] = answer.missing
    else:
        fields |= {"instance": answer.instance, "duration_ms": round(answer.duration * 1000, 3)}
    return fields | ({"error": _error(answer.error)} if answer.error else {"result": answer.result})


def _print_answer(answer: NodeAnswer) -> None:
    if answer.error is None:
        click.echo(clean(f"{answer.name}: {json.dumps(answer.result, ensure_ascii=False)}"))
        sys.stdout.flush()
        return
    said = answer.error.message if answer.missing else f"{answer.name}: {answer.error.message}"
    click.echo(paint(clean(said), "red", sys.stderr), err=True)
    if answer.error.trace:
        click.echo(clean(answer.error.trace).rstrip(), err=True)


def _error(error: GridError) -> dict[str, Any]:
    return {"code": error.code, "message": error.message, "trace": error.trace}


def _print(value: Any, as_json: bool) -> None:
    """A line at once: whoever reads it may be waiting for it."""
    if as_json:
        click.echo(json.dumps({"schema": SCHEMA, **value}).replace("\x7f", "\\u007f"))
    else:
        click.echo(clean(json.dumps(value, ensure_ascii=False)))
    sys.stdout.flush()
