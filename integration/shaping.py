"""What leaves a node, held to a bandwidth: tc in the network namespace of its container, from outside."""

import json
import subprocess
from pathlib import Path
from typing import Any

from integration import engine
from integration.node import Node


def limit(node: Node, rate: int) -> None:
    """rate: bytes a second; for as long as the container runs."""
    pid = int(engine.inspect(node.container)[0]["State"]["Pid"])
    bucket = max(rate // 50, 32 * 1024)
    shape = f"tc qdisc replace dev eth0 root tbf rate {rate * 8}bit burst {bucket} latency 100ms"
    subprocess.run(["nsenter", "-t", str(pid), "-n", *shape.split()], check=True, capture_output=True)


def sent(node: Node) -> int:
    """Bytes that have left the container."""
    pid = int(engine.inspect(node.container)[0]["State"]["Pid"])
    (line,) = (one for one in Path(f"/proc/{pid}/net/dev").read_text().splitlines() if one.strip().startswith("eth0"))
    return int(line.partition(":")[2].split()[8])


def fetches(node: Node, root: str) -> list[dict[str, Any]]:
    """Of its log: every fetch of a tree, with its seconds, and the bytes from each peer."""
    lines = (json.loads(line) for line in node.logs().splitlines() if '"tree fetched"' in line)
    return [line for line in lines if line["root"] == root]
