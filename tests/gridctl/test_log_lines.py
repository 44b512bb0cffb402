import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridctl.log_lines import Printer, as_fields, own_text, time_text
from gridctl.tail import Row
from gridnode.messages import OWN_LOG
from gridnode.model import LogLine, NodeId, NodeRecord

AT = 1_795_489_200_000_000_007
RECORD = NodeRecord(NodeId("ab" * 20), "node-1", 1, 1, (), "1", 0)


def row(text: str, task: str = "echo", stream: str = "stdout") -> Row:
    return Row(RECORD, LogLine(AT, task, "" if task == OWN_LOG else "3f9c2a1b", stream, text))


def test_a_line_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    Printer(None, False).print([row("text"), row("err", stream="stderr")])
    assert capsys.readouterr().out == (
        "2026-11-24T03:00:00Z node-1 echo/3f9c2a1b | text\n2026-11-24T03:00:00Z node-1 echo/3f9c2a1b | err\n"
    )
    Printer(None, False).print([])
    assert capsys.readouterr().out == ""


def test_nothing_that_a_task_prints_steers_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    Printer(None, False).print([row("\x1b[2J\x9b1m\rgone\u202e\nforged line\r")])
    out = capsys.readouterr().out
    assert out.endswith(" | \\x1b[2J\\x9b1m\\x0dgone\\x202e\\x0aforged line\n")
    Printer(None, True).print([row("\x1b\x9b\u202e")])
    raw = capsys.readouterr().out
    assert raw.isascii()
    assert json.loads(raw)["text"] == "\x1b\x9b\u202e"


def test_gridnodes_own_lines() -> None:
    text = '{"event": "instance ended", "reason": "exit code 3", "n": 1, "level": "warning", "timestamp": "x"}'
    line = row(text, OWN_LOG, "warning").line
    assert own_text(line) == 'instance ended reason="exit code 3" n=1'
    assert own_text(row("[1]", OWN_LOG).line) == "[1]"
    assert own_text(row("{torn", OWN_LOG).line) == "{torn"


def test_a_line_for_programs() -> None:
    assert as_fields(row("text")) == {
        "schema": 1,
        "time": "2026-11-24T03:00:00.000000007Z",
        "node": {"id": "ab" * 20, "name": "node-1"},
        "task": "echo",
        "instance": "3f9c2a1b",
        "stream": "stdout",
        "text": "text",
    }
    own = as_fields(row("{}", OWN_LOG, "info"))
    assert (own["task"], own["instance"], own["stream"]) == (None, None, "info")


def test_a_pattern() -> None:
    printer = Printer(re.compile("err|warn"), False)
    assert [printer.matches(row(text)) for text in ("an error", "fine")] == [True, False]


@given(st.integers(-(2**63), 2**64))
def test_any_time_can_be_shown(nanoseconds: int) -> None:
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z", time_text(nanoseconds))
