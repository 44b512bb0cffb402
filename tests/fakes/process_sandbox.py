"""A Sandbox backend without isolation: the real runtime as a child process, for unit tests."""

import asyncio
import contextlib
import os
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from gridnode.errors import SandboxError
from gridnode.model import InstanceId
from gridnode.runtimes import python as runtime
from gridnode.sandbox import Exit, SandboxSpec
from gridnode.sandbox.spec import SOCKET_NAME, container_config, environment

_MAX_LOG = 64 * 1024


@dataclass
class Child:
    process: asyncio.subprocess.Process
    log: Path


Children = dict[InstanceId, Child]


class ProcessSandbox:
    """children: shared by two backends of one node, what an engine would remember."""

    def __init__(self, children: Children | None = None) -> None:
        self._children: Children = {} if children is None else children
        self._logs = Path(tempfile.mkdtemp(prefix="grid-logs-"))

    async def start(self, spec: SandboxSpec) -> None:
        container_config(spec)
        if spec.instance in self._children or not _is_directory(spec.release_dir):
            raise SandboxError(f"cannot start {spec.instance}: taken, or no release")
        log = self._logs / spec.instance
        given = {"GRID_ROOT": spec.release_dir, "GRID_SOCKET": f"{spec.socket_dir}/{SOCKET_NAME}"}
        with log.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-I",
                runtime.__file__,
                env=environment(spec) | given,
                cwd=spec.release_dir,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        self._children[spec.instance] = Child(process, log)

    async def wait(self, instance: InstanceId) -> Exit:
        child = self._children.get(instance)
        if child is None:
            raise SandboxError(f"no sandbox of instance {instance}")
        code = await child.process.wait()
        return Exit(code if code >= 0 else 128 - code, log=self._tail(child, 50))

    async def stop(self, instance: InstanceId, grace: float) -> None:
        child = self._children.get(instance)
        if child is None:
            return
        with contextlib.suppress(ProcessLookupError, TimeoutError):
            child.process.terminate()
            async with asyncio.timeout(grace):
                await child.process.wait()
        with contextlib.suppress(ProcessLookupError):
            child.process.kill()
        await child.process.wait()
        self._children.pop(instance, None)

    async def logs(self, instance: InstanceId, lines: int) -> str:
        child = self._children.get(instance)
        return self._tail(child, lines) if child else ""

    async def running(self) -> list[InstanceId]:
        return list(self._children)

    async def close(self) -> None:
        """Children stay; their logs go with the last of them, see `clean`."""

    async def clean(self) -> None:
        """Stop every child and remove the logs."""
        for instance in list(self._children):
            await self.stop(instance, 0)
        shutil.rmtree(self._logs, ignore_errors=True)

    def _tail(self, child: Child, lines: int) -> str:
        text = child.log.read_bytes()[-_MAX_LOG:].decode(errors="replace")
        return "".join(text.splitlines(keepends=True)[-lines:])


def _is_directory(path: str) -> bool:
    return os.path.isdir(path)
