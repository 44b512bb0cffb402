"""The Python runtime: serves one task file inside its sandbox. One file, standard library only.

It imports the file, dials the node's socket, says HELLO with the handlers it found, then answers calls until the
container ends. Frames are those of gridnode.wire. A file with sync handlers only is served by one thread in a blocking
loop, which costs a few microseconds a call (python_sync.py); one with an async handler, or with a concurrency above 1,
by an asyncio loop (python_async.py). What a task file may import of ours is `grid` (python_grid.py).
"""

from __future__ import annotations

import contextlib
import gc
import inspect
import json
import logging
import math
import os
import socket
import sys
import time
import traceback
from collections.abc import Callable, Generator, Iterator
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec, spec_from_file_location
from types import GeneratorType, ModuleType
from typing import Any, NamedTuple

HERE = os.path.dirname(os.path.abspath(__file__))


def import_file(name: str, path: str) -> ModuleType:
    spec = spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":  # by path: nothing of ours is on a task's path
    for part in ("python_frames", "python_calls", "python_stream"):
        import_file(f"gridnode.runtimes.{part}", os.path.join(HERE, f"{part}.py"))
from gridnode.runtimes.python_calls import Calling  # noqa: E402
from gridnode.runtimes.python_frames import (  # noqa: E402
    BUFFER_SIZE,
    FLAG_ERROR,
    FLAG_STREAM,
    HEADER,
    HELLO,
    MAX_BODY,
    OP_INVOKE,
    REPLY,
    VERSION,
    Frame,
    pack,
    read_meta,
)
from gridnode.runtimes.python_stream import Collected  # noqa: E402

MAX_TRACE, MAX_MESSAGE = 8192, 2000
MAX_HANDLERS = 128
ASYNC_CONCURRENCY = 64
CONCURRENCY = int(os.environ.get("GRID_CONCURRENCY") or 0)
PID = os.getpid()
DIAL_PATIENCE, REDIAL_PATIENCE, REDIAL_PAUSE, HELLO_GRACE = 30.0, 600.0, 0.2, 2.0
DIAL_AGAIN = 0.2
"""Seconds between two attempts at most: what a call may wait for a node that is back."""


class GridFinder:
    """Finds `grid`, the module of ours that is a task's to import, where its project has none of that name."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        return spec_from_file_location(name, os.path.join(HERE, "python_grid.py")) if name == "grid" else None


class Fault(Exception):
    """An error Reply: a code of gridnode.errors, a message, and the user's part of the traceback."""

    def __init__(self, code: str, message: str, trace: str | None = None) -> None:
        super().__init__(message)
        self.code, self.message, self.trace = code, message, trace

    def as_json(self) -> dict[str, str]:
        body = {"code": self.code, "message": self.message[:MAX_MESSAGE]}
        return body | {"trace": self.trace[-MAX_TRACE:]} if self.trace else body


class Context:
    """What a handler may know of its call. deadline: unix seconds, or None."""

    __slots__ = ("_call_id", "_line", "_meta", "deadline", "task")
    node = os.environ.get("GRID_NODE", "")
    instance = os.environ.get("GRID_INSTANCE", "")

    def __init__(self, task: str, deadline_ms: int, meta: bytes, since: float | None = None, call_id: int = 0) -> None:
        self._line, self._call_id = Calling.line, call_id
        self.task = task
        self.deadline = (since or time.time()) + deadline_ms / 1000 if deadline_ms else None
        self._meta = meta

    @property
    def invocation_id(self) -> str:
        return str(self._read("id", ""))

    @property
    def attempt(self) -> int:
        return int(self._read("attempt", 1))

    @property
    def topic(self) -> str:
        """Of the event that the call delivers; empty for other calls."""
        return str(self._read("topic", ""))

    @property
    def log(self) -> logging.Logger:
        return logging.getLogger(self.task)

    @property
    def cancelled(self) -> bool:
        """Whether nobody waits any more: the caller gave up or went away, or the deadline is past. Ask it in loops."""
        return not self.remaining() or (self._line is not None and self._line.is_cancelled(self._call_id))

    def remaining(self) -> float:
        """Seconds until the deadline; infinite without one, never negative."""
        return math.inf if self.deadline is None else max(0.0, self.deadline - time.time())

    def _read(self, key: str, default: object) -> Any:
        return read_meta(self._meta).get(key, default)


class Handler(NamedTuple):
    """A callable of the task file; arity: how many of (event, context) it takes."""

    name: str
    function: Callable[..., Any]
    arity: int
    is_async: bool

    def call(self, frame: Frame) -> Any:
        """Call it: a result, or an awaitable of one; Fault when the body is not JSON."""
        if self.arity == 0:
            return self.function()
        event = _event(frame.body)
        if self.arity == 1:
            return self.function(event)
        return self.function(event, Context(self.name, frame.deadline_ms, frame.meta, None, frame.call_id))


Handlers = dict[bytes, Handler]


def pack_error(call_id: int, fault: Fault) -> bytes:
    return pack(REPLY, call_id, _text(fault.as_json()), FLAG_ERROR)


def _text(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "replace")


def _unfit(value: object) -> Any:
    kind = f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
    raise TypeError(f"the result holds a {kind}, not JSON: return None, bool, int, float, str, list or dict")


_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_unfit).encode
_decode = json.JSONDecoder().decode


def pack_result(call_id: int, result: Any) -> bytes:
    """A Reply with the result in JSON; Fault when it has no such form or is too large."""
    body = encode_result(result)
    return HEADER.pack(len(body), call_id, REPLY, 0, 0, 0, 0, 0) + body


def encode_result(result: Any) -> bytes:
    """A result, or an item of one, in JSON; Fault as for pack_result."""
    try:
        body = _encode(result).encode()
    except UnicodeEncodeError:  # a lone surrogate, as in a file name: only an escape can carry it
        body = json.dumps(result).encode()
    except (TypeError, ValueError, RecursionError) as exc:
        raise Fault("task_raised", f"{type(exc).__name__}: {exc}") from exc
    if len(body) > MAX_BODY:
        raise Fault("body_too_large", f"the result is {len(body)} bytes of JSON, at most {MAX_BODY} are allowed")
    return body


def _event(body: bytes) -> Any:
    if not body:
        return None
    try:
        return _decode(body.decode())
    except (ValueError, RecursionError) as exc:
        raise Fault("body_invalid", f"the body is not JSON: {exc}") from exc


def pack_raised(call_id: int, exc: BaseException) -> bytes:
    """The exception as task_raised, with our own frames cut off the head of its traceback."""
    if os.getpid() != PID:  # a child that the handler forked
        os._exit(1)
    return pack_error(call_id, Fault("task_raised", _summary(exc), _trace(exc)))


def _summary(exc: BaseException) -> str:
    try:
        text = str(exc)
    except Exception:
        text = "(no text: its __str__ raises)"
    return f"{type(exc).__qualname__}: {text}" if text else type(exc).__qualname__


def _trace(exc: BaseException) -> str:
    tb = exc.__traceback__
    while tb and tb.tb_frame.f_code.co_filename.startswith((HERE, "<frozen")):
        tb = tb.tb_next
    return "".join(traceback.format_exception(type(exc), exc, tb))


def load(root: str, file: str, task: str) -> Handlers:
    """Import the task file and find its handlers; Fault instance_failed with the user's traceback."""
    path = os.path.join(root, file)
    set_path(root, os.path.dirname(path))
    try:
        module = import_file(os.path.splitext(file)[0].replace("/", "."), path)
    except BaseException as exc:
        raise Fault("instance_failed", f"{_summary(exc)} ({_place(exc, root, file)})", _trace(exc)) from exc
    found = {handler.name.encode(): handler for handler in find_handlers(module, task)}
    if not 0 < len(found) <= MAX_HANDLERS:
        raise Fault("instance_failed", f"{file} has {len(found)} public functions; 1 to {MAX_HANDLERS} can be served")
    return found


def packages_in(root: str) -> str:
    """Where a deploy has put the project's dependencies for this Python on this machine, if it asks for any."""
    tag = f"{sys.version_info.major}.{sys.version_info.minor}-{os.uname().machine}"
    return os.path.join(root, ".vendor", "python", tag)


def set_path(root: str, directory: str) -> None:
    """The project first, as when run from its directory; tasks and vendored packages hide no standard module."""
    packages = (n for n, path in enumerate(sys.path) if path.endswith("-packages"))
    at = next(packages, len(sys.path))
    wanted = (directory, os.path.join(root, "vendor"), packages_in(root))
    sys.path[at:at] = [path for path in wanted if os.path.isdir(path)]
    sys.path.insert(0, root)


def find_handlers(module: ModuleType, task: str) -> Iterator[Handler]:
    """The file's own public functions: the default one under the bare task name, the others as `task.function`.

    One that is the default for being alone has both names: its callers need not know whether it is.
    """
    functions = {name: value for name, value in vars(module).items() if _is_own_function(module, name, value)}
    stem = task.rpartition("/")[2].replace("-", "_")
    default = next((name for name in ("handler", stem) if name in functions), None)
    for name, function in functions.items():
        is_async = any(_is_async(one) for one in (function, inspect.unwrap(function)))
        names = [task] if name == default else [f"{task}.{name}"] + [task] * (len(functions) == 1)
        yield from (Handler(one, function, arity(function), is_async) for one in names)


def _is_async(function: Callable[..., Any]) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)


def _is_own_function(module: ModuleType, name: str, value: object) -> bool:
    if name.startswith("_") or isinstance(value, type) or getattr(value, "__module__", None) != module.__name__:
        return False
    return inspect.isfunction(value) or (callable(value) and hasattr(value, "__wrapped__"))


def arity(function: Callable[..., Any]) -> int:
    """How many of (event, context) to pass: a second parameter that has a default is the task's own."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return 2
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return 2
    places = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if len(places) > 1 and (places[1].default is places[1].empty or places[1].name in ("context", "ctx")):
        return 2
    return min(len(places), 1)


def _place(exc: BaseException, root: str, file: str) -> str:
    if isinstance(exc, SyntaxError) and exc.filename and exc.filename.startswith(root):
        return f"{os.path.relpath(exc.filename, root)} line {exc.lineno}"
    for entry in reversed(traceback.extract_tb(exc.__traceback__)):
        if entry.filename.startswith(root + "/"):
            return f"{os.path.relpath(entry.filename, root)} line {entry.lineno}"
    return file


def answer(handlers: Handlers, frame: Frame) -> bytes:
    """Run a sync handler: its Reply, whatever happens in it."""
    try:
        result = _handler(handlers, frame).call(frame)
        return _drain(frame, result) if isinstance(result, GeneratorType) else pack_result(frame.call_id, result)
    except Fault as fault:
        return pack_error(frame.call_id, fault)
    except BaseException as exc:
        return pack_raised(frame.call_id, exc)


def _drain(frame: Frame, items: Generator[Any, None, None]) -> bytes:
    """Send what a generator yields, and the Reply that ends it; or all of it in the Reply if no stream is wanted."""
    line, collected = Calling.line, None if frame.flags & FLAG_STREAM else Collected()
    assert line
    with contextlib.closing(items):
        for item in items:
            body = encode_result(item)
            goes_on = line.part(frame.call_id, body) if collected is None else not line.is_cancelled(frame.call_id)
            if not goes_on:
                raise Fault("call", "the call was cancelled")
            collect(collected, body)
    return pack(REPLY, frame.call_id, collected.body if collected else b"")


def collect(collected: Collected | None, item: bytes) -> None:
    """One more item of a result that is no stream; Fault past what a result can hold."""
    if collected and not collected.add(item):
        raise Fault("body_too_large", f"the items are more than {MAX_BODY} bytes of JSON: ask for a stream of them")


def _handler(handlers: Handlers, frame: Frame) -> Handler:
    if frame.op != OP_INVOKE:
        raise Fault("call", f"op {frame.op} is not served here")
    handler = handlers.get(frame.name)
    if handler is None:
        known = ", ".join(sorted(name.decode() for name in handlers))
        raise Fault("task_not_found", f"no task {frame.name.decode(errors='replace')!r} here, there is: {known}")
    return handler


def dial(path: str, patience: float) -> socket.socket | None:
    """Connect, trying again for `patience` seconds; None when nobody listened."""
    give_up, delay = time.monotonic() + patience, 0.01
    while time.monotonic() < give_up:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.connect(path)
            return sock
        except OSError:
            sock.close()
        time.sleep(delay)
        delay = min(delay * 2, DIAL_AGAIN)
    return None


def refuse(path: str, fault: Fault) -> None:
    """Say in the HELLO why this file cannot be served, and give the node time to read it."""
    sys.stderr.write(f"{fault.trace or fault.message}\n")
    with dial(path, DIAL_PATIENCE) or socket.socket() as sock, contextlib.suppress(OSError):
        sock.settimeout(HELLO_GRACE)
        sock.sendall(pack(HELLO, 0, _text({"version": VERSION, "handlers": [], "error": fault.as_json()})))
        while sock.recv(BUFFER_SIZE):
            pass


def describe(handlers: Handlers) -> bytes:
    limits = [CONCURRENCY or (ASYNC_CONCURRENCY if h.is_async else 1) for h in handlers.values()]
    found = [{"name": h.name, "concurrency": limit} for h, limit in zip(handlers.values(), limits, strict=True)]
    return pack(HELLO, 0, _text({"version": VERSION, "handlers": found}))


def serve(kind: str, path: str, hello: bytes, handlers: Handlers) -> None:
    """Answer calls until nobody has listened for a long time. kind: sync or async, of which only one is loaded."""
    module = import_file(f"gridnode.runtimes.python_{kind}", os.path.join(HERE, f"python_{kind}.py"))
    module.run(path, hello, handlers)


def main() -> None:
    """Serve until nobody has listened for a long time; the process then ends with 1."""
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    path = os.environ["GRID_SOCKET"]
    sys.modules["gridnode.runtimes.python"] = sys.modules[__name__]
    sys.meta_path.append(GridFinder)
    try:
        handlers = load(os.environ.get("GRID_ROOT", "/task"), os.environ["GRID_FILE"], os.environ["GRID_TASK"])
    except Fault as fault:
        refuse(path, fault)
        sys.exit(1)
    gc.collect()
    gc.freeze()
    together = CONCURRENCY > 1 or any(handler.is_async for handler in handlers.values())
    serve("async" if together else "sync", path, describe(handlers), handlers)
    sys.exit(1)


if __name__ == "__main__":
    main()
