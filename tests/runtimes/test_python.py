import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from types import SimpleNamespace

import pytest

from gridnode import wire
from gridnode.errors import GridError
from gridnode.model import NodeId
from gridnode.runtimes import python
from gridnode.wire import Frame, Kind, Op
from tests.fakes.process_sandbox import ProcessSandbox
from tests.sandbox.conformance import Line, Listener, Place

Serve = Callable[..., Awaitable[Line]]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Start a runtime for a source text, with other files of its project beside it: a line to it."""
    place, sandbox = Place(NodeId("ab" * 20), "none"), ProcessSandbox()

    async def start(source: str, task: str = "req", files: dict[str, str] | None = None) -> Line:
        spec = place.spec(source, task=task)
        for name, text in (files or {}).items():
            path = Path(spec.release_dir) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        listener = await listeners.enter_async_context(Listener(Path(spec.socket_dir)))
        await sandbox.start(spec)
        return await listener.line()

    async with AsyncExitStack() as listeners:
        yield start
    await sandbox.clean()
    place.remove()


async def failure(line: Line, name: str, event: object = None) -> GridError:
    with pytest.raises(GridError) as caught:
        await line.ask(name, event)
    return caught.value


@pytest.mark.parametrize(
    ("source", "task", "found"),
    [
        ("def handler(e): pass", "req", {"req": 1}),
        ("async def handler(e): pass", "req", {"req": 64}),
        ("def handler(e): pass\ndef get_ip(e): pass\ndef _private(e): pass", "req", {"req": 1, "req.get_ip": 1}),
        ("def req(e): pass\nasync def other(e): pass", "req", {"req": 1, "req.other": 64}),
        ("def get_ip(e): pass\ndef other(): pass", "get-ip", {"get-ip": 1, "get-ip.other": 1}),
        ("def only(e): pass\nX = 1\nclass C: pass", "req", {"req": 1, "req.only": 1}),
        ("def one(e): pass\ndef two(e): pass", "req", {"req.one": 1, "req.two": 1}),
        ("from os.path import join\nimport json\nf = lambda e: e", "req", {"req": 1, "req.f": 1}),
        ("import functools\n@functools.cache\ndef f(e): pass\ndef g(): pass", "req", {"req.f": 1, "req.g": 1}),
        (
            "import functools\ndef deco(f):\n  @functools.wraps(f)\n  def call(*a): return f(*a)\n  return call\n"
            "@deco\nasync def handler(e): pass",
            "req",
            {"req": 64, "req.deco": 1},
        ),
    ],
)
async def test_handlers_of_a_file(serve: Serve, source: str, task: str, found: dict[str, int]) -> None:
    line = await serve(source, task)
    assert line.hello["version"] == wire.VERSION
    assert {handler["name"]: handler["concurrency"] for handler in line.hello["handlers"]} == found


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import os\n\nimport x_y_z", "ModuleNotFoundError: No module named 'x_y_z' (tasks/req.py line 3)"),
        ("def handler(e:\n  pass", "SyntaxError: '(' was never closed (req.py, line 1) (tasks/req.py line 1)"),
        ("import sys\nsys.exit(3)", "SystemExit: 3 (tasks/req.py line 2)"),
        ("def f(): 1/0\nf()", "ZeroDivisionError: division by zero (tasks/req.py line 1)"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt (tasks/req.py line 1)"),
        ("X = 1", "tasks/req.py has 0 public functions; 1 to 128 can be served"),
        ("import lib.broken", "NameError: name 'nope' is not defined (lib/broken.py line 2)"),
        (
            "class E(Exception):\n  def __str__(self): 1/0\nraise E",
            "E: (no text: its __str__ raises) (tasks/req.py line 3)",
        ),
    ],
)
async def test_a_file_that_does_not_load(serve: Serve, source: str, message: str) -> None:
    line = await serve(source, files={"lib/broken.py": "\nnope\n"})
    assert line.hello["handlers"] == []
    error = line.hello["error"]
    assert (error["code"], error["message"]) == ("instance_failed", message)
    if "public functions" not in message:
        assert "tasks/req.py" in error["trace"]
        assert "runtimes/python.py" not in error["trace"]
        assert "importlib" not in error["trace"]
    line.close()


async def test_a_hello_stays_in_bounds_whatever_is_raised(serve: Serve) -> None:
    line = await serve("raise ValueError('\\x01\\ud800\\U0001f600' * 100000)")
    assert line.hello["error"]["message"].startswith("ValueError")
    assert len(json.dumps(line.hello, ensure_ascii=False).encode()) < wire.MAX_HELLO
    line.close()


BAD = """
import os, sys, datetime
def raises(e):
    def inner(): raise ValueError("bad " + e)
    inner()
def exits(e): sys.exit(e)
def multi(e): raise KeyError("two\\nlines")
def asserts(e): assert e == 2
def holds(e): return {"at": [datetime.date(2020, 1, 1)]}
def nan(e): return float("nan")
def keys(e): return {(1, 2): 3}
def loops(e):
    x = []
    x.append(x)
    return x
def large(e): return "x" * (6 * 1024 * 1024)
def wrong(a, b, c): pass
def forks(e):
    if os.fork() == 0: sys.exit(0)
    os.wait()
    return "parent"
def surrogate(e): return "\\ud800"
def handler(e): return e
"""


@pytest.mark.parametrize(
    ("name", "event", "code", "message"),
    [
        ("raises", "thing", "task_raised", "ValueError: bad thing"),
        ("exits", 3, "task_raised", "SystemExit: 3"),
        ("exits", None, "task_raised", "SystemExit"),
        ("multi", None, "task_raised", "KeyError: 'two\\nlines'"),
        ("asserts", 1, "task_raised", "AssertionError"),
        ("holds", None, "task_raised", "TypeError: the result holds a datetime.date, not JSON: return None, bool"),
        ("nan", None, "task_raised", "ValueError: Out of range float values are not JSON compliant"),
        ("keys", None, "task_raised", "TypeError: keys must be str, int, float, bool or None, not tuple"),
        ("loops", None, "task_raised", "ValueError: Circular reference detected"),
        ("large", None, "body_too_large", "the result is 6291458 bytes of JSON, at most 6291456 are allowed"),
        ("wrong", None, "task_raised", "TypeError: wrong() missing 1 required positional argument: 'c'"),
        ("nothing", None, "task_not_found", "no task 'req.nothing' here"),
    ],
)
@pytest.mark.parametrize("is_async", [False, True])
async def test_errors_are_replies_and_the_instance_goes_on(
    serve: Serve, name: str, event: object, code: str, message: str, is_async: bool
) -> None:
    line = await serve(BAD.replace("def " + name, "async def " + name) if is_async else BAD)
    error = await failure(line, f"req.{name}", event)
    assert error.code == code
    assert error.message.startswith(message)
    assert await line.ask("req", "still here") == "still here"


async def test_a_trace_shows_the_users_frames_only(serve: Serve) -> None:
    error = await failure(await serve(BAD), "req.raises", "thing")
    assert error.trace is not None
    assert next(text for text in error.trace.splitlines() if "File" in text).endswith("line 5, in raises")
    assert "in inner" in error.trace
    assert "gridnode" not in error.trace


async def test_a_child_that_a_handler_forked_does_not_answer(serve: Serve) -> None:
    line = await serve(BAD)
    assert await line.ask("req.forks") == "parent"
    assert await line.ask("req", 1) == 1


async def test_a_lone_surrogate_passes_escaped(serve: Serve) -> None:
    assert await (await serve(BAD)).ask("req.surrogate") == "\ud800"


SIGNATURES = """
import logging
def none(): return "none"
def one(event): return [event]
def two(event, context): return [event, context.task, context.attempt, context.invocation_id]
def default(event=5, retries=3): return [event, retries]
def named(event, context=None): return context.attempt
def star(*args): return len(args)
def time(event, context): return [context.deadline is None, context.remaining() if context.deadline else None]
def log(event, context):
    context.log.warning("hello %s", event)
    return isinstance(context.log, logging.Logger)
"""


async def test_what_a_handler_is_given(serve: Serve) -> None:
    line = await serve(SIGNATURES)
    meta = b'{"id":"0123","attempt":2}'
    assert await line.ask("req.none", 1) == "none"
    assert await line.ask("req.one") == [None]
    assert await line.ask("req.two", {"a": 1}, meta) == [{"a": 1}, "req.two", 2, "0123"]
    assert await line.ask("req.two", 1) == [1, "req.two", 1, ""]
    assert await line.ask("req.two", 1, b"garbage") == [1, "req.two", 1, ""]
    assert await line.ask("req.default", 1) == [1, 3]
    assert await line.ask("req.named", 1, meta) == 2
    assert await line.ask("req.star") == 2
    assert await line.ask("req.time") == [True, None]
    without, left = await line.ask("req.time", deadline_ms=5000)
    assert not without
    assert 4 < left <= 5
    assert await line.ask("req.log", "x") is True


async def test_bodies_that_are_no_json_and_ops_that_are_unknown(serve: Serve) -> None:
    line = await serve(BAD)
    for body in (b"{", b"\xff\xfe", b"[" * 100_000):
        line.send(Frame(Kind.CALL, 1, Op.INVOKE, name="req", body=body))
        with pytest.raises(GridError) as caught:
            line.result(await line.receive(), 1)
        assert caught.value.code == "body_invalid"
    line.send(Frame(Kind.CALL, 2, 999, name="req"))
    with pytest.raises(GridError, match="op 999"):
        line.result(await line.receive(), 2)
    line.send(Frame(Kind.EVENT, 0, Op.INVOKE))
    line.send(Frame(99, 0))
    line.send(Frame(Kind.PING, 77))
    assert (await line.receive())[:2] == (Kind.PONG, 77)


async def test_large_bodies_and_many_calls_at_once_keep_their_order(serve: Serve) -> None:
    line = await serve(BAD)
    large = "x" * (wire.MAX_CALL_BODY - 2)
    assert await line.ask("req", large) == large
    ids = [line.call("req", n) for n in range(1000)]
    for n, call_id in enumerate(ids):
        assert line.result(await line.receive(), call_id) == n


ASYNC = """
import asyncio
met = asyncio.Event()
cancelled = []
async def waits(event):
    try:
        await met.wait()
    except asyncio.CancelledError:
        cancelled.append(event)
        raise
    return "met"
async def meets(): met.set()
async def gives_up(): raise asyncio.CancelledError
def sync(event): return event
async def handler(): return cancelled
async def starts():
    asyncio.get_running_loop().call_later(0.05, met.set)
"""


async def test_async_calls_run_side_by_side(serve: Serve) -> None:
    line = await serve(ASYNC)
    waits = line.call("req.waits")
    assert await line.ask("req.sync", 1) == 1
    meets = line.call("req.meets")
    replies = {frame.call_id: json.loads(frame.body) for frame in [await line.receive(), await line.receive()]}
    assert replies == {waits: "met", meets: None}


async def test_cancel_ends_an_async_call_and_is_answered(serve: Serve) -> None:
    line = await serve(ASYNC)
    call_id = line.call("req.waits", "a")
    line.send(Frame(Kind.CANCEL, call_id))
    line.send(Frame(Kind.CANCEL, 12345))
    with pytest.raises(GridError, match="cancelled"):
        line.result(await line.receive(), call_id)
    assert await line.ask("req") == ["a"]
    assert (await failure(line, "req.gives_up")).message == "the call was cancelled"


async def test_background_jobs_of_a_task_live_on(serve: Serve) -> None:
    line = await serve(ASYNC)
    await line.ask("req.starts")
    assert await line.ask("req.waits") == "met"


@pytest.mark.parametrize("kind", ["def", "async def"])
async def test_a_lost_connection_is_dialled_again_with_the_state_kept(kind: str) -> None:
    place, sandbox = Place(NodeId("ab" * 20), "none"), ProcessSandbox()
    spec = place.spec(f"calls = []\n{kind} handler(event):\n    calls.append(event)\n    return calls\n")
    try:
        async with Listener(Path(spec.socket_dir)) as listener:
            await sandbox.start(spec)
            assert await (await listener.line()).ask("req", 1) == [1]
        async with Listener(Path(spec.socket_dir)) as listener:
            line = await listener.line()
            assert await line.ask("req", 2) == [1, 2]
            line.close()
            assert await (await listener.line()).ask("req", 3) == [1, 2, 3]
    finally:
        await sandbox.clean()
        place.remove()


def test_a_node_that_is_back_is_dialled_within_a_moment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pauses = [0.0]
    clock = SimpleNamespace(monotonic=lambda: sum(pauses), sleep=pauses.append)
    monkeypatch.setattr(python, "time", clock)
    assert python.dial(str(tmp_path / "nobody"), 30.0) is None
    assert max(pauses) == 0.2
    assert sum(pauses) >= 30.0


@pytest.mark.parametrize("kind", ["def", "async def"])
async def test_garbage_costs_the_connection_not_the_instance(kind: str) -> None:
    place, sandbox = Place(NodeId("ab" * 20), "none"), ProcessSandbox()
    spec = place.spec(f"{kind} handler(event):\n    return event\n")
    try:
        async with Listener(Path(spec.socket_dir)) as listener:
            await sandbox.start(spec)
            line = await listener.line()
            line._writer.write(b"\xff" * 64)
            assert await line.ended()
            assert await (await listener.line()).ask("req", 3) == 3
    finally:
        await sandbox.clean()
        place.remove()


async def test_print_goes_to_the_log_and_not_to_the_socket(serve: Serve) -> None:
    line = await serve("import sys\ndef handler(e):\n    print(e)\n    sys.stdout.write('no newline')\n    return e\n")
    assert await line.ask("req", "printed") == "printed"


async def test_imports_find_the_project_and_vendored_packages_but_hide_nothing_of_python(serve: Serve) -> None:
    files = {
        "shared.py": "x = 'root'",
        "tasks/beside.py": "x = 'beside'",
        "tasks/queue.py": "x = 'hidden'",
        "vendor/packed.py": "x = 'vendored'",
        "vendor/json.py": "raise ImportError",
        "gridnode.py": "x = 'theirs'",
    }
    source = (
        "import shared, beside, packed, queue, gridnode, tasks.beside, asyncio\n"
        "async def handler():\n"
        "    return [shared.x, beside.x, packed.x, hasattr(queue, 'SimpleQueue'), gridnode.x, __name__]\n"
    )
    line = await serve(source, "random", files)
    assert await line.ask("random") == ["root", "beside", "vendored", True, "theirs", "tasks.random"]


async def test_packages_of_a_deploy_are_those_for_this_python_on_this_machine(serve: Serve) -> None:
    tag = f"{sys.version_info.major}.{sys.version_info.minor}-{os.uname().machine}"
    files = {
        f".vendor/python/{tag}/packed.py": "x = 'ours'",
        f".vendor/python/{tag}/queue.py": "raise ImportError",
        f".vendor/python/{tag}/shared.py": "raise ImportError",
        ".vendor/python/2.7-vax/other.py": "",
        "shared.py": "x = 'the project itself'",
    }
    source = (
        "import importlib.util, packed, queue, shared\n"
        "def handler():\n"
        "    return [packed.x, shared.x, importlib.util.find_spec('other')]\n"
    )
    line = await serve(source, files=files)
    assert await line.ask("req") == ["ours", "the project itself", None]
