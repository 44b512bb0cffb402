"""A Docker daemon beside the host's, for tests that stop or freeze one: needs root, dockerd, nsenter."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

_PIDS = ("dockerd.pid", "containerd.pid")
_CONTAINERD = """version = 2
root = "{0}/containerd"
state = "{0}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
address = "{0}/containerd.sock"
"""
_PATIENCE = 60.0


class Dockerd:
    """One in `directory`, in the network namespace of process `neighbour`, which it gives to its containers as host's.

    Not in that of the host's own daemon, whose bridge it would remove.
    """

    def __init__(self, directory: Path, neighbour: int) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.socket = directory / "engine.sock"
        self.inside = ["nsenter", f"--net=/proc/{neighbour}/ns/net"]
        self._config = directory / "daemon.json"
        self._process: subprocess.Popen[bytes] | None = None
        (directory / "containerd.toml").write_text(_CONTAINERD.format(directory))
        self._containerd = self._run("containerd", f"--config={directory / 'containerd.toml'}")
        (directory / "containerd.pid").write_text(str(self._containerd.pid))

    def set_live_restore(self, is_on: bool) -> None:
        """Whether containers go on while it is away: what it is started with, or told by SIGHUP."""
        self._config.write_text(json.dumps({"live-restore": is_on}))
        if self._process:
            self._process.send_signal(signal.SIGHUP)

    def start(self) -> None:
        """Returns when it answers."""
        flags = ["--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false"]
        flags += [
            f"--config-file={self._config}",
            f"--host=unix://{self.socket}",
            f"--pidfile={self.directory / 'dockerd.pid'}",
        ]
        flags += [f"--containerd={self.directory / 'containerd.sock'}"]
        flags += [f"--data-root={self.directory / 'data'}", f"--exec-root={self.directory / 'exec'}"]
        self._process = self._run("dockerd", *flags)
        deadline = time.monotonic() + _PATIENCE
        while self._ask("version").returncode:
            assert time.monotonic() < deadline, (self.directory / "dockerd.log").read_text()[-4000:]
            time.sleep(0.1)

    def _run(self, *argv: str) -> subprocess.Popen[bytes]:
        command = [*self.inside, *argv]
        with (self.directory / f"{argv[0]}.log").open("ab") as log:
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)

    def stop(self, signum: signal.Signals = signal.SIGTERM) -> None:
        """Returns when it has ended."""
        assert self._process
        self._process.send_signal(signum)
        self._process.wait(_PATIENCE)

    @contextlib.contextmanager
    def mute(self) -> Iterator[None]:
        """It takes connections and answers none."""
        assert self._process
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def docker(self, *argv: str) -> str:
        """Output of a docker command given to it; RuntimeError when it fails."""
        ended = self._ask(*argv)
        if ended.returncode:
            raise RuntimeError(f"docker {' '.join(argv)}: {ended.stderr.strip()}")
        return ended.stdout

    def _ask(self, *argv: str) -> subprocess.CompletedProcess[str]:
        command = ["docker", "-H", f"unix://{self.socket}", *argv]
        return subprocess.run(command, check=False, capture_output=True, text=True, timeout=_PATIENCE)

    def load(self, image: str) -> None:
        """Copy an image of the host's engine."""
        with subprocess.Popen(["docker", "save", image], stdout=subprocess.PIPE) as saved:
            command = ["docker", "-H", f"unix://{self.socket}", "load"]
            subprocess.run(command, stdin=saved.stdout, check=True, capture_output=True, timeout=300)

    def close(self) -> None:
        """Remove its containers, end it, and leave nothing."""
        if found := self.docker("ps", "-aq").split():
            self.docker("rm", "-f", *found)
        self.stop()
        self._containerd.terminate()
        self._containerd.wait(_PATIENCE)
        end(self.directory)


def end(directory: Path) -> None:
    """Make sure that nothing of a daemon in `directory` is left, whatever became of who started it."""
    for name in _PIDS:
        with contextlib.suppress(OSError, ValueError):
            _end_process(int((directory / name).read_text()))
    mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for mount in sorted((mount for mount in mounts if Path(mount).is_relative_to(directory)), reverse=True):
        subprocess.run(["umount", "-l", mount], check=False, capture_output=True)
    shutil.rmtree(directory, ignore_errors=True)


def _end_process(pid: int) -> None:
    """By its id, unless that is of another program by now."""
    if (Path(f"/proc/{pid}/comm").read_text().strip()) not in ("dockerd", "containerd"):
        return
    os.kill(pid, signal.SIGCONT)
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + _PATIENCE
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
