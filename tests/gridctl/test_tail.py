import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridctl.tail import MAX_CURSORS, Tail, chosen, further
from gridnode.errors import CallTimeout, GridError, LinkClosed, NodeNotFound
from gridnode.messages import MAX_LOG_LINES, LogQuery, LogReply
from gridnode.model import LogLine, Member, MemberState, NodeId, NodeRecord

ONE, TWO = NodeId("aa" * 20), NodeId("ab" * 20)


def member(name: str, node: NodeId, state: str = "alive") -> Member:
    return Member(NodeRecord(node, name, 1, 1, (), "1", 0), MemberState(state), 0.0)


def line(time: int, text: str = "", instance: str = "i1") -> LogLine:
    return LogLine(time, "echo", instance, "stdout", text or str(time))


class Fleet:
    """Nodes that keep their lines. errors: what a node answers instead."""

    def __init__(self) -> None:
        self.members = [member("node-2", TWO), member("node-1", ONE)]
        self.lines: dict[NodeId, list[LogLine]] = {ONE: [line(1), line(3)], TWO: [line(2), line(4)]}
        self.errors: dict[NodeId, GridError] = {}
        self.lost = False
        self.queries: list[LogQuery] = []

    async def nodes(self) -> list[Member]:
        if self.lost:
            raise LinkClosed("gone")
        return self.members

    async def logs(self, node: NodeId, query: LogQuery) -> LogReply:
        self.queries.append(query)
        if node in self.errors:
            raise self.errors[node]
        known = query.after
        found = [one for one in self.lines[node] if one.time > known.get(one.instance, query.since)]
        return LogReply(tuple(found[-query.lines :]), 100, len(found) > query.lines)


@pytest.fixture
def fleet() -> Fleet:
    return Fleet()


async def texts(tail: Tail, fleet: Fleet) -> list[str]:
    return [f"{row.node.name} {row.line.text}" for row in await tail.poll(fleet)]


async def test_lines_of_all_nodes_come_by_time_and_once(fleet: Fleet) -> None:
    tail = Tail(LogQuery(lines=10))
    assert await texts(tail, fleet) == ["node-1 1", "node-2 2", "node-1 3", "node-2 4"]
    assert await texts(tail, fleet) == []
    fleet.lines[TWO].append(line(5))
    fleet.lines[ONE].append(line(4, "another", "i2"))
    assert await texts(tail, fleet) == ["node-1 another", "node-2 5"]
    assert (fleet.queries[-1].seen, fleet.queries[-1].lines) == (100, MAX_LOG_LINES)
    assert (tail.answered, tail.missing, tail.cut) == ({ONE, TWO}, {}, set())


async def test_what_was_left_out_at_first_does_not_come_later(fleet: Fleet) -> None:
    fleet.lines[ONE] = [line(1, "", "old"), line(2, "", "old"), line(3), line(5)]
    tail = Tail(LogQuery(lines=2), "node-1")
    assert await texts(tail, fleet) == ["node-1 3", "node-1 5"]
    assert tail.cut == {"node-1"}
    fleet.lines[ONE].append(line(4, "late", "old"))
    assert await texts(tail, fleet) == ["node-1 late"]
    assert tail.cut == set()


async def test_a_node_that_cannot_be_asked_is_named_and_comes_back(fleet: Fleet) -> None:
    fleet.errors = {ONE: CallTimeout("no answer")}
    tail = Tail(LogQuery())
    assert await texts(tail, fleet) == ["node-2 2", "node-2 4"]
    assert tail.missing == {ONE: ("node-1", "no answer")}
    fleet.errors = {}
    fleet.members[0] = member("node-2", TWO, "dead")
    assert await texts(tail, fleet) == ["node-1 1", "node-1 3"]
    assert (tail.missing, tail.answered) == ({TWO: ("node-2", "it is dead")}, {ONE})
    fleet.members[0] = member("node-2", TWO, "left")
    await tail.poll(fleet)
    assert tail.missing == {TWO: ("node-2", "it is left")}
    fleet.members = [member("node-1", ONE)]
    await tail.poll(fleet)
    assert (tail.missing, tail.answered) == ({}, {ONE})


async def test_a_node_that_left_before_is_not_asked_for(fleet: Fleet) -> None:
    fleet.members[0] = member("node-2", TWO, "left")
    tail = Tail(LogQuery())
    assert await texts(tail, fleet) == ["node-1 1", "node-1 3"]
    assert tail.missing == {}


async def test_our_own_link_that_is_lost_is_no_fault_of_the_nodes(fleet: Fleet) -> None:
    tail = Tail(LogQuery())
    await tail.poll(fleet)
    fleet.errors = dict.fromkeys((ONE, TWO), LinkClosed("gone"))
    fleet.lost = True
    with pytest.raises(LinkClosed):
        await tail.poll(fleet)


async def test_a_node_that_whoever_we_ask_does_not_know_yet(fleet: Fleet) -> None:
    tail = Tail(LogQuery(), "node-2")
    assert await texts(tail, fleet) == ["node-2 2", "node-2 4"]
    fleet.members = [member("node-1", ONE)]
    assert await texts(tail, fleet) == []
    with pytest.raises(NodeNotFound):
        await Tail(LogQuery(), "node-2").poll(fleet)


async def test_an_engine_that_does_not_answer_is_missing_lines(fleet: Fleet) -> None:
    async def logs(node: NodeId, query: LogQuery) -> LogReply:
        return LogReply((line(1),), error="no engine")

    fleet.logs = logs  # type: ignore[method-assign]
    tail = Tail(LogQuery(), "node-1")
    assert await texts(tail, fleet) == ["node-1 1"]
    assert tail.missing == {ONE: ("node-1", "no engine")}


def test_which_nodes() -> None:
    members = [member("node-2", TWO), member("node-1", ONE), member("ab", NodeId("ac" * 20))]
    assert [one.record.name for one in chosen(members, "")] == ["ab", "node-1", "node-2"]
    for wanted, name in (("node-1", "node-1"), (ONE, "node-1"), ("aba", "node-2"), ("ab", "ab")):
        assert [one.record.name for one in chosen(members, wanted)] == [name]
    with pytest.raises(NodeNotFound, match="there are ab, node-1, node-2"):
        chosen(members, "node-9")
    with pytest.raises(NodeNotFound, match="3 nodes"):
        chosen(members, "a")


@given(st.lists(st.tuples(st.integers(0, 2**63), st.text(max_size=3)), max_size=50), st.booleans())
def test_cursors_only_go_forward(found: list[tuple[int, str]], cut: bool) -> None:
    query = LogQuery(since=5, after={"a": 7})
    lines = tuple(sorted((line(time, "x", name) for time, name in found), key=lambda one: one.time))
    after = further(query, LogReply(lines, 9, cut))
    assert after.since >= 5
    assert after.after["a"] >= 7
    assert all(after.after[one.instance] >= one.time for one in lines)


def test_cursors_are_bounded() -> None:
    lines = tuple(line(number, "x", f"i{number}") for number in range(1, MAX_CURSORS + 11))
    after = further(LogQuery(), LogReply(lines))
    assert len(after.after) == MAX_CURSORS
    assert after.since == 10, "what is not remembered one by one is known to be older"
