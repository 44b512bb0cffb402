"""`gridctl drain`, `undrain`, `forget`, `ping` and `doctor` over a grid of real nodes in this process."""

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from gridctl.cli import run
from gridctl.nodes import Drained
from gridctl.ping import Row, matrix, time_text
from gridnode.diagnosis import RoundTrip
from gridnode.model import Load, Member, MemberState, NodeId, NodeRecord
from tests.gridctl.conftest import RunningGrid

A = NodeRecord(NodeId("a" * 40), "a", 1, 1, (), "1", 0)
B = NodeRecord(NodeId("b" * 40), "b", 1, 1, (), "1", 0)
Ask = Callable[..., dict[str, Any]]


def test_when_a_node_is_drained() -> None:
    one = Drained(A.id, "a", wanted=True)

    def says(drained: bool, calls: int, state: MemberState = MemberState.ALIVE) -> bool:
        record = NodeRecord(A.id, "a", 1, 1, (), "1", 0, Load(calls, 8), drained=drained)
        one.take(Member(record, state, 0.0))
        return one.is_done

    assert [says(False, 0), says(True, 2), says(True, 0)] == [False, False, True]
    one.wanted = False
    assert [says(True, 0), says(False, 2)] == [False, True]


def test_a_matrix_shows_what_failed() -> None:
    trips = {B.id: RoundTrip(B.id, "b", (900, 1000, 20_000))}
    lines = matrix([Row(A, trips), Row(B, {A.id: RoundTrip(A.id, "a", error="no answer within 1 s")})])
    assert [line.split() for line in lines[:3]] == [
        ["FROM", "\\", "TO", "a", "b"],
        ["a", "-", "1.00", "ms"],
        ["b", "?", "-"],
    ]
    assert lines[3:] == ["b to a: no answer within 1 s"]
    assert matrix([Row(A, error="dead")])[2:] == ["a: dead"]


@pytest.mark.parametrize(("seconds", "text"), [(0.00083, "0.83 ms"), (0.0121, "12.1 ms"), (1.23, "1.2 s")])
def test_times(seconds: float, text: str) -> None:
    assert time_text(seconds) == text


@pytest.fixture
def ask(hello_grid: RunningGrid, capsys: pytest.CaptureFixture[str]) -> Iterator[Ask]:
    """Runs gridctl and gives what it says in JSON; no node stays drained."""

    def asked(*argv: str, code: int = 0) -> dict[str, Any]:
        assert run([*argv, "--json", "--gridfile", str(hello_grid.gridfile)]) == code
        fields: dict[str, Any] = json.loads(capsys.readouterr().out)
        assert fields["schema"] == 1
        return fields

    yield asked
    asked("undrain", "node-1", "node-2")


def served_by(ask: Ask, calls: int = 8) -> set[str]:
    return {str(ask("invoke", "echo", "-d", "1")["node"]["name"]) for _ in range(calls)}


def states(ask: Ask) -> dict[str, tuple[bool, bool]]:
    return {one["name"]: (one["draining"], one["drained"]) for one in ask("ls")["nodes"]}


def test_a_drained_node_takes_no_calls_until_it_is_undrained(ask: Ask) -> None:
    done = ask("drain", "node-2")["nodes"]
    assert [(one["name"], one["done"], one["calls"]) for one in done] == [("node-2", True, 0)]
    assert states(ask) == {"node-1": (False, False), "node-2": (True, True)}
    assert served_by(ask) == {"node-1"}
    assert "is drained" in ask("invoke", "echo", "-d", "1", "--node", "node-2", code=1)["error"]["message"]
    assert ask("drain", "node-2")["nodes"][0]["done"], "again changes nothing"
    ask("undrain", "node-2")
    assert states(ask) == {"node-1": (False, False), "node-2": (False, False)}
    deadline = time.monotonic() + 20
    while served_by(ask) != {"node-1", "node-2"}:
        assert time.monotonic() < deadline
    assert [(one["kind"]) for one in ask("audit")["entries"][:2]] == ["node", "node"]


def test_a_grid_without_a_node_that_takes_calls_says_so(ask: Ask) -> None:
    ask("drain", "node-1", "node-2")
    assert "every node that serves echo is draining" in ask("invoke", "echo", code=1)["error"]["message"]


def test_a_living_node_is_not_forgotten(ask: Ask) -> None:
    error = ask("forget", "node-2", code=2)["error"]
    assert error["message"] == "node-2 is alive: only a node that is dead or has left can be forgotten"
    assert "gridctl drain node-2" in error["hint"]
    assert set(states(ask)) == {"node-1", "node-2"}


@pytest.mark.parametrize("verb", ["drain", "undrain", "forget", "ping"])
def test_a_node_that_nobody_knows(ask: Ask, verb: str) -> None:
    assert "there are node-1, node-2" in ask(verb, "nobody", code=5)["error"]["message"]


def test_pinging_one_and_all(ask: Ask) -> None:
    one = ask("ping", "node-2", "--count", "3")
    assert (one["name"], len(one["ms"]), one["error"]) == ("node-2", 3, None)
    assert all(0 < time < 1000 for time in one["ms"])
    rows = ask("ping", "--all")["nodes"]
    assert [(row["name"], [to["name"] for to in row["to"]]) for row in rows] == [
        ("node-1", ["node-2"]),
        ("node-2", ["node-1"]),
    ]
    assert all(len(to["ms"]) == 4 and min(to["ms"]) > 0 for row in rows for to in row["to"])
    assert ask("ping", code=2)["error"]["code"] == "usage"


def test_what_is_said_for_people(hello_grid: RunningGrid, capsys: pytest.CaptureFixture[str]) -> None:
    def said(*argv: str) -> str:
        assert run([*argv, "--gridfile", str(hello_grid.gridfile)]) == 0
        captured = capsys.readouterr()
        return captured.out + captured.err

    assert "node-2: drained, no call inside" in said("drain", "node-2")
    assert " drained " in said("ls")
    assert "gridctl undrain node-2" in said("doctor")
    assert "node-2: takes calls" in said("undrain", "node-2")
    assert "median" in said("ping", "node-1")
    assert said("ping", "--all").startswith("FROM")


def test_a_doctor_finds_a_sound_grid_sound(ask: Ask) -> None:
    found = ask("doctor")
    subjects = {one["name"]: {check["subject"] for check in one["checks"]} for one in found["nodes"]}
    of_a_node = {"engine", "images", "disk", "card", "ports", "nat", "multicast"}
    assert subjects == {"node-1": of_a_node, "node-2": of_a_node}
    whole = {check["subject"]: check["verdict"] for check in found["grid"]["checks"]}
    assert set(whole) == {"members", "seeds", "clocks", "release", "versions", "names", "tasks"}
    assert (found["ok"], set(whole.values())) == (True, {"ok"})
