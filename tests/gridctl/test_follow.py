"""A release arriving at nodes whose states are scripted, poll by poll."""

import pytest

from gridctl.follow import RETRY_PATIENCE, Arrival, Follow
from gridnode.errors import LedgerError, NodeNotFound, TaskFailure
from gridnode.model import (
    Address,
    Member,
    MemberState,
    NodeId,
    NodeRecord,
    ReleaseReport,
    ReleaseState,
    ReleaseStatus,
    Root,
)

ROOT = Root("ab" * 32)
BROKEN = TaskFailure("tasks/bad.py", "ImportError: no", "Traceback ...")


def status(state: str, sequence: int = 5, error: str = "") -> ReleaseStatus:
    return ReleaseStatus(sequence, ROOT, ReleaseState(state), 1, 2, error)


def member(name: str, release: ReleaseStatus | None = None, state: str = "alive") -> Member:
    record = NodeRecord(NodeId(name * 40), name, 1, 1, (Address("h", 1),), "0", 0, release=release)
    return Member(record, MemberState(state), 0.0)


class Script:
    """A grid whose nodes are the next list at each poll, the last one for ever."""

    def __init__(self, *polls: list[Member], reports: dict[str, ReleaseReport] | None = None) -> None:
        self._polls = list(polls)
        self._reports = reports or {}
        self.now = 0.0

    async def nodes(self) -> list[Member]:
        self.now += 1.0
        return self._polls.pop(0) if len(self._polls) > 1 else self._polls[0]

    async def report(self, node: NodeId) -> ReleaseReport:
        if node[0] not in self._reports:
            raise NodeNotFound("not linked")
        return self._reports[node[0]]

    def follow(self, seen: list[Arrival]) -> Follow:
        return Follow(self, 5, seen.append, lambda: self.now)


async def polled(script: Script, times: int) -> tuple[list[Arrival], list[bool]]:
    seen: list[Arrival] = []
    follow = script.follow(seen)
    return seen, [await follow.poll() for _ in range(times)]


async def test_it_ends_when_every_node_serves_it() -> None:
    script = Script(
        [member("a", status("fetching")), member("b", status("active", 4))],
        [member("a", status("active")), member("b")],
        [member("a", status("active")), member("b", status("active"))],
    )
    seen: list[Arrival] = []
    arrivals = await script.follow(seen).run()
    assert [(one.name, one.state, one.final) for one in arrivals] == [("a", "active", True), ("b", "active", True)]
    assert [(one.name, one.state) for one in seen] == [
        ("a", "fetching"),
        ("b", "waiting"),
        ("a", "active"),
        ("b", "active"),
    ]


@pytest.mark.parametrize("state", ["suspect", "dead"])
async def test_a_node_out_of_reach_is_named_and_does_not_block(state: str) -> None:
    seen, ends = await polled(Script([member("a", status("active")), member("b", state=state)]), 1)
    assert ends == [True]
    assert [(one.name, one.state, one.reachable) for one in seen] == [("a", "active", True), ("b", state, False)]


async def test_a_node_that_left_is_not_named() -> None:
    seen, ends = await polled(Script([member("a", status("active")), member("b", state="left")]), 1)
    assert ends == [True]
    assert [one.name for one in seen] == ["a"]


async def test_a_node_that_dies_on_the_way_stops_blocking_and_one_that_joins_starts() -> None:
    script = Script(
        [member("a", status("active")), member("b", status("fetching"))],
        [member("a", status("active")), member("b", status("fetching"), "dead"), member("c")],
        [member("a", status("active")), member("b", status("fetching"), "dead"), member("c", status("active"))],
    )
    _, ends = await polled(script, 3)
    assert ends == [False, False, True]


async def test_a_node_that_is_forgotten_is_forgotten_here() -> None:
    script = Script([member("a"), member("b")], [member("a", status("active"))])
    seen: list[Arrival] = []
    follow = script.follow(seen)
    assert [await follow.poll(), await follow.poll()] == [False, True]
    assert [one.name for one in follow.arrivals.values()] == ["a"]


async def test_tasks_that_do_not_start_are_final_at_once() -> None:
    report = ReleaseReport(NodeId("a" * 40), status("failed"), (BROKEN,))
    script = Script([member("a", status("failed", error="ImportError: no"))], reports={"a": report})
    seen, ends = await polled(script, 2)
    assert ends == [True, True]
    assert [(one.state, one.error, one.failures, one.final) for one in seen] == [
        ("failed", "ImportError: no", (BROKEN,), True)
    ]


async def test_what_may_heal_gets_time_to() -> None:
    away = member("a", status("failed", error="no peer has the chunks"))
    _, ends = await polled(Script([away], [away], [member("a", status("active"))]), 3)
    assert ends == [False, False, True]
    _, ends = await polled(Script([away]), int(RETRY_PATIENCE) + 1)
    assert ends == [False] * int(RETRY_PATIENCE) + [True]


async def test_a_report_of_another_release_says_nothing() -> None:
    report = ReleaseReport(NodeId("a" * 40), status("failed", 4), (BROKEN,))
    seen, ends = await polled(Script([member("a", status("failed"))], reports={"a": report}), 1)
    assert ends == [False]
    assert seen[0].failures == ()


async def test_a_newer_release_takes_over() -> None:
    with pytest.raises(LedgerError, match="release 6 took over"):
        await polled(Script([member("a", status("fetching", 6))]), 1)
