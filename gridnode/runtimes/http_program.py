"""The program of an http task: started once, followed to its end. Standard library only."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import Any, BinaryIO, NoReturn

from gridnode.runtimes.exec import DROPPED, MAX_TAIL, check
from gridnode.runtimes.python import Fault

LISTENS_WITHIN, POLL = 50.0, 0.02
ENDS_WITHIN = 1.0
"""Seconds in which a program that hung up may turn out to have ended, and the rest of its output be read."""
PR_SET_PDEATHSIG = 1


class Program:
    """The program, its port, and the last it printed. What it prints goes on to our own output."""

    def __init__(self, path: str) -> None:
        self.port = _free_port()
        libc = _libc()
        given = {"PYTHONUNBUFFERED": "1"}  # its output is a pipe, and is to be read while it runs
        given |= {name: value for name, value in os.environ.items() if name not in DROPPED}
        self._process = subprocess.Popen(
            [path],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=given | {"TASK_PORT": str(self.port)},
            preexec_fn=lambda: libc and libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL),  # noqa: PLW1509 - no threads yet
        )
        self._tail = b""
        pipes = ((self._process.stdout, sys.stdout.buffer), (self._process.stderr, sys.stderr.buffer))
        self._pumps = [threading.Thread(target=self._pump, args=pipe, daemon=True) for pipe in pipes]
        for pump in self._pumps:
            pump.start()

    def wait_listening(self, patience: float) -> None:
        """Until its port takes connections; Fault instance_failed when it ends before, or does not for so long."""
        give_up = time.monotonic() + patience
        while time.monotonic() < give_up:
            if self.has_ended(POLL):
                raise Fault("instance_failed", f"the program {self.ending} before it listened on $TASK_PORT", self.tail)
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port), 1.0).close()
                return
        said = f"the program does not listen on $TASK_PORT of 127.0.0.1 after {patience:g} s"
        raise Fault("instance_failed", said, self.tail)

    def has_ended(self, within: float) -> bool:
        """Wait so long for its end."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(within)
        return self._process.returncode is not None

    def follow(self) -> NoReturn:
        """End as it ends, with all that it printed."""
        code = self._process.wait()
        self._read_rest()
        os._exit(code if code >= 0 else 128 - code)

    def terminate(self) -> None:
        """Ask it to end."""
        self._process.terminate()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self._read_rest()

    @property
    def tail(self) -> str | None:
        """The last it printed; all of it when it has ended."""
        if self._process.returncode is not None:
            self._read_rest()
        return self._tail.decode(errors="replace") or None

    @property
    def ending(self) -> str:
        code = self._process.returncode
        return f"exited with code {code}" if code >= 0 else f"was killed by signal {-code}"

    def _read_rest(self) -> None:
        end = time.monotonic() + ENDS_WITHIN  # what it started and left behind may hold its output open
        for pump in self._pumps:
            pump.join(max(0.0, end - time.monotonic()))

    def _pump(self, source: BinaryIO, target: BinaryIO) -> None:
        with source:
            while got := os.read(source.fileno(), 64 * 1024):
                self._tail = (self._tail + got)[-MAX_TAIL:]
                with contextlib.suppress(OSError):
                    target.write(got)
                    target.flush()


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
    return port


def _libc() -> Any:
    """By which the program ends with us, whatever ends us; None in a Python without it."""
    with contextlib.suppress(ImportError, OSError):
        from ctypes import CDLL

        return CDLL(None)
    return None


def start(root: str, file: str, patience: float = LISTENS_WITHIN) -> Program:
    """The program, listening; Fault instance_failed with the last it printed."""
    path = check(root, file)
    try:
        program = Program(path)
    except OSError as exc:
        raise Fault("instance_failed", f"cannot run {file}: {exc.strerror}") from exc
    try:
        program.wait_listening(patience)
    except Fault:
        program.kill()
        raise
    return program
