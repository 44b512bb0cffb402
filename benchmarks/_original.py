"""The original gridcontrol (npm, 0.13.0) with an echo task, in network and process namespaces of its own."""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from benchmarks import _proc
from benchmarks._wrk import ask
from integration.grid import until

VERSION = "0.13.0"
PORT = 10000
URL = f"http://127.0.0.1:{PORT}/tasks"
_FORGOTTEN = "buffer-shims"
"""What it needs at run time and does not name as a dependency."""
_PROJECT = {
    "package.json": '{"name": "bench", "version": "1.0.0"}',
    "tasks/echo.js": "module.exports = function (data, cb) { cb(null, data); };\n",
}
_START = 'ip link set lo up && exec node "$@"'
_PATIENCE = 30.0


def installed() -> Path | None:
    """Its package directory, installed from npm once into the user's cache; None where that cannot be."""
    if not all(map(shutil.which, ("npm", "node", "unshare", "ip"))):
        return None
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "gridcontrol-bench"
    package = cache / "node_modules" / "gridcontrol"
    complete = cache / "node_modules" / _FORGOTTEN
    if not complete.exists():
        cache.mkdir(parents=True, exist_ok=True)
        options = ["--no-audit", "--no-fund", "--prefix", str(cache)]
        npm = ["npm", "install", *options, f"gridcontrol@{VERSION}", _FORGOTTEN]
        with suppress(subprocess.SubprocessError):
            subprocess.run(npm, check=True, capture_output=True, timeout=300)
    return package if complete.exists() else None


@contextmanager
def running(package: Path) -> Iterator[int]:
    """Its process id, once it serves the task `echo`; the end takes its PM2 and tasks with it."""
    with tempfile.TemporaryDirectory(prefix="gc-original-") as name:
        directory = Path(name)
        for path, text in _PROJECT.items():
            file = directory / "project" / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        (directory / "pm2").mkdir()
        script = str(Path(__file__).with_suffix(".js"))
        namespaces = ["unshare", "--net", "--pid", "--fork", "--kill-child=KILL", "--mount-proc"]
        argv = [*namespaces, "sh", "-c", _START, "sh", script, str(package), name, str(PORT)]
        # As it ships: its index.js sets this DEBUG, which logs every call.
        env = os.environ | {"PM2_HOME": f"{name}/pm2", "HOME": name, "DEBUG": "gc:*"}
        with (
            (directory / "log").open("wb") as log,
            subprocess.Popen(argv, cwd=name, env=env, stdout=log, stderr=log) as process,
        ):
            try:
                yield _ready(process.pid, directory / "project")
            finally:
                process.kill()


def call(text: str) -> bytes:
    """The body of a call of `echo`."""
    return json.dumps({"task_id": "echo", "data": {"text": text}}).encode()


def _ready(launcher: int, project: Path) -> int:
    pid = until(lambda: next(iter(_proc.children(launcher)), 0), _PATIENCE, "the original starts")
    start = json.dumps({"base_folder": str(project), "instances": 1}).encode()
    until((project.parent / "started").exists, _PATIENCE, "the original is ready")
    ask(pid, f"{URL}/init", start)
    until(lambda: _answers(pid, f"{URL}/lb_trigger_single", call("ready")), _PATIENCE, "the original calls its task")
    return pid


def _answers(pid: int, url: str, body: bytes) -> bool:
    with suppress(RuntimeError):
        _, answer = ask(pid, url, body)
        return "err" not in answer or not answer["err"]
    return False
