"""One gridnode container, seen from outside (the engine) and from inside (its HTTP API)."""

import base64
import json
import subprocess
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from integration import engine

INSIDE = (Path(__file__).parent / "inside.py").read_text()


@dataclass(frozen=True)
class Response:
    """An answer of the HTTP API."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Load:
    """What a stream of calls has met so far. times: how long each took, in seconds."""

    statuses: Counter[int] = field(default_factory=Counter)
    nodes: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    times: list[float] = field(default_factory=list)

    @property
    def slowest(self) -> float:
        return max(self.times, default=0.0)

    def p99(self, since: int = 0) -> float:
        """Of the calls from the given one on."""
        times = sorted(self.times[since:])
        return times[len(times) * 99 // 100]

    def read(self, lines: Iterable[str]) -> None:
        for line in lines:
            status, node, error, seconds = json.loads(line)
            self.statuses[status] += 1
            self.nodes[node] += 1
            if error:
                self.errors[error] += 1
            self.times.append(seconds)


@dataclass
class Node:
    """One node container. directory: its card, data and sockets; port: where the host reaches its link."""

    name: str
    directory: Path
    container: str = ""
    port: int = 0

    @property
    def address(self) -> str:
        """Its address on the grid's network; empty when it does not run."""
        networks = engine.inspect(self.container)[0]["NetworkSettings"]["Networks"].values()
        return str(next(iter(networks))["IPAddress"])

    @property
    def running(self) -> bool:
        return bool(engine.inspect(self.container)[0]["State"]["Running"])

    @property
    def exit_code(self) -> int:
        return int(engine.inspect(self.container)[0]["State"]["ExitCode"])

    def logs(self) -> str:
        ended = engine.run("docker", "logs", self.container)
        return ended.stdout + ended.stderr

    @property
    def has_started(self) -> bool:
        """Whether it got as far as having an id; without a card it does not."""
        return '"starting"' in self.logs()

    @property
    def id(self) -> str:
        """Its NodeId, as its log says; also of a node that is down."""
        starts = (json.loads(line) for line in self.logs().splitlines() if '"starting"' in line)
        return str(next(starts)["node"])

    def http(self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Response:
        """One request to its API from inside its container; RuntimeError when it does not answer."""
        ask = _ask(method, path, body, headers or {})
        ended = engine.run(*self._exec(), stdin=ask)
        if ended.returncode:
            raise RuntimeError(ended.stderr)
        answer = json.loads(ended.stdout)
        return Response(answer["status"], answer["headers"], base64.b64decode(answer["body"]))

    @contextmanager
    def load(self, task: str, body: bytes = b"null", jobs: int = 3, rate: float = 0) -> Iterator[Load]:
        """Invoke `task` through it over and over while the block runs, `jobs` calls in flight.

        rate: calls a second, of which at most `jobs` are in flight; 0: one after the other without pause.
        """
        load = Load()
        with subprocess.Popen(self._exec(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as calls:
            assert calls.stdin
            assert calls.stdout
            reader = threading.Thread(target=load.read, args=(calls.stdout,))
            reader.start()
            try:
                calls.stdin.write(_ask("POST", f"/v1/invoke/{task}", body, {}, jobs, rate))
                calls.stdin.flush()
                yield load
            finally:
                calls.stdin.close()
                reader.join(60)

    def _exec(self) -> list[str]:
        return ["docker", "exec", "-i", self.container, "/usr/bin/python3", "-I", "-c", INSIDE]


def _ask(method: str, path: str, body: bytes, headers: Mapping[str, str], jobs: int = 0, rate: float = 0) -> str:
    text = base64.b64encode(body).decode()
    ask = {"method": method, "path": path, "headers": dict(headers), "body": text, "jobs": jobs, "rate": rate}
    return json.dumps(ask) + "\n"
