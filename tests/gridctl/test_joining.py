"""When a node has taken up its work."""

import pytest
from msgspec.structs import replace

from gridctl.joining import standing
from gridnode.model import (
    Member,
    MemberState,
    NodeId,
    NodeRecord,
    Release,
    ReleaseState,
    ReleaseStatus,
    Root,
    TaskName,
    TaskSpec,
)

ID = NodeId("a" * 40)
ROOT = Root("0" * 64)
RELEASE = Release("p", ROOT, 3, 0, 0, 0, (TaskSpec("echo", "tasks/echo.py"),))
ACTIVE = ReleaseStatus(3, ROOT, ReleaseState.ACTIVE)
RECORD = NodeRecord(ID, "n", 1, 1, (), "1", 0, release=ACTIVE, tasks=(TaskName("echo"),))


@pytest.mark.parametrize(
    ("row", "missing"),
    [
        (Member(RECORD, MemberState.ALIVE, 0.0), ""),
        (Member(RECORD, MemberState.SUSPECT, 0.0), "it is suspect"),
        (Member(replace(RECORD, id=NodeId("b" * 40)), MemberState.ALIVE, 0.0), "it is not a member"),
        (Member(replace(RECORD, draining=True), MemberState.ALIVE, 0.0), "it is going down"),
        (Member(replace(RECORD, draining=True, drained=True), MemberState.ALIVE, 0.0), ""),
        (Member(replace(RECORD, release=None), MemberState.ALIVE, 0.0), "it has not begun with release 3"),
        (
            Member(replace(RECORD, release=replace(ACTIVE, state=ReleaseState.STARTING)), MemberState.ALIVE, 0.0),
            "release 3 is starting",
        ),
        (Member(replace(RECORD, tasks=()), MemberState.ALIVE, 0.0), "it has no task ready"),
    ],
)
def test_what_a_node_lacks(row: Member, missing: str) -> None:
    assert standing([row], RELEASE, ID) == missing


def test_a_grid_without_a_release_has_nothing_to_serve() -> None:
    assert standing([Member(replace(RECORD, release=None, tasks=()), MemberState.ALIVE, 0.0)], None, ID) == ""
