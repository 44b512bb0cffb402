"""What `gridctl logs` shows of tasks on three nodes, and what becomes of it when instances, nodes and readers go."""

import json
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from gridctl.new import load_gridfile
from integration import engine, project
from integration.conftest import PATIENCE
from integration.grid import GRIDCTL, Grid, until

TALK = """
import os
import sys

def say(event):
    print(event)

def warn(event):
    print(event, file=sys.stderr)

def die(event):
    print(event)
    os._exit(3)

def flood(event):
    line = "x" * 1023 + "\\n"
    for _ in range(event):
        sys.stdout.write(line)
    print("the end")

def wide(event):
    print("w" * event)
"""
LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ (node-[123]) talk/[0-9a-f]{8} \| (.*)")
FLOOD = 60 * 1024
"""Lines of 1 KiB."""
MIB = 1024 * 1024


@pytest.fixture(scope="module")
def talking(opened: Any, base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Grid]:
    """Three nodes that serve a task which prints what it is given."""
    opened.settle(base)
    directory = tmp_path_factory.mktemp("talk")
    opened.grid.deploy(project.write(directory, {"tasks/talk.py": TALK}))
    yield opened.grid
    opened.grid.disturbed, opened.root = True, ""


def call(grid: Grid, task: str, event: object, node: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    return grid.gridctl("invoke", f"talk.{task}", "-d", json.dumps(event), "--node", node, "--timeout", str(timeout))


def rows(grid: Grid, *argv: str) -> list[dict[str, Any]]:
    """`gridctl logs --json` that has to succeed."""
    ended = grid.gridctl("logs", *argv, "--json")
    assert ended.returncode == 0, ended.stderr
    return [json.loads(line) for line in ended.stdout.splitlines()]


def texts(grid: Grid, *argv: str) -> list[str]:
    return [row["text"] for row in rows(grid, *argv)]


class Following:
    """`gridctl logs -f` while a block runs: when each line came."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.out: list[tuple[float, str]] = []
        self.err: list[tuple[float, str]] = []
        for stream, lines in ((process.stdout, self.out), (process.stderr, self.err)):
            threading.Thread(target=self._read, args=(stream, lines), daemon=True).start()

    @staticmethod
    def _read(stream: Any, lines: list[tuple[float, str]]) -> None:
        for line in stream:
            lines.append((time.monotonic(), line))

    def when(self, text: str, within: float = PATIENCE) -> float:
        """When a line of stdout or stderr with this text came."""
        found = until(
            lambda: [at for at, line in self.out + self.err if text in line], within, f"{text!r} in {self.err}"
        )
        return found[0]


@contextmanager
def following(grid: Grid, *argv: str) -> Iterator[Following]:
    # What a shell starts in the background ignores Ctrl-C; env has it heard, whoever runs the tests.
    command = ["env", "--default-signal=INT", str(GRIDCTL), "logs", "-f", *argv, "--gridfile", str(grid.gridfile)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield Following(process)
        finally:
            process.kill()


def test_prints_of_three_nodes_arrive_merged_and_in_order(talking: Grid) -> None:
    said = [f"word {number}" for number in range(6)]
    for number, word in enumerate(said):
        assert call(talking, "say", word, f"node-{number % 3 + 1}").returncode == 0
    until(lambda: texts(talking, "talk", "--grep", "^word") == said, PATIENCE, "six words in order")
    ended = talking.gridctl("logs", "talk", "--grep", "^word")
    found = [LINE.fullmatch(line) for line in ended.stdout.splitlines()]
    assert [(one[1], one[2]) for one in found if one] == [
        (f"node-{number % 3 + 1}", word) for number, word in enumerate(said)
    ]
    assert len(found) == 6, "and nothing else: no colour, no decoration"
    assert texts(talking, "talk.say", "--grep", "^word", "-n", "2") == said[-2:]
    assert texts(talking, "--grep", "^word [34]$") == said[3:5]


def test_by_node_by_time_and_with_streams(talking: Grid) -> None:
    call(talking, "warn", "earlier", "node-2")
    call(talking, "say", "\x1b[31mlater\u202e", "node-2")
    until(lambda: len(texts(talking, "--grep", "earlier|later")) == 2, PATIENCE, "both lines")
    early, late = rows(talking, "--grep", "earlier|later", "--node", "node-2")
    assert (early["stream"], late["stream"], late["schema"]) == ("stderr", "stdout", 1)
    assert early["node"] == {"id": talking.nodes["node-2"].id, "name": "node-2"}
    assert (early["task"], len(early["instance"])) == ("talk", 8)
    assert late["text"] == "\x1b[31mlater\u202e"
    assert late["text"] in texts(talking, "--since", early["time"], "--grep", "earlier|later")
    assert texts(talking, "--since", late["time"][:19], "--grep", "later")
    assert "earlier" in texts(talking, "--since", "10m", "--grep", "earlier|later")
    assert texts(talking, "--since", "2100-01-01") == []
    assert texts(talking, "--node", "node-1", "--grep", "earlier|later") == []
    shown = talking.gridctl("logs", "--grep", "later").stdout
    assert "\\x1b[31mlater\\x202e" in shown
    assert "\x1b" not in shown


def test_following_shows_a_line_within_two_seconds_and_ends_on_ctrl_c(talking: Grid) -> None:
    with following(talking, "talk", "-n", "1") as follow:
        call(talking, "say", "begin", "node-3")
        follow.when("begin")
        delays = []
        for node in talking.nodes:
            call(talking, "say", f"now {node}", node)
            answered = time.monotonic()
            delays.append(follow.when(f"now {node}") - answered)
        print(f"\na line is shown after {max(delays):.2f} s at most")
        assert max(delays) < 2
        assert len([line for _, line in follow.out if "now node-1" in line]) == 1
        follow.process.send_signal(signal.SIGINT)
        assert follow.process.wait(10) == 130
        assert "".join(line for _, line in follow.err).strip() == "gridctl: interrupted"


def test_following_ends_when_the_reader_has_gone_though_nothing_is_printed(talking: Grid) -> None:
    command = [str(GRIDCTL), "logs", "-f", "echo", "--gridfile", str(talking.gridfile)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        assert process.wait(20) == 1
        assert process.stderr.read() == ""


def test_the_last_lines_of_a_crashed_instance_are_there(talking: Grid) -> None:
    ended = call(talking, "die", "last words", "node-1")
    assert ended.returncode == 1
    until(lambda: texts(talking, "talk", "--grep", "last words") == ["last words"], PATIENCE, "its last words, once")
    (row,) = rows(talking, "talk", "--grep", "last words")
    node = talking.nodes["node-1"]
    gone = [one["Config"]["Labels"]["gridcontrol.instance"] for one in talking.sandboxes(node)]
    until(lambda: row["instance"] not in gone, PATIENCE, "it is gone")
    talking.restart(node)
    until(talking.is_full_mesh, PATIENCE, "a full mesh")
    assert rows(talking, "talk", "--grep", "last words") == [row], "also after a restart of the node"


def test_following_survives_a_node_that_goes_and_comes_back(talking: Grid) -> None:
    node = talking.nodes["node-2"]
    with following(talking, "talk", "-n", "1") as follow:
        call(talking, "say", "before", "node-2")
        follow.when("before")
        talking.kill(node)
        follow.when("no lines of node-2")
        call(talking, "say", "meanwhile", "node-3")
        follow.when("meanwhile")
        ended = talking.gridctl("logs", "talk")
        assert ended.returncode == 3
        assert "node-2" in ended.stderr
        talking.start(node)
        until(talking.is_full_mesh, PATIENCE, "a full mesh")
        follow.when("node-2 is back", 60)
        until(lambda: call(talking, "say", "after", "node-2").returncode == 0, PATIENCE, "node-2 serves")
        follow.when("after")
        assert len([line for _, line in follow.out if "before" in line]) == 1, "nothing comes twice"


def test_a_flood_leaves_memory_and_disk_bounded(talking: Grid) -> None:
    node = talking.nodes["node-3"]
    before = _memory(node.container)
    with following(talking, "talk", "-n", "1") as follow:
        ended = call(talking, "flood", FLOOD, "node-3", 120)
        assert ended.returncode == 0, ended.stderr
        until(lambda: texts(talking, "talk", "-n", "1", "--node", "node-3") == ["the end"], 60, "the end of it")
        follow.when("the end", 60)
    lines = rows(talking, "talk", "-n", "10000", "--node", "node-3")
    grown = _memory(node.container) - before
    print(f"\n{FLOOD // 1024} MiB printed: {len(lines)} lines shown, node's memory grew by {grown / MIB:.1f} MiB")
    assert 500 < len(lines) <= 10_000
    assert sum(len(line["text"]) for line in lines) <= MIB
    assert grown < 64 * MIB
    assert call(talking, "die", "after the flood", "node-3").returncode == 1
    until(lambda: texts(talking, "talk", "--grep", "after the flood"), PATIENCE, "kept lines")
    kept = [path for path in (node.directory / "data" / "logs").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in kept) < 8 * MIB
    assert texts(talking, "talk", "--node", "node-1", "-n", "1"), "others are still read"


def test_a_line_of_a_megabyte_is_cut(talking: Grid) -> None:
    assert call(talking, "wide", MIB // 2, "node-1").returncode == 0
    (text,) = until(lambda: texts(talking, "talk", "--grep", "^www"), PATIENCE, "the wide line")
    assert len(text) == 8193


def test_gridnodes_own_log(talking: Grid) -> None:
    found = rows(talking, "--system", "-n", "10000")
    assert {row["node"]["name"] for row in found} == set(talking.nodes)
    assert all(row["task"] is None and json.loads(row["text"])["event"] for row in found)
    assert [row["time"] for row in found] == sorted(row["time"] for row in found)
    assert any("link listening" in row["text"] for row in found)
    assert " gridnode | link listening port=" in talking.gridctl("logs", "--system", "-n", "10000").stdout
    secret = load_gridfile(talking.gridfile).grid_password
    for node in talking.nodes.values():
        log = (node.directory / "data" / "logs" / "gridnode.log").read_text()
        assert '"event": "starting"' in log
        assert secret not in log


def _memory(container: str) -> int:
    """Resident bytes of the gridnode process."""
    pid = engine.inspect(container)[0]["State"]["Pid"]
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    sizes = []
    for one in (str(pid), *children):
        status = Path(f"/proc/{one}/status").read_text()
        sizes.append(int(re.search(r"VmRSS:\s+(\d+)", status)[1]) * 1024)  # type: ignore[index]
    return max(sizes)
