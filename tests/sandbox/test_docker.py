"""The adapter against an engine that misbehaves; integration/test_sandbox.py has the real one."""

import asyncio
import json
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gridnode.errors import EngineUnavailable, SandboxError
from gridnode.model import InstanceId, NodeId
from gridnode.sandbox import Exit, Held
from gridnode.sandbox.docker import DockerSandbox
from tests.fakes.peers import until

INSTANCE = InstanceId("0a1b2c3d")


class Engine:
    """Speaks just enough HTTP. paths: request path prefix → (status, body); streams: what /events sends, in turn."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="grid-", dir="/tmp"))
        self.url = f"unix://{self.directory}/engine.sock"
        self.state = {"Status": "running", "ExitCode": 0, "OOMKilled": False}
        self.streams: list[bytes] = []
        self.listens = 0
        self.mute = False
        self.unanswered = 0
        self.answers: dict[str, tuple[int, object]] = {
            "/version": (200, {"ApiVersion": "1.41"}),
            "/containers/json": (200, [{"Id": "c1", "Labels": {"gridcontrol.instance": INSTANCE}}]),
            "/containers/c1/json": (200, {"State": self.state, "Config": {"Tty": False}}),
            "/containers/c1/logs": (200, b""),
        }

    async def __aenter__(self) -> "Engine":
        self.server = await asyncio.start_unix_server(self._serve, str(self.directory / "engine.sock"))
        return self

    async def __aexit__(self, *_: object) -> None:
        self.server.close()
        shutil.rmtree(self.directory)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            path = (await reader.readuntil(b"\r\n\r\n")).split()[1].decode().split("?")[0].removeprefix("/v1.41")
            if self.mute:
                self.unanswered += 1
                await reader.read()
            elif path == "/events":
                await self._stream(writer)
            else:
                status, body = self.answers.get(path, (404, {"message": f"no such container: {path}"}))
                raw = body if isinstance(body, bytes) else json.dumps(body).encode()
                writer.write(
                    b"HTTP/1.1 %d x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % (status, len(raw)) + raw
                )
        except (ConnectionError, asyncio.IncompleteReadError):
            return
        finally:
            writer.close()

    async def _stream(self, writer: asyncio.StreamWriter) -> None:
        """One of `streams`, then the end."""
        self.listens += 1
        writer.write(b"HTTP/1.1 200 x\r\nTransfer-Encoding: chunked\r\n\r\n")
        piece = self.streams.pop(0) if self.streams else b""
        if piece:
            writer.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        await writer.drain()


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    async with Engine() as engine:
        yield engine


@pytest.fixture
async def sandbox(engine: Engine) -> AsyncIterator[DockerSandbox]:
    sandbox = DockerSandbox(NodeId("ab" * 20), engine.url, timeout=5.0)
    yield sandbox
    await sandbox.close()


async def test_an_exit_is_noticed_though_the_event_stream_breaks(engine: Engine, sandbox: DockerSandbox) -> None:
    engine.streams = [b"", b"not json at all", b'{"id": 3}']
    waiting = asyncio.ensure_future(sandbox.wait(INSTANCE))
    async with asyncio.timeout(20):
        while engine.listens < 3:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        assert not waiting.done()
        engine.state |= {"Status": "exited", "ExitCode": 3, "OOMKilled": True}
        engine.answers["/containers/c1/json"] = (200, {"State": engine.state, "Config": {"Tty": False}})
        assert await waiting == Exit(3, True, "")


async def test_the_code_of_a_removed_container_comes_from_its_event(engine: Engine, sandbox: DockerSandbox) -> None:
    waiting = asyncio.ensure_future(sandbox.wait(INSTANCE))
    async with asyncio.timeout(20):
        while not engine.listens:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        del engine.answers["/containers/c1/json"], engine.answers["/containers/c1/logs"]
        engine.streams = [json.dumps({"id": "c1", "Actor": {"Attributes": {"exitCode": "143"}}}).encode()]
        assert (await waiting).code in (137, 143)


@pytest.mark.parametrize(
    ("status", "body"),
    [(500, {"message": "no space left"}), (200, b"<html>"), (403, b"\xff\xff"), (404, b"")],
)
async def test_a_bad_answer_is_a_typed_error(engine: Engine, sandbox: DockerSandbox, status: int, body: object) -> None:
    engine.answers["/containers/json"] = (status, body)
    with pytest.raises(SandboxError):
        await sandbox.running()


@pytest.mark.parametrize(("finished", "removed"), [("2020-01-01T00:00:00.123456789Z", 1), ("2100-01-01T00:00:00Z", 0)])
async def test_what_ended_long_ago_is_swept(
    engine: Engine, sandbox: DockerSandbox, finished: str, removed: int
) -> None:
    row = {"Id": "c1", "Labels": {"gridcontrol.instance": INSTANCE}, "State": "exited", "Created": 1}
    engine.answers["/containers/json"] = (200, [row])
    engine.answers["/containers/c1/json"] = (200, {"State": {"Status": "exited", "FinishedAt": finished}})
    engine.answers["/containers/c1"] = (204, b"")
    assert await sandbox.sweep("g", 60) == removed


async def test_what_it_holds_is_told_with_what_it_was_started_as(engine: Engine, sandbox: DockerSandbox) -> None:
    told = {"gridcontrol.release": "ab", "gridcontrol.task": "echo", "gridcontrol.shape": "cd"}
    row = {"Id": "c1", "Labels": {"gridcontrol.instance": INSTANCE} | told, "State": "running"}
    bare = {"Id": "c2", "Labels": {"gridcontrol.instance": "00000001"}}
    engine.answers["/containers/json"] = (200, [row, bare])
    assert await sandbox.held() == [
        Held(INSTANCE, "ab", "echo", "cd", True),
        Held(InstanceId("00000001"), "", "", "", False),
    ]


async def test_a_mute_engine_holds_up_nobody_who_lets_go_of_it(engine: Engine) -> None:
    engine.mute = True
    sandbox = DockerSandbox(NodeId("ab" * 20), engine.url, timeout=1.0)
    waiting = asyncio.ensure_future(sandbox.wait(INSTANCE))
    queued = [asyncio.ensure_future(sandbox.held()) for _ in range(20)]
    await until(lambda: engine.unanswered, "it was asked")
    async with asyncio.timeout(15):
        await sandbox.close()
        ends = await asyncio.gather(waiting, *queued, return_exceptions=True)
    assert {type(end) for end in ends} <= {EngineUnavailable, asyncio.CancelledError}
