"""A Sandbox backend without isolation: the real runtime as a child process, for unit tests."""

import asyncio
import contextlib
import os
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import gridnode
from gridnode.errors import SandboxError
from gridnode.model import InstanceId
from gridnode.sandbox import Exit, Held, Keep, Output, SandboxSpec
from gridnode.sandbox.output import shown
from gridnode.sandbox.spec import ENTRYPOINTS, RUNTIMES_MOUNT, SOCKET_NAME, container_config, environment, shape

_MAX_LOG = 64 * 1024
RUNTIMES = str(Path(gridnode.__file__).parent / "runtimes")
STREAMS = ("stdout", "stderr")


@dataclass
class Child:
    spec: SandboxSpec
    process: asyncio.subprocess.Process
    log: Path
    output: list[Output] = field(default_factory=list)
    taken: dict[str, int] = field(default_factory=dict)

    def look(self) -> list[Output]:
        """All lines so far. A line's time is when it was first seen."""
        for stream in STREAMS:
            whole = self.log.with_suffix(f".{stream}").read_bytes()
            fresh = whole[self.taken.get(stream, 0) :]
            if self.process.returncode is None:
                fresh = fresh[: fresh.rfind(b"\n") + 1]
            self.taken[stream] = self.taken.get(stream, 0) + len(fresh)
            self.output += (Output(time.time_ns(), stream, shown(line)) for line in fresh.splitlines())
        return self.output


Children = dict[InstanceId, Child]


class ProcessSandbox:
    """children: shared by two backends of one node, what an engine would remember."""

    def __init__(self, children: Children | None = None, keep: Keep | None = None) -> None:
        self._keep = keep
        self._children: Children = {} if children is None else children
        self._logs = Path(tempfile.mkdtemp(prefix="grid-logs-"))

    async def start(self, spec: SandboxSpec) -> None:
        container_config(spec)
        if spec.instance in self._children or not _is_directory(spec.release_dir):
            raise SandboxError(f"cannot start {spec.instance}: taken, or no release")
        log = self._logs / spec.instance
        given = {
            "PATH": os.environ["PATH"],
            "GRID_ROOT": spec.release_dir,
            "GRID_SOCKET": f"{spec.socket_dir}/{SOCKET_NAME}",
        }
        with log.with_suffix(".stdout").open("wb") as output, log.with_suffix(".stderr").open("wb") as errors:
            process = await asyncio.create_subprocess_exec(
                *command(spec.runtime),
                env=environment(spec) | given,
                cwd=spec.release_dir,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
            )
        self._children[spec.instance] = Child(spec, process, log)

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
        if self._keep:
            self._keep(child.spec.task, instance, child.look()[-200:])
        self._children.pop(instance, None)

    async def logs(self, instance: InstanceId, lines: int) -> str:
        child = self._children.get(instance)
        return self._tail(child, lines) if child else ""

    async def log_lines(self, instance: InstanceId, since: int, lines: int) -> list[Output]:
        child = self._children.get(instance)
        return [line for line in child.look() if line.time > since][-lines:] if child else []

    async def running(self) -> list[InstanceId]:
        return list(self._children)

    async def held(self) -> list[Held]:
        return [
            Held(instance, child.spec.release, child.spec.task, shape(child.spec), child.process.returncode is None)
            for instance, child in self._children.items()
        ]

    async def sweep(self, grid: str, age: float) -> int:
        return 0

    async def close(self) -> None:
        """Children stay; their logs go with the last of them, see `clean`."""

    async def clean(self) -> None:
        """Stop every child and remove the logs."""
        for instance in list(self._children):
            await self.stop(instance, 0)
        shutil.rmtree(self._logs, ignore_errors=True)

    def _tail(self, child: Child, lines: int) -> str:
        text = "".join(f"{line.text}\n" for line in child.look()[-lines:])
        return text.encode()[-_MAX_LOG:].decode(errors="replace")


def command(runtime: str) -> list[str]:
    """What a sandbox would run, with this checkout's runtimes and this interpreter."""
    program, *rest = ENTRYPOINTS[runtime]
    interpreter = sys.executable if program == "python3" else program
    return [interpreter, *(part.replace(RUNTIMES_MOUNT, RUNTIMES) for part in rest)]


def _is_directory(path: str) -> bool:
    return os.path.isdir(path)
