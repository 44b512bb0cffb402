"""The exec runtime: runs one executable file of a project once per call. Standard library only.

The argument goes to the program's standard input as JSON; what it prints is the result, as JSON or else as a string.
Asked for a stream, each line of it is an item at once, and a program whose reader has enough waits in its next write.
What it prints to standard error goes to the log. An exit code that is not 0 is an error with the last of those lines.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from types import ModuleType
from typing import NamedTuple

HERE = os.path.dirname(os.path.abspath(__file__))

if __name__ == "__main__":  # by path: what lies beside this file is our package here, and nothing else
    for name, places in (("gridnode", []), ("gridnode.runtimes", [HERE])):
        sys.modules[name] = ModuleType(name)
        sys.modules[name].__path__ = places
from gridnode.runtimes.python import CONCURRENCY, Fault, pack_error, packages_in, refuse  # noqa: E402
from gridnode.runtimes.python_async import Connection, keep_serving  # noqa: E402
from gridnode.runtimes.python_frames import (  # noqa: E402
    FLAG_STREAM,
    HELLO,
    MAX_BODY,
    OP_INVOKE,
    REPLY,
    VERSION,
    Frame,
    pack,
    read_meta,
)

LIMIT = CONCURRENCY or 1
MAX_TAIL = 8192
PIPE_SIZE = 64 * 1024
STRAGGLE = 0.5
"""Seconds that output may stay open after the program has ended: a child that left its group can hold it."""
DROPPED = ("GRID_SOCKET", "GRID_FILE", "GRID_CONCURRENCY")


def check(root: str, file: str) -> str:
    """The program's path; Fault instance_failed when it cannot be run here."""
    path = os.path.join(root, file)
    try:
        with open(path, "rb") as program:
            head = program.read(256)
    except OSError as exc:
        raise Fault("instance_failed", f"{file}: {exc.strerror}") from exc
    if not os.access(path, os.X_OK):
        raise Fault("instance_failed", f"{file} is not executable: chmod +x {file}")
    if head.startswith(b"#!"):
        _check_interpreter(file, head.split(b"\n")[0][2:].decode(errors="replace").split())
    elif not head.startswith(b"\x7fELF"):
        raise Fault("instance_failed", f"{file} has no #! line and is no Linux program")
    return path


def _check_interpreter(file: str, words: list[str]) -> None:
    """`#!/usr/bin/env [-S] NAME` names one on the PATH; anything else is a path."""
    wanted = next((word for word in words[1:] if not word.startswith("-")), "") if words[:1] == ["/usr/bin/env"] else ""
    wanted = wanted or "".join(words[:1])
    if not shutil.which(wanted):
        raise Fault("instance_failed", f"{file} needs {wanted or 'an interpreter'}, which is not in this image")


class ProgramConnection(Connection):
    """Runs the program for every call."""

    def __init__(self, writer: asyncio.StreamWriter, program: str, task: str) -> None:
        super().__init__(writer, LIMIT)
        self._program, self._task = program, task

    async def reply(self, frame: Frame) -> bytes:
        try:
            check_call(frame, self._task)
            if frame.flags & FLAG_STREAM:
                await Run(self._program, frame, lambda item: self.send_part(frame.call_id, item)).outcome()
                return pack(REPLY, frame.call_id)
            return pack(REPLY, frame.call_id, result(await Run(self._program, frame).outcome()))
        except Fault as fault:
            return pack_error(frame.call_id, fault)
        except OSError as exc:
            said = f"cannot run {os.path.basename(self._program)}: {exc.strerror}"
            return pack_error(frame.call_id, Fault("task_raised", said))


class Run:
    """One run of the program, in a process group of its own that does not outlive the call.

    part: takes each line at once, waiting for its reader.
    """

    def __init__(self, program: str, frame: Frame, part: Callable[[bytes], Awaitable[bool]] | None = None) -> None:
        self._program, self._frame = program, frame
        self._part = part
        self._is_held = False
        self._output = bytearray()
        self._tail = b""

    async def outcome(self) -> bytes:
        """What it printed; Fault when it failed, printed too much, or had no more time."""
        with contextlib.ExitStack() as held:
            stdout, stderr = await Pipe.open(held), await Pipe.open(held)
            process = await self._start(stdout, stderr)
            try:
                async with asyncio.timeout(self._frame.deadline_ms / 1000 if self._frame.deadline_ms else None):
                    await self._listen(process, stdout, stderr)
            except TimeoutError:
                raise Fault("timeout", "killed: no result before the deadline") from None
            finally:
                _kill(process)
                await asyncio.shield(process.wait())
        if process.returncode:
            raise Fault("task_raised", _ending(process.returncode), self._tail.decode(errors="replace") or None)
        return bytes(self._output)

    async def _start(self, stdout: Pipe, stderr: Pipe) -> asyncio.subprocess.Process:
        argument = _in_memory(self._frame.body or b"null")
        try:
            return await asyncio.create_subprocess_exec(
                self._program,
                stdin=argument,
                stdout=stdout.end,
                stderr=stderr.end,
                env=environment(self._frame),
                start_new_session=True,
            )
        finally:
            for end in (argument, stdout.end, stderr.end):
                os.close(end)

    async def _listen(self, process: asyncio.subprocess.Process, stdout: Pipe, stderr: Pipe) -> None:
        output = asyncio.ensure_future(self._collect(stdout.reader))
        logged = asyncio.ensure_future(self._log(stderr.reader))
        ended = asyncio.ensure_future(process.wait())
        try:
            await asyncio.wait((output, ended), return_when=asyncio.FIRST_COMPLETED)
            if output.done():
                output.result()
            await ended
            _kill(process)
            await asyncio.wait((output, logged), timeout=STRAGGLE)
            while self._is_held and not output.done():
                await asyncio.wait((output,), timeout=STRAGGLE)
            if output.done():
                output.result()
        finally:
            for job in (output, logged, ended):
                job.cancel()

    async def _collect(self, stdout: asyncio.StreamReader) -> None:
        while got := await stdout.read(PIPE_SIZE):
            self._output += got
            if self._part:
                *lines, rest = self._output.split(b"\n")
                self._output = rest
                await self._send(lines)
            if len(self._output) > MAX_BODY:
                said = "a line of" if self._part else ""
                raise Fault("body_too_large", f"the program printed {said} more than {MAX_BODY} bytes")
        if self._part:
            await self._send([self._output])

    async def _send(self, lines: list[bytearray]) -> None:
        assert self._part
        self._is_held = True
        for line in lines:
            if line.strip() and not await self._part(result(bytes(line))):
                raise asyncio.CancelledError
        self._is_held = False

    async def _log(self, stderr: asyncio.StreamReader) -> None:
        while got := await stderr.read(PIPE_SIZE):
            self._tail = (self._tail + got)[-MAX_TAIL:]
            sys.stderr.buffer.write(got)
            sys.stderr.buffer.flush()


class Pipe(NamedTuple):
    """A pipe to read from. end: for the program; whoever gives it away closes it."""

    reader: asyncio.StreamReader
    end: int

    @classmethod
    async def open(cls, held: contextlib.ExitStack) -> Pipe:
        """Ours is closed with `held`, whoever else still holds the other."""
        ours, end = os.pipe()
        loop, reader = asyncio.get_running_loop(), asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        transport, _ = await loop.connect_read_pipe(lambda: protocol, io.FileIO(ours))
        held.callback(transport.close)
        return cls(reader, end)


def _in_memory(content: bytes) -> int:
    """A descriptor to read the content from: no program has to read all of it."""
    descriptor = os.memfd_create("argument")
    with io.FileIO(descriptor, "wb", closefd=False) as file:
        file.write(content)
        file.seek(0)
    return descriptor


def _kill(process: asyncio.subprocess.Process) -> None:
    """Kill what is left of its process group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _ending(code: int) -> str:
    if code > 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"


def hello_of(task: str, concurrency: int) -> bytes:
    """The Hello of a program, which is one task."""
    served = {"version": VERSION, "handlers": [{"name": task, "concurrency": concurrency}]}
    return pack(HELLO, 0, json.dumps(served).encode())


def check_call(frame: Frame, task: str) -> None:
    """Raises Fault unless it is a call of this task, with JSON or nothing."""
    if frame.op != OP_INVOKE:
        raise Fault("call", f"op {frame.op} is not served here")
    if frame.name.decode(errors="replace") != task:
        raise Fault("task_not_found", f"a program is one task: {task}")
    if frame.body and not is_json(frame.body):
        raise Fault("body_invalid", "the body is not JSON")


def environment(frame: Frame) -> dict[str, str]:
    """The sandbox's, and what the program may know of its call. GRID_DEADLINE: unix seconds."""
    meta = read_meta(frame.meta)
    given = {name: value for name, value in os.environ.items() if name not in DROPPED}
    given |= {"GRID_INVOCATION_ID": str(meta.get("id", "")), "GRID_ATTEMPT": str(meta.get("attempt", 1))}
    given |= {"GRID_TOPIC": str(meta["topic"])} if meta.get("topic") else {}
    if frame.deadline_ms:
        given["GRID_DEADLINE"] = f"{time.time() + frame.deadline_ms / 1000:.3f}"
    return {name: value.replace("\0", "") for name, value in given.items()}


def offer_packages(root: str) -> None:
    """Let programs in Python find the project's dependencies, where the task's own environment says nothing else."""
    os.environ.setdefault("PYTHONPATH", packages_in(root))


def result(output: bytes) -> bytes:
    """The output itself when it is JSON, null for none, else the text, less a last newline, as a JSON string."""
    if not output.strip():
        return b"null"
    if is_json(output):
        return output
    text = output.decode(errors="replace").removesuffix("\n")
    body = json.dumps(text, ensure_ascii=False).encode()
    if len(body) > MAX_BODY:
        raise Fault("body_too_large", f"the output is {len(body)} bytes of JSON, at most {MAX_BODY} are allowed")
    return body


def is_json(text: bytes) -> bool:
    try:
        json.loads(text.decode(), parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return False
    return True


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def main() -> None:
    """Serve until nobody has listened for a long time; the process then ends with 1."""
    path, task = os.environ["GRID_SOCKET"], os.environ["GRID_TASK"]
    root = os.environ.get("GRID_ROOT", "/task")
    offer_packages(root)
    try:
        program = check(root, os.environ["GRID_FILE"])
    except Fault as fault:
        refuse(path, fault)
        sys.exit(1)
    asyncio.run(keep_serving(path, hello_of(task, LIMIT), lambda writer: ProgramConnection(writer, program, task)))
    sys.exit(1)


if __name__ == "__main__":
    main()
