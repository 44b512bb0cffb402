"""What the doctor makes of nodes that do not answer, and how it is shown."""

import io
from typing import Any, cast

from gridctl.diagnosing import Findings, _node, _release, _tasks, as_fields, lines
from gridnode.diagnosis import Check, Verdict
from gridnode.errors import CallTimeout, GridError, LinkClosed
from gridnode.model import Member, MemberState, NodeId, NodeRecord

MEMBER = Member(NodeRecord(NodeId("a" * 40), "web-1", 1, 1, (), "1", 0), MemberState.ALIVE, 0.0)


class Mute:
    """A Grid of which nothing is to be learnt."""

    def __init__(self, error: GridError) -> None:
        self.error = error

    async def diagnose(self, node: NodeId) -> Any:
        raise self.error

    async def release(self) -> Any:
        raise self.error

    async def processes(self) -> Any:
        raise self.error


async def test_what_cannot_be_asked_is_wrong_and_ends_nothing() -> None:
    grid = cast(Any, Mute(CallTimeout("no answer within 5 s")))
    found, clock = await _node(grid, MEMBER)
    assert (found.is_well, clock) == (False, None)
    assert found.checks[0].said == "no answer within 5 s"
    silent = cast(Any, Mute(LinkClosed("gone")))
    checks = [*await _release(silent, [MEMBER]), *await _tasks(silent)]
    assert [(check.subject, check.verdict, check.said) for check in checks] == [
        ("release", Verdict.WRONG, "gone"),
        ("tasks", Verdict.WRONG, "gone"),
    ]
    assert all(check.hint for check in checks)


def test_only_what_is_not_well_is_shown_unless_all_is_asked_for() -> None:
    found = Findings("web-1", "a" * 40, [Check("disk", Verdict.OK, "fine"), Check("card", Verdict.NOTE, "ends", "new")])
    assert found.is_well
    assert lines(found, False, io.StringIO()) == [
        "web-1: 1 of 2 checks well",
        "  note  card      ends",
        "                  new",
    ]
    assert "  ok    disk      fine" in lines(found, True, io.StringIO())
    assert as_fields(found)["ok"] is True


def test_what_nodes_say_cannot_steer_a_terminal() -> None:
    found = Findings("web\x1b[2J", "", [Check("di\x1bsk", Verdict.WRONG, "full\n\x1b]0;x\x07", "a\rb")])
    assert not any("\x1b" in line or "\n" in line or "\r" in line for line in lines(found, True, io.StringIO()))
    assert not found.is_well
