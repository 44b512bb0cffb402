"""What `gridctl invoke` prints, and how it exits."""

import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

from integration.grid import Grid, until


def test_twelve_calls_are_spread_evenly_over_three_nodes(grid: Grid) -> None:
    ran = Counter(_whole(grid, "probe.whoami")["node"]["name"] for _ in range(12))
    assert ran == {"node-1": 4, "node-2": 4, "node-3": 4}


def test_a_call_runs_on_the_node_that_is_asked_for(grid: Grid) -> None:
    for name, node in grid.nodes.items():
        for wanted in (name, node.id[:12]):
            ran = _whole(grid, "probe.whoami", "--node", wanted)
            assert ran["node"] == {"id": node.id, "name": name}
            assert (ran["result"]["node"], ran["result"]["instance"]) == (name, ran["instance"])
            assert ran["attempts"] == 1
            assert ran["duration_ms"] > 0


def test_json_goes_in_and_comes_out(grid: Grid, tmp_path: Path) -> None:
    value = {"text": "žluťoučký 🐎", "numbers": [1, 2.5, None, True]}
    (tmp_path / "in.json").write_text(json.dumps(value))
    for given in (json.dumps(value), f"@{tmp_path}/in.json", "-"):
        ended = grid.gridctl("invoke", "echo", "-d", given, stdin=json.dumps(value))
        assert ended.returncode == 0, ended.stderr
        assert json.loads(ended.stdout) == value
    assert grid.gridctl("exec", "echo").stdout.strip() == "null"


def test_a_body_of_five_mebibytes_arrives_whole(grid: Grid) -> None:
    text = json.dumps("x" * (5 << 20))
    ended = grid.gridctl("invoke", "echo", "-d", "-", "--node", "node-2", stdin=text)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.strip() == text


def test_what_a_task_raises_comes_back_with_its_traceback(grid: Grid) -> None:
    for name in grid.nodes:
        ended = grid.gridctl("invoke", "probe.fail", "-d", '"it"', "--node", name)
        assert ended.returncode == 6
        assert ended.stdout == ""
        assert "ValueError: cannot take it" in ended.stderr
        assert 'raise ValueError(f"cannot take {event}")' in ended.stderr
        assert "tasks/probe.py" in ended.stderr
    whole = json.loads(grid.gridctl("invoke", "probe.fail", "--json").stdout)
    assert whole["error"]["code"] == "task_raised"
    assert "Traceback" in whole["error"]["trace"]


def test_a_task_that_does_not_exist_names_those_near(grid: Grid) -> None:
    ended = grid.gridctl("invoke", "probe.whoamy")
    assert ended.returncode == 5
    assert "probe.whoami" in ended.stderr


def test_a_node_that_does_not_exist_names_those_that_do(grid: Grid) -> None:
    ended = grid.gridctl("invoke", "echo", "--node", "node-9")
    assert ended.returncode == 5
    assert "node-1, node-2, node-3" in ended.stderr


def test_a_timeout_ends_the_call_and_the_instance_answers_again(grid: Grid) -> None:
    start = time.monotonic()
    ended = grid.gridctl("invoke", "probe.nap", "-d", "60", "--timeout", "0.5", "--node", "node-2")
    assert ended.returncode == 124
    assert "deadline" in ended.stderr
    assert time.monotonic() - start < 5
    version = ("invoke", "probe.version", "--node", "node-2", "--timeout", "2")
    until(lambda: grid.gridctl(*version).stdout.strip() == "1", 20, "the instance answers again")


def test_an_instance_that_leaves_in_the_middle_is_said_and_restarted(grid: Grid) -> None:
    whole = json.loads(grid.gridctl("invoke", "probe.leave", "--node", "node-3", "--json").stdout)
    assert whole["error"]["code"] == "task_crashed"
    version = ("invoke", "probe.version", "--node", "node-3", "--timeout", "2")
    until(lambda: grid.gridctl(*version).stdout.strip() == "1", 20, "the instance is there again")


def test_a_body_that_is_no_json_is_refused_before_it_is_sent(grid: Grid) -> None:
    ended = grid.gridctl("invoke", "echo", "-d", "hello")
    assert ended.returncode == 2
    assert "not JSON" in ended.stderr
    assert "'\"hello\"'" in ended.stderr


def test_a_body_larger_than_six_mebibytes_is_refused(grid: Grid) -> None:
    ended = grid.gridctl("invoke", "echo", "-d", "-", stdin=json.dumps("x" * (6 << 20)))
    assert ended.returncode == 1
    assert "6 MiB" in ended.stderr


def _whole(grid: Grid, *argv: str) -> dict[str, Any]:
    """`gridctl invoke --json` that has to succeed."""
    ended = grid.gridctl("invoke", *argv, "--json")
    assert ended.returncode == 0, ended.stderr
    whole: dict[str, Any] = json.loads(ended.stdout)
    assert whole["schema"] == 1
    return whole
