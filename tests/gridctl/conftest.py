"""A grid in this process: real nodes on loopback, with the real runtime as child processes instead of containers."""

import asyncio
import contextlib
import os
import shutil
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import structlog
import uvloop

from gridctl.new import new_gridfile
from gridnode.node import Node
from gridnode.sandbox import Keep
from gridnode.settings import Settings
from gridnode.start import read_card
from tests.fakes.images import ImageEngine
from tests.fakes.process_sandbox import ProcessSandbox


def free_port() -> int:
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class RunningGrid:
    """gridfile: the path of its Gridfile; ports: where its nodes listen."""

    gridfile: Path
    ports: list[int]
    sandboxes: list[ProcessSandbox] = field(default_factory=list)


class NodeThread:
    """Nodes on an event loop of their own, so that blocking tests can call them."""

    def __init__(self, grid: RunningGrid, directory: Path) -> None:
        self._grid = grid
        self._directory = directory
        self._ready = threading.Event()
        self._loop = uvloop.new_event_loop()
        self._stop = asyncio.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="nodes")

    def start(self) -> None:
        self._thread.start()
        assert self._ready.wait(30), "the nodes did not come up"
        if self._error:
            raise self._error

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(30)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            try:
                runner.run(self._serve())
            except BaseException as exc:
                self._error = exc
            finally:
                self._ready.set()

    async def _serve(self) -> None:
        nodes = [self._node(number, port) for number, port in enumerate(self._grid.ports, 1)]
        async with asyncio.TaskGroup() as group:
            for node in nodes:
                group.create_task(node.run(self._stop))
            await self._wait_until_they_listen()
            self._ready.set()
            await self._stop.wait()
        for sandbox in self._grid.sandboxes:
            await sandbox.clean()

    def _node(self, number: int, port: int) -> Node:
        settings = Settings(
            gridfile=self._grid.gridfile,
            data_dir=self._directory / f"node-{number}",
            run_dir=self._directory / "run",
            name=f"node-{number}",
            listen="127.0.0.1",
            port=port,
            advertise=(f"127.0.0.1:{port}",),
            api_port=0,
            mdns=False,
            dht=False,
            sandbox_image="none",
        )
        return Node(settings, read_card(settings))

    async def _wait_until_they_listen(self) -> None:
        give_up = self._loop.time() + 10
        for port in self._grid.ports:
            for _ in range(1000):
                if await _listens(port):
                    break
                assert self._loop.time() < give_up, f"nobody listens on {port}"
                await asyncio.sleep(0.02)


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


@pytest.fixture(scope="package")
def make_grid() -> Iterator[Callable[[int], RunningGrid]]:
    """Starts a grid of so many nodes; all of them end with the package. What they log is not gridctl's output."""
    with open(os.devnull, "w") as nowhere, pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as stack:
        structlog.configure(logger_factory=structlog.PrintLoggerFactory(nowhere))
        stack.callback(structlog.reset_defaults)

        def make(count: int) -> RunningGrid:
            directory = Path(tempfile.mkdtemp(prefix="g-", dir="/tmp"))
            stack.callback(shutil.rmtree, directory, ignore_errors=True)
            ports = [free_port() for _ in range(count)]
            seeds = [f"127.0.0.1:{port}" for port in ports]
            made = new_gridfile(directory, "test", servers=["127.0.0.1"], seeds=seeds)
            grid = RunningGrid(made.path, ports)

            def sandbox(node: object, keep: Keep, **others: object) -> ProcessSandbox:
                grid.sandboxes.append(ProcessSandbox(keep=keep))
                return grid.sandboxes[-1]

            patch.setattr("gridnode.node.DockerSandbox", sandbox)
            patch.setattr("gridnode.node.DockerImages", ImageEngine)
            nodes = NodeThread(grid, directory)
            nodes.start()
            stack.callback(nodes.stop)
            return grid

        yield make


@pytest.fixture(scope="package")
def hello_grid(make_grid: Callable[[int], RunningGrid], tmp_path_factory: pytest.TempPathFactory) -> RunningGrid:
    """A grid of two nodes that serves the sample project."""
    from gridctl.cli import run
    from gridctl.sample import copy_sample

    grid = make_grid(2)
    project = tmp_path_factory.mktemp("projects") / "hello"
    copy_sample("hello", project)
    assert run(["deploy", str(project), "--gridfile", str(grid.gridfile)]) == 0
    return grid


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("GRIDCTL_") or name == "NO_COLOR":
            monkeypatch.delenv(name)
