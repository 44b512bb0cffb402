"""What every Sandbox backend must do, with the real runtime inside. A backend's test module subclasses the suite."""

import asyncio
import itertools
import json
import secrets
import shutil
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

from gridnode import wire
from gridnode.errors import GridError, SandboxError
from gridnode.model import InstanceId, NodeId
from gridnode.sandbox import Output, Sandbox, SandboxSpec
from gridnode.sandbox.runtime_files import lay_out
from gridnode.wire import Frame, Kind, Op

PATIENCE = 20.0
ECHO = "def handler(event):\n    return event\n"


class Line:
    """The node's end of one runtime's connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._ids = itertools.count(1)
        self.hello: dict[str, Any] = {}

    async def greet(self) -> None:
        self._writer.write(wire.encode(Frame(Kind.HELLO, 0, body=b'{"version":1}')))
        frame = await self.receive()
        assert frame.kind == Kind.HELLO
        self.hello = json.loads(frame.body)

    def send(self, frame: Frame) -> None:
        self._writer.write(wire.encode(frame))

    def call(self, name: str, event: object = None, meta: bytes = b"", deadline_ms: int = 0, flags: int = 0) -> int:
        """Send a call; its id."""
        call_id = next(self._ids)
        body = b"" if event is None else json.dumps(event).encode()
        self.send(Frame(Kind.CALL, call_id, Op.INVOKE, flags, deadline_ms, name, meta, body))
        return call_id

    async def receive(self) -> Frame:
        async with asyncio.timeout(PATIENCE):
            head = await self._reader.readexactly(wire.HEADER_SIZE)
            rest = await self._reader.readexactly(wire.needed(memoryview(head)) - wire.HEADER_SIZE)
        return wire.decode(memoryview(head + rest))

    async def ask(self, name: str, event: object = None, meta: bytes = b"", deadline_ms: int = 0) -> Any:
        """Call and wait: the result, or raises the reply's error."""
        call_id = self.call(name, event, meta, deadline_ms)
        return self.result(await self.receive(), call_id)

    def result(self, frame: Frame, call_id: int) -> Any:
        assert (frame.kind, frame.call_id) == (Kind.REPLY, call_id)
        if frame.flags & wire.FLAG_ERROR:
            raise wire.decode_error(frame.body)
        return json.loads(frame.body)

    async def ended(self) -> bool:
        """Wait until the runtime closed the connection."""
        async with asyncio.timeout(PATIENCE):
            try:
                return await self._reader.read() == b""
            except ConnectionError:
                return True

    def close(self) -> None:
        self._writer.close()


class Listener:
    """The node's socket of one instance, as the pool makes it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._lines: asyncio.Queue[Line] = asyncio.Queue()
        self._all: list[Line] = []
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        path = self.directory / "grid.sock"
        path.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._accepted, str(path))
        path.chmod(0o666)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server
        self._server.close()
        for line in self._all:
            line.close()
        await self._server.wait_closed()

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = Line(reader, writer)
        self._all.append(line)
        self._lines.put_nowait(line)

    async def line(self) -> Line:
        """The next connection, greeted."""
        async with asyncio.timeout(PATIENCE):
            line = await self._lines.get()
            await line.greet()
        return line


class Place:
    """Directories and specs for the instances of one test."""

    def __init__(self, node: NodeId, image: str) -> None:
        self.node, self.image = node, image
        self.root = Path(tempfile.mkdtemp(prefix="grid-", dir="/tmp"))
        self.root.chmod(0o755)
        self.runtimes = lay_out(self.root / "runtimes")

    def spec(self, source: str, task: str = "req", memory: int = 96 * 1024 * 1024, **fields: Any) -> SandboxSpec:
        """A project of one file with this source, and an instance to serve it."""
        instance = InstanceId(secrets.token_hex(4))
        release, sockets = self.root / f"release-{instance}", self.root / instance
        (release / "tasks").mkdir(parents=True)
        sockets.mkdir()
        (release / "tasks" / f"{task}.py").write_text(source)
        given: dict[str, Any] = {
            "instance": instance,
            "node": self.node,
            "node_name": "attic",
            "grid": "conformance",
            "release": "ab" * 32,
            "task": task,
            "file": f"tasks/{task}.py",
            "runtime": "python",
            "image": self.image,
            "release_dir": str(release),
            "socket_dir": str(sockets),
            "runtimes_dir": str(self.runtimes),
            "memory": memory,
            "cpu": 1.0,
            "tmp_size": 16 * 1024 * 1024,
        }
        return SandboxSpec(**(given | fields))

    def remove(self) -> None:
        shutil.rmtree(self.root, ignore_errors=True)


async def _logs_ending(sandbox: Sandbox, instance: InstanceId, end: str) -> str:
    """The last 3 lines, once the backend has taken in the one that ends with `end`."""
    deadline = asyncio.get_running_loop().time() + PATIENCE
    text = ""
    while not text.endswith(end) and asyncio.get_running_loop().time() < deadline:
        text = await sandbox.logs(instance, 3)
    return text


async def _lines_after(sandbox: Sandbox, instance: InstanceId, since: int, count: int) -> list[Output]:
    """The lines later than `since`, once the backend has taken in as many as are expected."""
    deadline = asyncio.get_running_loop().time() + PATIENCE
    lines: list[Output] = []
    while len(lines) < count and asyncio.get_running_loop().time() < deadline:
        lines = await sandbox.log_lines(instance, since, 1000)
    return lines


class SandboxConformance:
    """Needs the fixtures `sandbox`, `again` (a second backend object for the same node), and `place`."""

    async def test_an_instance_says_hello_and_answers(self, sandbox: Sandbox, place: Place) -> None:
        spec = place.spec(ECHO + "async def other(event, context):\n    return [context.node, context.instance]\n")
        async with Listener(Path(spec.socket_dir)) as listener:
            await sandbox.start(spec)
            line = await listener.line()
            assert line.hello == {
                "version": 1,
                "handlers": [{"name": "req", "concurrency": 1}, {"name": "req.other", "concurrency": 64}],
            }
            assert await line.ask("req", {"a": [1, "é"]}) == {"a": [1, "é"]}
            assert await line.ask("req.other") == [spec.node_name, spec.instance]

    async def test_an_exit_has_its_code_and_last_lines(self, sandbox: Sandbox, place: Place) -> None:
        spec = place.spec("import os\ndef handler(event):\n    print('going')\n    os._exit(7)\n")
        async with Listener(Path(spec.socket_dir)) as listener:
            await sandbox.start(spec)
            waiting = asyncio.ensure_future(sandbox.wait(spec.instance))
            line = await listener.line()
            assert not waiting.done()
            line.call("req")
            assert await line.ended()
            async with asyncio.timeout(PATIENCE):
                end = await waiting
            assert (end.code, end.oom) == (7, False)
            assert end.log.splitlines() == ["going"]
            assert (await sandbox.wait(spec.instance)).code == 7
            assert await sandbox.running() == [spec.instance]

    async def test_an_import_error_is_told_and_ends_it(self, sandbox: Sandbox, place: Place) -> None:
        spec = place.spec("import nothing_like_it\n")
        async with Listener(Path(spec.socket_dir)) as listener:
            await sandbox.start(spec)
            line = await listener.line()
            assert line.hello["error"]["message"].startswith("ModuleNotFoundError")
            line.close()
            async with asyncio.timeout(PATIENCE):
                end = await sandbox.wait(spec.instance)
            assert end.code == 1
            assert "nothing_like_it" in end.log

    async def test_logs_are_the_last_lines(self, sandbox: Sandbox, place: Place) -> None:
        spec = place.spec("def handler(event):\n    for n in range(event):\n        print('line', n)\n")
        async with Listener(Path(spec.socket_dir)) as listener:
            await sandbox.start(spec)
            line = await listener.line()
            await line.ask("req", 5000)
            text = await _logs_ending(sandbox, spec.instance, "line 4999\n")
            assert text.splitlines() == ["line 4997", "line 4998", "line 4999"]
            assert len(await sandbox.logs(spec.instance, 10**9)) <= 64 * 1024

    async def test_lines_have_a_time_and_a_stream_and_are_the_newest(self, sandbox: Sandbox, place: Place) -> None:
        source = "import sys\ndef handler(event):\n    for n in range(event):\n        print('line', n)\n"
        source += "    print('x' * 20_000, file=sys.stderr)\n"
        spec = place.spec(source)
        began = time.time_ns()
        async with Listener(Path(spec.socket_dir)) as listener:
            await sandbox.start(spec)
            line = await listener.line()
            await line.ask("req", 300)
            lines = await _lines_after(sandbox, spec.instance, 0, 301)
            printed = [one.text for one in lines if one.stream == "stdout"]
            assert printed == [f"line {number}" for number in range(300)]
            assert [one.text for one in lines if one.stream == "stderr"] == ["x" * 8192 + "…"]
            assert lines == sorted(lines, key=lambda one: one.time)
            assert began <= lines[0].time <= lines[-1].time <= time.time_ns()
            newest = await sandbox.log_lines(spec.instance, 0, 7)
            assert (len(newest), set(newest) <= set(lines)) == (7, True)
            assert await sandbox.log_lines(spec.instance, lines[-1].time, 1000) == []
            known = lines[-1].time
            await line.ask("req", 100)
            fresh = await _lines_after(sandbox, spec.instance, known, 101)
            assert [one.text for one in fresh if one.stream == "stdout"] == [f"line {number}" for number in range(100)]
        assert await sandbox.log_lines(InstanceId("00000000"), 0, 10) == []

    async def test_stop_removes_it_and_ends_a_wait(self, sandbox: Sandbox, place: Place) -> None:
        spec = place.spec(ECHO)
        async with Listener(Path(spec.socket_dir)) as listener:
            await sandbox.start(spec)
            line = await listener.line()
            waiting = asyncio.ensure_future(sandbox.wait(spec.instance))
            async with asyncio.timeout(PATIENCE):
                await sandbox.stop(spec.instance, 5.0)
                assert (await waiting).code in (137, 143)
            assert await line.ended()
            assert await sandbox.running() == []
            await sandbox.stop(spec.instance, 0)
            assert await sandbox.logs(spec.instance, 10) == ""

    async def test_stop_kills_what_does_not_listen(self, sandbox: Sandbox, place: Place) -> None:
        source = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\ndef handler():\n    while True: pass\n"
        spec = place.spec(source)
        async with Listener(Path(spec.socket_dir)) as listener:
            await sandbox.start(spec)
            line = await listener.line()
            line.call("req")
            async with asyncio.timeout(PATIENCE):
                await sandbox.stop(spec.instance, 0.3)
            assert await line.ended()

    async def test_unknown_instances(self, sandbox: Sandbox) -> None:
        unknown = InstanceId("00000000")
        await sandbox.stop(unknown, 1.0)
        assert await sandbox.logs(unknown, 10) == ""
        with pytest.raises(SandboxError):
            await sandbox.wait(unknown)

    async def test_a_missing_release_or_a_taken_name_is_an_error(self, sandbox: Sandbox, place: Place) -> None:
        with pytest.raises(SandboxError):
            await sandbox.start(place.spec(ECHO, release_dir=str(place.root / "not" / "there")))
        spec = place.spec(ECHO)
        await sandbox.start(spec)
        with pytest.raises(SandboxError):
            await sandbox.start(spec)
        assert await sandbox.running() == [spec.instance]

    async def test_instances_do_not_share_a_fate(self, sandbox: Sandbox, place: Place) -> None:
        first, second = place.spec(ECHO), place.spec(ECHO)
        async with Listener(Path(first.socket_dir)) as one, Listener(Path(second.socket_dir)) as two:
            await asyncio.gather(sandbox.start(first), sandbox.start(second))
            await one.line()
            line = await two.line()
            waits = [asyncio.ensure_future(sandbox.wait(spec.instance)) for spec in (first, second)]
            await sandbox.stop(first.instance, 0)
            async with asyncio.timeout(PATIENCE):
                await waits[0]
            assert await line.ask("req", 1) == 1
            assert not waits[1].done()
            assert await sandbox.running() == [second.instance]
            waits[1].cancel()

    async def test_a_node_that_comes_back_finds_its_instances(
        self, sandbox: Sandbox, again: Sandbox, place: Place
    ) -> None:
        spec = place.spec(ECHO)
        async with Listener(Path(spec.socket_dir)) as listener:
            await sandbox.start(spec)
            await listener.line()
        await sandbox.close()
        async with Listener(Path(spec.socket_dir)) as listener:
            line = await listener.line()
            assert await line.ask("req", "again") == "again"
            assert await again.running() == [spec.instance]
            waiting = asyncio.ensure_future(again.wait(spec.instance))
            await again.stop(spec.instance, 5.0)
            async with asyncio.timeout(PATIENCE):
                assert (await waiting).code in (137, 143)

    async def test_a_cancelled_start_leaves_nothing(self, sandbox: Sandbox, place: Place) -> None:
        starting = asyncio.ensure_future(sandbox.start(place.spec(ECHO)))
        await asyncio.sleep(0)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        assert await sandbox.running() == []

    async def test_errors_of_a_handler_are_replies(self, sandbox: Sandbox, place: Place) -> None:
        spec = place.spec("def handler(event):\n    raise ValueError(event)\n")
        async with Listener(Path(spec.socket_dir)) as listener:
            await sandbox.start(spec)
            line = await listener.line()
            with pytest.raises(GridError) as caught:
                await line.ask("req", "bad")
            assert (caught.value.code, caught.value.message) == ("task_raised", "ValueError: bad")
