"""`grid` inside a task file: the runtime in a child process, the test is its node."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from gridnode import wire
from gridnode.errors import CallTimeout, Forbidden, GridError, TaskRaised
from gridnode.model import NodeId
from gridnode.wire import Frame, Kind, Op
from tests.fakes.process_sandbox import ProcessSandbox
from tests.sandbox.conformance import Line, Listener, Place

Serve = Callable[..., Awaitable[Line]]
FORMS = [
    "def handler(event):\n    return invoke({})\n",
    "async def handler(event):\n    return await invoke_async({})\n",
]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    place, sandbox = Place(NodeId("ab" * 20), "none"), ProcessSandbox()

    async def start(source: str, files: dict[str, str] | None = None) -> Line:
        spec = place.spec("from grid import *\nimport grid\n" + source)
        for name, text in (files or {}).items():
            (Path(spec.release_dir) / name).write_text(text)
        listener = await listeners.enter_async_context(Listener(Path(spec.socket_dir)))
        await sandbox.start(spec)
        return await listener.line()

    async with AsyncExitStack() as listeners:
        yield start
    await sandbox.clean()
    place.remove()


async def nested(line: Line, parent: int) -> Frame:
    """The next frame, which must be a call on behalf of `parent`."""
    frame = await line.receive()
    assert (frame.kind, frame.op, json.loads(frame.meta)) == (Kind.CALL, Op.INVOKE, {"parent": parent})
    return frame


def answer(line: Line, frame: Frame, result: object) -> None:
    failed = isinstance(result, GridError)
    body = wire.encode_error(result) if isinstance(result, GridError) else json.dumps(result).encode()
    line.send(Frame(Kind.REPLY, frame.call_id, 0, wire.FLAG_ERROR if failed else 0, 0, "", b"", body))


async def error(line: Line, call_id: int) -> GridError:
    with pytest.raises(GridError) as caught:
        line.result(await line.receive(), call_id)
    return caught.value


@pytest.mark.parametrize("form", FORMS)
async def test_a_task_calls_a_task(serve: Serve, form: str) -> None:
    line = await serve(form.format("'words', {'n': event}, timeout=2.5"))
    call_id = line.call("req", 7)
    frame = await nested(line, call_id)
    assert (frame.name, json.loads(frame.body), frame.deadline_ms) == ("words", {"n": 7}, 2500)
    answer(line, frame, ["é"])
    assert line.result(await line.receive(), call_id) == ["é"]


@pytest.mark.parametrize("form", FORMS)
async def test_without_argument_and_timeout_nothing_is_sent_of_them(serve: Serve, form: str) -> None:
    line = await serve(form.format("'words'"))
    call_id = line.call("req", 7)
    frame = await nested(line, call_id)
    assert (frame.body, frame.deadline_ms) == (b"", 0)
    answer(line, frame, None)
    assert line.result(await line.receive(), call_id) is None


async def test_calls_that_arrive_meanwhile_wait_and_pings_do_not(serve: Serve) -> None:
    line = await serve("def handler(event):\n    return invoke('words', event)\n")
    first = line.call("req", 1)
    one = await nested(line, first)
    second, third, fourth = line.call("req", 2), line.call("req", 3), line.call("req", 4)
    line.send(Frame(Kind.CANCEL, third))
    line.send(Frame(Kind.PING, 0))
    assert (await error(line, third)).code == "call"
    assert (await line.receive()).kind == Kind.PONG
    answer(line, one, "one")
    assert line.result(await line.receive(), first) == "one"
    for call_id, result in ((second, "two"), (fourth, "four")):
        answer(line, await nested(line, call_id), result)
        assert line.result(await line.receive(), call_id) == result


async def test_async_calls_go_on_side_by_side(serve: Serve) -> None:
    source = "import asyncio\nasync def handler(n):\n    calls = (invoke_async('w', i) for i in range(n))\n"
    line = await serve(source + "    return await asyncio.gather(*calls)\n")
    call_id = line.call("req", 3)
    frames = [await nested(line, call_id) for _ in range(3)]
    for frame in reversed(frames):
        answer(line, frame, json.loads(frame.body) * 10)
    assert line.result(await line.receive(), call_id) == [0, 10, 20]


async def test_sync_handlers_of_an_async_file_call_from_their_thread(serve: Serve) -> None:
    line = await serve("def handler(event):\n    return invoke('w', event)\nasync def other(): pass\n")
    call_id = line.call("req", 5)
    frame = await nested(line, call_id)
    assert await line_answers_other(line)
    answer(line, frame, "five")
    assert line.result(await line.receive(), call_id) == "five"


async def line_answers_other(line: Line) -> bool:
    return await line.ask("req.other") is None


@pytest.mark.parametrize("form", FORMS)
async def test_errors_are_typed_and_carry_the_remote_traceback(serve: Serve, form: str) -> None:
    line = await serve(form.format("'words', event"))
    call_id = line.call("req", 1)
    answer(line, await nested(line, call_id), TaskRaised("ValueError: no", trace="Traceback: far away, line 9"))
    told = await error(line, call_id)
    assert (told.code, told.message) == ("task_raised", "TaskRaised: ValueError: no")
    assert told.trace
    assert "far away, line 9" in told.trace
    assert told.trace.index("far away") < told.trace.index("grid.TaskRaised")


@pytest.mark.parametrize(
    ("given", "name"),
    [
        (TaskRaised("x"), "TaskRaised"),
        (CallTimeout("x"), "CallTimeout"),
        (Forbidden("x", hint="h"), "Forbidden"),
        (GridError("x"), "TaskError"),
    ],
)
async def test_a_handler_tells_errors_apart(serve: Serve, given: GridError, name: str) -> None:
    source = "def handler(event):\n    try:\n        invoke('w')\n    except TaskError as e:\n"
    line = await serve(source + "        return [type(e).__name__, e.code, e.message, e.hint]\n")
    call_id = line.call("req", 1)
    answer(line, await nested(line, call_id), given)
    assert line.result(await line.receive(), call_id) == [name, given.code, "x", given.hint]


@pytest.mark.parametrize("body", [b"", b"\xff", b"[]", b"{}", b'{"code":1}', b"null", b"[" * 9999])
async def test_an_error_that_cannot_be_read_is_one(serve: Serve, body: bytes) -> None:
    line = await serve(
        "def handler(event):\n    try:\n        invoke('w')\n    except TaskError as e:\n        return e.code\n"
    )
    call_id = line.call("req", 1)
    frame = await nested(line, call_id)
    line.send(Frame(Kind.REPLY, frame.call_id, 0, wire.FLAG_ERROR, 0, "", b"", body))
    assert line.result(await line.receive(), call_id) == "call"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("''", "ValueError: '' is no task's name"),
        ("'w' * 300", "ValueError:"),
        ("'w', timeout=0", "ValueError: a timeout of 0 s makes no sense"),
        ("'w', timeout=float('nan')", "ValueError:"),
        ("'w', {1, 2}", "TypeError:"),
        ("'w', float('nan')", "ValueError:"),
        ("'w', 'x' * 7_000_000", "BodyTooLarge: w: the argument is"),
    ],
)
@pytest.mark.parametrize("form", FORMS)
async def test_what_cannot_be_sent_raises_here(serve: Serve, form: str, arguments: str, message: str) -> None:
    line = await serve(form.format(arguments))
    assert (await error(line, line.call("req", 1))).message.startswith(message)


async def test_a_cancelled_sync_handler_gets_out_of_its_call(serve: Serve) -> None:
    source = "def handler(event):\n    try:\n        return invoke('w')\n    except TaskError as e:\n"
    line = await serve(source + "        return e.message\ndef other(): return 'still here'\n")
    call_id = line.call("req", 1)
    frame = await nested(line, call_id)
    line.send(Frame(Kind.CANCEL, call_id))
    assert ((await line.receive()).kind, frame.kind) == (Kind.CANCEL, Kind.CALL)
    assert "nobody waits" in line.result(await line.receive(), call_id)
    answer(line, frame, "too late")
    assert await line.ask("req.other") == "still here"


async def test_a_cancelled_async_handler_takes_its_calls_back(serve: Serve) -> None:
    line = await serve(FORMS[1].format("'w'"))
    call_id = line.call("req", 1)
    frame = await nested(line, call_id)
    line.send(Frame(Kind.CANCEL, call_id))
    cancelled = await line.receive()
    assert (cancelled.kind, cancelled.call_id) == (Kind.CANCEL, frame.call_id)
    assert (await error(line, call_id)).code == "call"


async def test_context_is_that_of_the_call(serve: Serve) -> None:
    source = (
        "def handler(event):\n    c = context\n    return [c.invocation_id, c.task, c.attempt, c.node, c.remaining()]\n"
    )
    for more in ("", "async def other():\n    return [context.invocation_id, context.task]\n"):
        line = await serve(source + more)
        found = await line.ask("req", 1, b'{"id":"abc","attempt":2}', deadline_ms=9000)
        assert found[:4] == ["abc", "req", 2, "attic"]
        assert 5 < found[4] <= 9
    assert await line.ask("req.other", meta=b'{"id":"d"}') == ["d", "req.other"]


async def test_nothing_works_while_no_call_is_served(serve: Serve) -> None:
    source = "failures = []\nfor action in (lambda: invoke('w'), lambda: context.task):\n    try:\n        action()\n"
    source += "    except RuntimeError as e:\n        failures.append(str(e))\ndef handler(event): return failures\n"
    found: Any = await (await serve(source)).ask("req")
    assert ["being served" in text for text in found] == [True, True]


async def test_only_the_handlers_thread_may_call_in_a_sync_file(serve: Serve) -> None:
    source = "from concurrent.futures import ThreadPoolExecutor\ndef handler(event):\n"
    source += "    with ThreadPoolExecutor(1) as threads:\n        return threads.submit(invoke, 'w').result()\n"
    assert "thread" in (await error(line := await serve(source), line.call("req"))).message


async def test_a_forked_child_cannot_write_to_the_nodes_socket(serve: Serve) -> None:
    source = "import os\ndef handler(event):\n    if not (pid := os.fork()):\n        try:\n            invoke('w')\n"
    source += "        except RuntimeError:\n            os._exit(42)\n        os._exit(0)\n"
    source += "    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])\n"
    assert await (await serve(source)).ask("req") == 42


async def test_sync_invoke_in_an_async_handler_says_what_to_do(serve: Serve) -> None:
    line = await serve("async def handler(event):\n    return invoke('w')\n")
    assert "await grid.invoke_async" in (await error(line, line.call("req"))).message


async def test_a_projects_own_grid_module_wins(serve: Serve) -> None:
    line = await serve("def handler(event):\n    return grid.MINE\n", {"grid.py": "MINE = 'mine'\n"})
    assert await line.ask("req") == "mine"


async def test_what_is_imported_is_no_task(serve: Serve) -> None:
    line = await serve("from grid import invoke, invoke_async, context, log\ndef get(event): return 1\n")
    assert [handler["name"] for handler in line.hello["handlers"]] == ["req.get", "req"]


@pytest.mark.parametrize("more", ["", "async def other(): pass\n"])
async def test_a_lost_connection_is_an_error_and_the_runtime_comes_back(
    serve: Serve, more: str, tmp_path: Path
) -> None:
    written = tmp_path / "code"
    body = FORMS[0].format("'w'").replace("    return", "    try:\n        return")
    line = await serve(body + f"    except TaskError as e:\n        open({str(written)!r}, 'w').write(e.code)\n{more}")
    await nested(line, line.call("req"))
    line.close()
    deadline = asyncio.get_running_loop().time() + 20
    while not (written.exists() and written.read_text()):
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.01)
    assert written.read_text() == "link_closed"
