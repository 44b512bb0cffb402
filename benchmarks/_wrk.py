"""HTTP load from wrk, in the network namespace of what is under load, as a program on that server would send it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

_SCRIPT = Path(__file__).parent / "_post.lua"
_ASK = """
import json, os, sys, urllib.request
headers = {"Content-Type": "application/json"}
request = urllib.request.Request(sys.argv[1], os.environ["BENCH_BODY"].encode(), headers)
with urllib.request.urlopen(request, timeout=30) as answer:
    print(json.dumps([dict(answer.headers), json.load(answer)]))
"""


class Shot(NamedTuple):
    """One run of load. p50, p99: milliseconds; failed: answers that are not 2xx, and socket errors.

    quantiles: the 1st to the 99th percentile, milliseconds.
    """

    requests: int
    rate: float
    p50: float
    p99: float
    failed: int
    quantiles: tuple[float, ...] = ()


def shoot(pid: int, url: str, body: bytes, connections: int, seconds: float) -> Shot:
    """Load `url` as seen from the namespace of process `pid`."""
    wrk = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "-s", str(_SCRIPT), url]
    output = _inside(pid, wrk, body)
    line = next(line for line in output.splitlines() if line.startswith("RESULT "))
    found = json.loads(line.removeprefix("RESULT "))
    rate = found["requests"] / (found["duration"] / 1e6)
    failed = found["status"] + found["socket"]
    return Shot(found["requests"], rate, found["p50"] / 1000, found["p99"] / 1000, failed, _ms(found["quantiles"]))


def _ms(quantiles: list[float]) -> tuple[float, ...]:
    return tuple(one / 1000 for one in quantiles)


def ask(pid: int, url: str, body: bytes) -> tuple[dict[str, str], Any]:
    """One POST from there: headers and JSON body of the answer; RuntimeError when there is none."""
    headers, answer = json.loads(_inside(pid, [sys.executable, "-I", "-c", _ASK, url], body))
    return headers, answer


def _inside(pid: int, argv: list[str], body: bytes) -> str:
    command = ["nsenter", "--net", "--target", str(pid), *argv]
    env = os.environ | {"BENCH_BODY": body.decode()}
    ended = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)
    if ended.returncode:
        raise RuntimeError(f"{argv[0]} failed: {ended.stderr.strip()[-500:]}")
    return ended.stdout
