"""The module that a task file gets by `import grid`: other tasks, the call it serves, a log."""

from __future__ import annotations

import json
import logging
import os
from typing import TYPE_CHECKING, Any

from gridnode.runtimes.python import Context
from gridnode.runtimes.python_calls import OP_PUBLISH, Calling, Line, Unanswered
from gridnode.runtimes.python_frames import FLAG_ERROR, MAX_BODY, Frame

__all__ = [
    "BodyTooLarge",
    "CallTimeout",
    "Forbidden",
    "NoCapacity",
    "NodeLost",
    "TaskCrashed",
    "TaskError",
    "TaskNotFound",
    "TaskRaised",
    "context",
    "invoke",
    "invoke_async",
    "log",
    "publish",
    "publish_async",
]

_MAX_NAME = 255
_MAX_DEADLINE = 0xFFFFFFFF


class TaskError(Exception):
    """Why a call of another task gave no result. code: as everywhere in the grid; trace: its traceback if it raised."""

    code = "call"

    def __init__(self, message: str, *, code: str = "", trace: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.message, self.trace, self.hint = message, trace, hint
        self.code = code or self.code


class TaskRaised(TaskError):
    """The task itself raised."""

    code = "task_raised"


class TaskCrashed(TaskError):
    """Its instance died with the call inside it: the call may have had effects."""

    code = "task_crashed"


class NodeLost(TaskError):
    """Its node went away with the call inside it: the call may have had effects."""

    code = "node_lost"


class CallTimeout(TaskError):
    """No result before the deadline: `timeout`, or that of the call being served."""

    code = "timeout"


class TaskNotFound(TaskError):
    """The grid has no such task."""

    code = "task_not_found"


class NoCapacity(TaskError):
    """Too many calls wait already."""

    code = "no_capacity"


class Forbidden(TaskError):
    """Tasks have called tasks too deep, or no call is being served."""

    code = "forbidden"


class BodyTooLarge(TaskError):
    """The argument or the result is larger than 6 MiB of JSON."""

    code = "body_too_large"


class RemoteTraceback(Exception):
    """The traceback of a task that raised elsewhere, as the cause of the TaskRaised here."""

    def __str__(self) -> str:
        return f'\n"""\n{str(self.args[0]).rstrip()}\n"""'


_BY_CODE = {cls.code: cls for cls in TaskError.__subclasses__()}


def invoke(task: str, argument: Any = None, timeout: float | None = None) -> Any:
    """The result of another task, anywhere in the grid; raises TaskError. For sync handlers.

    timeout: seconds, else what the task has; never longer than the call being served has left.
    """
    line, request = _line(), _request(task, argument, timeout)
    try:
        reply = line.call(*request)
    except Unanswered as exc:
        raise TaskError(f"{task}: {exc}", code="link_closed") from exc
    return _result(task, reply)


async def invoke_async(task: str, argument: Any = None, timeout: float | None = None) -> Any:
    """The same, for async handlers: others go on meanwhile."""
    line, request = _line(), _request(task, argument, timeout)
    try:
        reply = await line.call_async(*request)
    except Unanswered as exc:
        raise TaskError(f"{task}: {exc}", code="link_closed") from exc
    return _result(task, reply)


def publish(topic: str, payload: Any = None) -> int:
    """Send what JSON can hold to all who listen to the topic now; to how many that is. For sync handlers."""
    line, request = _line(), _request(topic, payload, None, "topic")
    try:
        reply = line.call(*request, OP_PUBLISH)
    except Unanswered as exc:
        raise TaskError(f"{topic}: {exc}", code="link_closed") from exc
    return int(_result(topic, reply))


async def publish_async(topic: str, payload: Any = None) -> int:
    """The same, for async handlers."""
    line, request = _line(), _request(topic, payload, None, "topic")
    try:
        reply = await line.call_async(*request, OP_PUBLISH)
    except Unanswered as exc:
        raise TaskError(f"{topic}: {exc}", code="link_closed") from exc
    return int(_result(topic, reply))


def _line() -> Line:
    if Calling.line is None or Calling.line.served() is None:
        raise RuntimeError(
            "only while a call is being served can tasks be invoked and events published, not during the import"
        )
    return Calling.line


def _request(task: str, argument: Any, timeout: float | None, kind: str = "task") -> tuple[bytes, bytes, int]:
    """Name, body and deadline of the call; TypeError or ValueError for what cannot be sent."""
    name = task.encode()
    if not 0 < len(name) <= _MAX_NAME:
        raise ValueError(f"{task[:32]!r} is no {kind}'s name")
    if timeout is not None and not 0 < timeout < _MAX_DEADLINE / 1000:
        raise ValueError(f"a timeout of {timeout!r} s makes no sense: more than 0 seconds")
    body = b"" if argument is None and kind == "task" else _text(argument)
    if len(body) > MAX_BODY:
        raise BodyTooLarge(f"{task}: the argument is {len(body)} bytes of JSON, at most {MAX_BODY} are allowed")
    return name, body, 0 if timeout is None else max(1, int(timeout * 1000))


def _text(argument: Any) -> bytes:
    try:
        return json.dumps(argument, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:  # a lone surrogate, as in a file name: only an escape can carry it
        return json.dumps(argument).encode()


def _result(task: str, reply: Frame) -> Any:
    if reply.flags & FLAG_ERROR:
        error = _error(task, reply.body)
        raise error from (RemoteTraceback(error.trace) if error.trace else None)
    try:
        return json.loads(reply.body) if reply.body else None
    except (ValueError, RecursionError) as exc:
        raise TaskError(f"{task}: its result is not JSON: {exc}", code="body_invalid") from exc


def _error(task: str, body: bytes) -> TaskError:
    try:
        told = json.loads(body)
        code, message = str(told["code"]), str(told["message"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return TaskError(f"{task}: the call failed, and its error cannot be read")
    return _BY_CODE.get(code, TaskError)(message, code=code, trace=told.get("trace"), hint=told.get("hint"))


class _CurrentContext:
    """The context of the call being served, as handlers get it for their second argument."""

    if TYPE_CHECKING:
        node: str
        instance: str
        task: str
        deadline: float | None
        invocation_id: str
        attempt: int
        topic: str
        cancelled: bool
        log: logging.Logger

    def __getattr__(self, name: str) -> Any:
        return getattr(_context(), name)

    def __repr__(self) -> str:
        return "<grid.context>"


def _context() -> Context:
    served = Calling.line.served() if Calling.line else None
    if served is None:
        raise RuntimeError("grid.context is known only while a call is being served")
    frame, since = served
    return Context(frame.name.decode(), frame.deadline_ms, frame.meta, since, frame.call_id)


context = _CurrentContext()
log = logging.getLogger(os.environ.get("GRID_TASK", "grid"))
