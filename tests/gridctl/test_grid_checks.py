"""What the doctor makes of what nodes say of the grid."""

from collections.abc import Sequence

import pytest
from msgspec.structs import replace

from gridctl.grid_checks import (
    Clock,
    check_clocks,
    check_members,
    check_names,
    check_release,
    check_seeds,
    check_tasks,
    check_versions,
    clock_of,
)
from gridnode.diagnosis import Check, Verdict
from gridnode.messages import ProcessReport
from gridnode.model import (
    Address,
    Member,
    MemberState,
    NodeId,
    NodeRecord,
    Process,
    Release,
    ReleaseState,
    ReleaseStatus,
    Root,
)

ROOT = Root("3f9c" + "0" * 60)
RELEASE = Release("p", ROOT, 3, 0, 0, 0, ())
ACTIVE = ReleaseStatus(3, ROOT, ReleaseState.ACTIVE)
OK, NOTE, WRONG = Verdict.OK, Verdict.NOTE, Verdict.WRONG
SURE = 0.01


def member(name: str, state: str = "alive", release: ReleaseStatus | None = ACTIVE, **fields: object) -> Member:
    record = NodeRecord(NodeId(name * 40), name, 1, 1, (), "1.0", 0, release=release)
    return Member(replace(record, **fields), MemberState(state), 1000.0)


def verdicts(checks: Sequence[Check]) -> list[Verdict]:
    """All that is not well says what to do."""
    assert all(check.said and bool(check.hint) == (check.verdict is not OK) for check in checks)
    return [check.verdict for check in checks]


@pytest.mark.parametrize(
    ("ahead", "verdict", "named"),
    [
        ({"a": 0.0, "b": 0.1, "c": -0.1}, [OK], []),
        ({"a": 0.0, "b": 2.0, "c": 0.0}, [NOTE], ["clock of b is 2.0 s ahead"]),
        ({"a": 0.0, "b": -90.0, "c": 0.0}, [WRONG], ["clock of b is 90.0 s behind"]),
        ({"a": 60.0, "b": 60.1, "c": 60.2}, [WRONG], ["this machine is 60.1 s behind"]),
        ({"a": -5.0}, [NOTE], ["this machine is 5.0 s ahead of"]),
        ({}, [], []),
    ],
)
def test_clocks(ahead: dict[str, float], verdict: list[Verdict], named: list[str]) -> None:
    checks = check_clocks({name: Clock(seconds, SURE) for name, seconds in ahead.items()})
    assert verdicts(checks) == verdict
    assert all(text in check.said for text, check in zip(named, checks, strict=False))


def test_a_slow_way_is_no_wrong_clock() -> None:
    assert verdicts(check_clocks({"a": Clock(3.0, 3.0), "b": Clock(0.0, SURE)})) == [OK]


@pytest.mark.parametrize("ahead", [0, 10**6, -(10**9), 3 * 10**12])
@pytest.mark.parametrize(("there", "took", "back"), [(0, 0, 0), (10**6, 10**9, 10**6), (10**9, 1, 0), (0, 5, 10**10)])
def test_the_true_difference_is_within_what_is_said(there: int, took: int, back: int, ahead: int) -> None:
    asked = 10**18
    clock = clock_of(asked, asked + there + took + back, asked + there + ahead, took)
    assert abs(clock.ahead - ahead / 1e9) <= clock.unsure + 1e-6


def test_members() -> None:
    assert verdicts(check_members([member("a"), member("b")], 1060.0)) == [OK]
    checks = check_members(
        [member("a"), member("b", "dead"), member("c", "suspect"), member("d", drained=True)], 1060.0
    )
    assert verdicts(checks) == [WRONG, NOTE, NOTE]
    assert checks[0].said == "b is dead, for 1m"
    assert "gridctl forget b" in checks[0].hint
    assert checks[2].hint == "gridctl undrain d"


def test_the_release() -> None:
    old, failed = replace(ACTIVE, sequence=2), replace(ACTIVE, state=ReleaseState.FAILED, error="no room")
    fetching = replace(ACTIVE, state=ReleaseState.FETCHING)
    assert verdicts(check_release([member("a"), member("b", "dead", None)], RELEASE)) == [OK]
    assert verdicts(check_release([member("a")], None)) == [OK]
    rows = [member("a"), member("b", release=old), member("c", release=failed), member("d", release=fetching)]
    checks = check_release([*rows, member("e", release=None)], RELEASE)
    assert verdicts(checks) == [WRONG, WRONG, NOTE, WRONG]
    assert "b is at release 2, the grid at release 3" in checks[0].said
    assert "no room" in checks[1].said


def test_versions_and_names() -> None:
    rows = [member("a"), member("b")]
    assert verdicts([check_versions(rows), check_names(rows)]) == [OK, OK]
    other = member("c", version="1.1")
    other = replace(other, record=replace(other.record, name="a"))
    checks = [check_versions([*rows, other]), check_names([*rows, other])]
    assert verdicts(checks) == [NOTE, NOTE]
    assert "1.0 on 2, 1.1 on 1" in checks[0].said
    assert "called a" in checks[1].said
    assert verdicts([check_names([*rows, replace(other, state=MemberState.LEFT)])]) == [OK]


def test_seeds() -> None:
    one, two = Address("10.0.0.1", 7400), Address("10.0.0.2", 7400)
    assert verdicts(check_seeds({one: "", two: ""})) == [OK]
    checks = check_seeds({one: "", two: "connection refused"})
    assert verdicts(checks) == [WRONG]
    assert checks[0].said == "10.0.0.2:7400: connection refused"


def test_tasks() -> None:
    def report(name: str, *states: str) -> ProcessReport:
        processes = tuple(Process(task, f"tasks/{task}.py", state) for task, state in zip("xyz", states, strict=False))
        return ProcessReport(NodeId(name * 40), name, processes=processes)

    assert verdicts(check_tasks([report("a", "ready", "waiting")])) == [OK]
    checks = check_tasks([report("a", "errored"), report("b", "errored", "errored")])
    assert verdicts(checks) == [WRONG, WRONG]
    assert checks[0].said == "x ended too often on a, b"
