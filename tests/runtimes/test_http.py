"""What is the http runtime's own; what all runtimes have in common is in conformance.py."""

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridnode.model import NodeId
from gridnode.runtimes.exec import Fault
from gridnode.runtimes.http import headers
from gridnode.runtimes.http_program import start
from gridnode.runtimes.python_frames import Frame
from gridnode.wire import Frame as WireFrame
from gridnode.wire import Kind
from tests.fakes.process_sandbox import ProcessSandbox
from tests.runtimes.conformance import Serve, Subject, code_of, failure, opened, shows
from tests.runtimes.sources import http
from tests.sandbox.conformance import PATIENCE, Line, Place

RAW = """#!/usr/bin/env python3
import os, socket, threading, time
listener = socket.create_server(("127.0.0.1", int(os.environ["TASK_PORT"])))

def serve(connection):
    with connection, connection.makefile("rb") as lines:
        while lines.readline():
            size = 0
            while (line := lines.readline().lower().strip()):
                if line.startswith(b"content-length:"):
                    size = int(line.split(b":")[1])
            event = lines.read(size).decode()
            {0}

while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
"""
OK = "connection.sendall(b'HTTP/1.1 200 OK\\r\\nContent-Length: 4\\r\\n\\r\\nfine')"


@pytest.fixture
async def sandbox() -> AsyncIterator[ProcessSandbox]:
    sandbox = ProcessSandbox()
    yield sandbox
    await sandbox.clean()


@pytest.fixture
async def serve(sandbox: ProcessSandbox) -> AsyncIterator[Serve]:
    place = Place(NodeId("ab" * 20), "none")
    async with opened(place, sandbox, {"http": "none"}) as start:
        yield start
    place.remove()


def subject(*lines: str, before: str = "") -> Subject:
    return Subject("http", http(*lines, before=before))


def raw(*lines: str) -> Subject:
    """A server that is no library's: what it does with a request whose argument is `event`, in JSON."""
    return Subject("http", RAW.format(("\n" + " " * 12).join(lines)))


def program(directory: Path, source: str) -> str:
    (directory / "x").write_text(source)
    (directory / "x").chmod(0o755)
    return "x"


def test_a_program_that_ends_before_it_listens_is_told_with_its_output(tmp_path: Path) -> None:
    file = program(tmp_path, "#!/bin/sh\necho 'no such table'\necho 'giving up' >&2\nexit 4\n")
    with pytest.raises(Fault, match="exited with code 4 before it listened") as caught:
        start(str(tmp_path), file, PATIENCE)
    assert "no such table" in str(caught.value.trace)
    assert "giving up" in str(caught.value.trace)


def test_a_program_that_never_listens_is_ended_and_told(tmp_path: Path) -> None:
    file = program(tmp_path, "#!/bin/sh\necho $$ >pid\necho 'still warming up'\nexec sleep 1000\n")
    before, directory = os.getcwd(), tmp_path
    os.chdir(directory)
    try:
        with pytest.raises(Fault, match="does not listen") as caught:
            start(str(tmp_path), file, 1.0)
    finally:
        os.chdir(before)
    assert "still warming up" in str(caught.value.trace)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_a_binary_that_the_kernel_refuses_is_told(tmp_path: Path) -> None:
    with pytest.raises(Fault, match="Exec format error"):
        start(str(tmp_path), program(tmp_path, "\x7fELF"), 1.0)


@given(st.binary(max_size=400), st.binary(max_size=400))
def test_no_garbage_of_a_call_makes_a_header_of_its_own(name: bytes, meta: bytes) -> None:
    for wrapped in (meta, json.dumps({"id": meta.decode(errors="replace"), "attempt": name.hex()}).encode()):
        for value in headers(Frame(2, 1, 1, 5, name, wrapped, b"")).values():
            assert value.isascii()
            assert "\r" not in value
            assert "\n" not in value
            assert len(value) <= 200


async def test_connections_are_kept_from_call_to_call(serve: Serve) -> None:
    source = raw("calls[0] += 1", OK.replace("b'HTTP", "f'HTTP").replace("fine'", "{calls[0]:04}'.encode()"))
    source = Subject("http", source.source.replace("with connection,", "calls = [0]\n    with connection,"))
    line = await (await serve(source)).line()
    assert [await line.ask("req") for _ in range(3)] == ["0001", "0002", "0003"]


async def test_a_program_may_close_the_connection_after_every_answer(serve: Serve) -> None:
    line = await (await serve(raw(OK, "break"))).line()
    assert [await line.ask("req", n) for n in range(20)] == ["fine"] * 20


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("b'no http at all\\r\\n\\r\\n'", "no http"),
        ("b'HTTP/1.1 200 OK\\r\\nContent-Length: 10\\r\\n\\r\\nfour'", "IncompleteRead"),
        ("b'HTTP/1.1 200 OK\\r\\n' + b'A: b\\r\\n' * 1000 + b'\\r\\n'", "100 headers"),
        ("b'HTTP/1.1 200 OK\\r\\nTransfer-Encoding: chunked\\r\\n\\r\\nzz\\r\\n'", "no answer"),
        ("b''", "Remote end closed"),
        ("b'HTTP/1.1 ' + b'2' * 100000", "status line"),
    ],
)
async def test_an_answer_that_is_no_http_is_an_error_of_the_call(serve: Serve, answer: str, said: str) -> None:
    line = await (await serve(raw("if event == '1':", f"    connection.sendall({answer})", "    break", OK))).line()
    error = await failure(line, event=1)
    assert error.code == "task_raised"
    assert said in error.message
    assert await line.ask("req", 2) == "fine"


async def test_only_the_end_of_an_errors_body_is_told(serve: Serve) -> None:
    line = await (await serve(subject("return 503, 'x' * 3_000_000 + 'overloaded'"))).line()
    error = await failure(line)
    assert error.message == "HTTP 503 Service Unavailable"
    assert str(error.trace).endswith("overloaded")
    assert len(str(error.trace)) <= 8192


async def test_a_redirect_is_not_followed(serve: Serve) -> None:
    line = await (await serve(subject("return 302, 'elsewhere'"))).line()
    assert (await failure(line)).message == "HTTP 302 Found"


async def test_an_answer_without_end_ends_with_its_deadline(serve: Serve) -> None:
    endless = "connection.sendall(b'HTTP/1.1 100 Continue\\r\\n\\r\\n')"
    line = await (await serve(raw("while event == '1':", f"    {endless}", OK))).line()
    call = line.call("req", 1, deadline_ms=300)
    assert code_of(await line.receive()) == "timeout"
    assert await line.ask("req", 2) == "fine"
    assert call


async def test_a_call_given_up_frees_its_place(serve: Serve) -> None:
    source = subject("if event == 'hang':", "    threading.Event().wait()", "return 200, json.dumps(event)")
    line = await (await serve(source, concurrency=2)).line()
    for _ in range(5):
        calls = [line.call("req", "hang") for _ in range(2)]
        for call in calls:
            line.send(WireFrame(Kind.CANCEL, call))
        for _ in calls:
            assert code_of(await line.receive()) == "call"
        assert await line.ask("req", "next") == "next"


async def test_the_instance_ends_as_the_program_does(serve: Serve, sandbox: ProcessSandbox) -> None:
    served = await serve(subject("print('last words')", "os._exit(event)"))
    line = await served.line()
    (instance,) = await sandbox.running()
    line.call("req", 7)
    assert await line.ended()
    end = await sandbox.wait(instance)
    assert end.code == 7
    assert "last words" in end.log


async def test_a_program_that_is_killed_is_told_as_such(serve: Serve, sandbox: ProcessSandbox) -> None:
    line = await (await serve(subject("os.kill(os.getpid(), 9)"))).line()
    (instance,) = await sandbox.running()
    line.call("req")
    assert await line.ended()
    assert (await sandbox.wait(instance)).code == 128 + signal.SIGKILL


async def test_it_is_asked_to_end_and_may_finish(serve: Serve, sandbox: ProcessSandbox) -> None:
    finish = "signal.signal(signal.SIGTERM, lambda *_: (print('finished', flush=True), os._exit(0)))"
    served = await serve(subject("return 200, str(os.getpid())", before=f"import signal\n{finish}"))
    line = await served.line()
    pid = await line.ask("req")
    (instance,) = await sandbox.running()
    process = sandbox._children[instance].process
    process.terminate()
    assert (await sandbox.wait(instance)).code == 0
    assert await shows(served, "finished")
    assert await _has_ended(pid)


async def test_no_program_outlives_its_runtime(serve: Serve, sandbox: ProcessSandbox) -> None:
    line = await (await serve(subject("return 200, str(os.getpid())"))).line()
    pid = await line.ask("req")
    (instance,) = await sandbox.running()
    sandbox._children[instance].process.kill()
    await sandbox.wait(instance)
    assert await _has_ended(pid)


async def test_a_flood_of_output_holds_up_no_call(serve: Serve) -> None:
    source = subject("print('x' * 3_000_000)", "return 200, json.dumps(event)")
    line = await (await serve(source)).line()
    assert [await line.ask("req", n) for n in range(3)] == [0, 1, 2]


async def test_it_sees_its_port_and_no_socket_of_ours(serve: Serve) -> None:
    line = await (await serve(subject("return 200, json.dumps(sorted(os.environ))"))).line()
    names = await line.ask("req")
    assert {"TASK_PORT", "GRID_TASK", "GRID_NODE", "GRID_INSTANCE"} <= set(names)
    assert "GRID_SOCKET" not in names


HEALTH = RAW.replace("while lines.readline():", "while request := lines.readline():")


async def test_whether_it_is_well_is_asked_beside_the_calls(serve: Serve) -> None:
    answer = (
        "status = 200 if request.startswith(b'GET /well ') else 500\n"
        "            if request.startswith(b'POST'): time.sleep(1000)\n"
        "            connection.sendall(b'HTTP/1.1 %d x\\r\\nContent-Length: 2\\r\\n\\r\\nno' % status)"
    )
    source = Subject("http", HEALTH.format(answer))
    line = await (await serve(source, concurrency=1, health="/well")).line()
    hangs = line.call("req")
    assert await line.ask("req:health") is True
    line.send(WireFrame(Kind.CANCEL, hangs))
    assert code_of(await line.receive()) == "call"
    ill = await (await serve(source, concurrency=1, health="/ill")).line()
    assert (await failure(ill, "req:health")).message == "HTTP 500 x"
    without: Line = await (await serve(source)).line()
    assert (await failure(without, "req:health")).code == "task_not_found"


async def _has_ended(pid: int) -> bool:
    """Within the time that a loaded machine needs."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if _is_gone(pid):
            return True
        await asyncio.sleep(0.02)
    return False


def _is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True
