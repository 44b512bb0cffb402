"""Load that comes from a process of its own, and what of Ray, Dask and Celery is installed to be driven so."""

import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks._table import say
from benchmarks._wrk import Shot

_HERE = Path(__file__).parent
_RIVALS = ("ray", "dask", "celery")
_NEEDS = {"celery": "redis-server"}
_PATIENCE = 120.0


class Driven:
    """A driver that is ready. Its runs are made one at a time."""

    def __init__(self, process: "subprocess.Popen[str]", log: Path) -> None:
        self._process = process
        self._log = log

    def measure(self, window: int, seconds: float) -> Shot:
        """`window` calls under way for so long."""
        assert self._process.stdin
        self._process.stdin.write(f"{window} {seconds}\n")
        self._process.stdin.flush()
        found = json.loads(self.line())
        quantiles, requests = found["quantiles"], found["requests"]
        return Shot(requests, requests / found["duration"], quantiles[49], quantiles[98], 0, tuple(quantiles))

    def line(self) -> str:
        """The next it says; RuntimeError with its last words when it says nothing for long, or has ended."""
        out = self._process.stdout
        assert out
        line = out.readline() if select.select([out], [], [], _PATIENCE)[0] else ""
        if not line:
            raise RuntimeError(f"the driver said nothing more:\n{self._log.read_text()[-2000:]}")
        return line


@contextmanager
def driven(script: str, *arguments: str, python: str = sys.executable) -> Iterator[Driven]:
    """benchmarks/`script`, ready; it ends with its stdin."""
    with tempfile.TemporaryDirectory() as directory:
        log = Path(directory) / "log"
        argv = [python, str(_HERE / script), *arguments]
        with (
            log.open("w") as errors,
            subprocess.Popen(
                argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=directory
            ) as process,
        ):
            try:
                driver = Driven(process, log)
                while driver.line() != "ready\n":
                    pass
                yield driver
            finally:
                if process.stdin:
                    process.stdin.close()
                _end(process)


def _end(process: "subprocess.Popen[str]") -> None:
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()


def rivals() -> Iterator[tuple[str, str]]:
    """(name, its environment's python) of those installed; of the others, says how they are found."""
    for name in _RIVALS:
        variable = f"BENCH_{name.upper()}_PYTHON"
        program = shutil.which(name)
        beside = Path(program).resolve().parent / "python" if program else None
        python = os.environ.get(variable) or (str(beside) if beside and beside.exists() else "")
        needed = _NEEDS.get(name)
        if not python:
            say(f"left out: {name}, which is not on PATH; {variable} names the python of its environment")
        elif needed and not shutil.which(needed):
            say(f"left out: {name}, which needs {needed}")
        else:
            yield name, python
