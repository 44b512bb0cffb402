"""The http runtime: starts one executable file of a project, which serves HTTP, and keeps it. Standard library only.

The program listens on 127.0.0.1:$TASK_PORT, in the sandbox's own network, where nobody else can reach it. Every call
is a POST of its argument as JSON; the answer's body is the result, as JSON or else as a string. The sandbox lives as
long as the program does.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, HTTPException, HTTPResponse, IncompleteRead
from types import ModuleType

HERE = os.path.dirname(os.path.abspath(__file__))

if __name__ == "__main__":  # by path: what lies beside this file is our package here, and nothing else
    for name, places in (("gridnode", []), ("gridnode.runtimes", [HERE])):
        sys.modules[name] = ModuleType(name)
        sys.modules[name].__path__ = places
from gridnode.runtimes.exec import MAX_TAIL, check_call, hello_of, offer_packages, result  # noqa: E402
from gridnode.runtimes.http_program import ENDS_WITHIN, Program, start  # noqa: E402
from gridnode.runtimes.python import CONCURRENCY, Fault, pack_error, refuse  # noqa: E402
from gridnode.runtimes.python_async import Connection, Turn, keep_serving  # noqa: E402
from gridnode.runtimes.python_frames import MAX_BODY, OP_INVOKE, REPLY, Frame, pack, read_meta  # noqa: E402

LIMIT = CONCURRENCY or 16
ASKED_AT_ONCE = 2
"""Questions whether the program is well, which wait for no call."""
CONNECTS_WITHIN = 5.0
HEALTH = b":health"
HEALTH_PATH = os.environ.get("GRID_HEALTH", "")
MAX_HEADER = 200


class Exchange:
    """One request and its answer, which `abort` ends from another thread."""

    def __init__(self, line: Line, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> None:
        self._line = line
        self._request = (method, path, body, headers)
        self._lock = threading.Lock()
        self._sock: socket.socket | None = None
        self._is_aborted = False

    def run(self) -> bytes:
        """The body of a 2xx answer; Fault for others, OSError and HTTPException when there is none."""
        connection = self._line.take()
        can_go_on = False
        try:
            self._hold(connection)
            with contextlib.suppress(BrokenPipeError):  # it may have answered without reading all of it
                self._connected(connection).request(*self._request)
            response = connection.getresponse()
            answer = response.read(MAX_BODY + 1)
            if response.length and len(answer) <= MAX_BODY:
                raise IncompleteRead(answer, response.length)
            can_go_on = response.isclosed() and self._let_go()
            return _body(response, answer)
        finally:
            self._let_go()
            self._line.give(connection, can_go_on)

    def abort(self) -> None:
        with self._lock:
            self._is_aborted = True
            if self._sock:
                with contextlib.suppress(OSError):
                    self._sock.shutdown(socket.SHUT_RDWR)

    def _connected(self, connection: HTTPConnection) -> HTTPConnection:
        if connection.sock is None:
            sock = socket.create_connection((connection.host, connection.port), CONNECTS_WITHIN)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.settimeout(None)
            connection.sock = sock
            self._hold(connection)
        return connection

    def _hold(self, connection: HTTPConnection) -> None:
        with self._lock:
            if self._is_aborted:
                raise ConnectionAbortedError("the call was given up")
            self._sock = connection.sock

    def _let_go(self) -> bool:
        """Whether the connection may serve another call, which nobody can then abort by this one."""
        with self._lock:
            self._sock = None
            return not self._is_aborted


def _body(response: HTTPResponse, answer: bytes) -> bytes:
    if not 200 <= response.status < 300:
        said = f"HTTP {response.status} {response.reason}".strip()
        raise Fault("task_raised", said, answer[-MAX_TAIL:].decode(errors="replace") or None)
    if len(answer) > MAX_BODY:
        raise Fault("body_too_large", f"the program answered with more than {MAX_BODY} bytes")
    return answer


class Line:
    """Connections to the program's port, kept open from one call to the next."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._idle: list[HTTPConnection] = []

    def take(self) -> HTTPConnection:
        """An open one on which nothing came since, or a new one: what the program has closed would lose a call."""
        while self._idle:
            connection = self._idle.pop()
            if connection.sock and not select.select([connection.sock], [], [], 0)[0]:
                return connection
            connection.close()
        return HTTPConnection("127.0.0.1", self._port)

    def give(self, connection: HTTPConnection, can_go_on: bool) -> None:
        if can_go_on and connection.sock and len(self._idle) < LIMIT:
            self._idle.append(connection)
        else:
            connection.close()


class HttpConnection(Connection):
    """Turns calls into requests to the program."""

    def __init__(self, writer: asyncio.StreamWriter, program: Program, line: Line, threads: ThreadPoolExecutor) -> None:
        super().__init__(writer, LIMIT)
        self._program, self._line, self._threads = program, line, threads
        self._task = os.environ["GRID_TASK"]

    def turn(self, frame: Frame) -> Turn:
        return contextlib.nullcontext() if self._is_question(frame) else super().turn(frame)

    def _is_question(self, frame: Frame) -> bool:
        return bool(HEALTH_PATH) and frame.name == self._task.encode() + HEALTH

    async def reply(self, frame: Frame) -> bytes:
        try:
            if frame.op == OP_INVOKE and self._is_question(frame):
                await self._run(Exchange(self._line, "GET", HEALTH_PATH, None, {}), frame)
                return pack(REPLY, frame.call_id, b"true")
            return pack(REPLY, frame.call_id, result(await self._call(frame)))
        except Fault as fault:
            return pack_error(frame.call_id, fault)

    async def _call(self, frame: Frame) -> bytes:
        check_call(frame, self._task)
        return await self._run(Exchange(self._line, "POST", "/", frame.body or b"null", headers(frame)), frame)

    async def _run(self, exchange: Exchange, frame: Frame) -> bytes:
        work = self._threads.submit(exchange.run)
        try:
            async with asyncio.timeout(frame.deadline_ms / 1000 if frame.deadline_ms else None):
                return await asyncio.wrap_future(work)
        except TimeoutError:
            raise Fault("timeout", "given up: no answer before the deadline") from None
        except (OSError, HTTPException, ValueError) as exc:
            raise await self._lost(exc) from exc
        finally:
            exchange.abort()

    async def _lost(self, exc: Exception) -> Fault:
        """Without an answer from a program that has ended: what becomes of the call is then the node's to say."""
        if await asyncio.to_thread(self._program.has_ended, ENDS_WITHIN):
            await asyncio.sleep(3 * ENDS_WITHIN)
        why = str(exc) or type(exc).__name__
        return Fault("task_raised", f"the program gave no answer: {why}", self._program.tail)


def headers(frame: Frame) -> dict[str, str]:
    """What the program may know of its call. X-Grid-Deadline: unix seconds."""
    meta = read_meta(frame.meta)
    given = {
        "Content-Type": "application/json",
        "X-Grid-Task": frame.name.decode(errors="replace"),
        "X-Grid-Invocation-Id": str(meta.get("id", "")),
        "X-Grid-Attempt": str(meta.get("attempt", 1)),
    }
    if frame.deadline_ms:
        given["X-Grid-Deadline"] = f"{time.time() + frame.deadline_ms / 1000:.3f}"
    return {name: _plain(value) for name, value in given.items()}


def _plain(value: str) -> str:
    return "".join(one for one in value[:MAX_HEADER] if one.isascii() and one.isprintable())


def main() -> None:
    """Serve until the program ends, or nobody has listened for a long time."""
    path, task = os.environ["GRID_SOCKET"], os.environ["GRID_TASK"]
    root = os.environ.get("GRID_ROOT", "/task")
    offer_packages(root)
    try:
        program = start(root, os.environ["GRID_FILE"])
    except Fault as fault:
        refuse(path, fault)
        sys.exit(1)
    signal.signal(signal.SIGTERM, lambda *_: program.terminate())
    threading.Thread(target=program.follow, daemon=True).start()
    threads = ThreadPoolExecutor(LIMIT + ASKED_AT_ONCE)
    hello, line = hello_of(task, LIMIT), Line(program.port)
    asyncio.run(keep_serving(path, hello, lambda writer: HttpConnection(writer, program, line, threads)))
    program.kill()
    sys.exit(1)


if __name__ == "__main__":
    main()
