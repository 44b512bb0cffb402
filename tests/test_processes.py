"""What runs where: one node's own report, and everybody's."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridnode import messages
from gridnode.errors import BodyInvalid, BodyTooLarge, GridError, LinkClosed, NodeNotFound
from gridnode.messages import MAX_PROCESSES, ProcessReport, decode_processes
from gridnode.model import InstanceId, Member, MemberState, NodeId, NodeRecord, Process
from gridnode.processes import Processes
from gridnode.wire import Frame, Kind, Op

ME, OTHER, DEAD = NodeId("a" * 40), NodeId("b" * 40), NodeId("c" * 40)
ECHO = Process("echo", "tasks/echo.py", "ready", InstanceId("11111111"), 3.0, 1, 2)
WORDS = Process("words", "tasks/words.py", "errored", None, 9.0, 11, 0, "boom\n")


def member(node: NodeId, name: str, state: MemberState = MemberState.ALIVE) -> Member:
    return Member(NodeRecord(node, name, 1, 0, (), "1", 0), state, 0.0)


class Far:
    """A link to another node."""

    def __init__(self, answer: bytes | BaseException) -> None:
        self.answer = answer
        self.asked: list[str] = []

    async def request(self, op: Op, *, name: str, timeout: float) -> bytes:
        assert op is Op.PROCESSES
        self.asked.append(name)
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


def processes(far: Far | None = None, own: list[Process] | None = None, *members: Member) -> Processes:
    known = [member(ME, "me"), member(OTHER, "other"), *members]
    mine = [ECHO, WORDS] if own is None else own

    async def peer(node: NodeId) -> Any:
        if far is None:
            raise NodeNotFound("not linked to the node that was asked")
        return far

    return Processes(ME, lambda: known, peer, lambda: mine, lambda: {"echo": 4, "words": 2})


def ask(task: str = "") -> Frame:
    return Frame(Kind.CALL, 1, Op.PROCESSES, name=task)


async def everywhere(one: Processes, task: str = "") -> list[ProcessReport]:
    return messages.decode(await one.everywhere(ask(task)), list[ProcessReport])


async def test_a_node_reports_its_own() -> None:
    one = processes()
    report = decode_processes(await one.here(ask()))
    assert (report.node, report.processes, report.orders) == (ME, (ECHO, WORDS), {"echo": 4, "words": 2})
    report = decode_processes(await one.here(ask("words")))
    assert (report.processes, report.orders) == ((WORDS,), {"words": 2})


async def test_everybody_is_asked_and_named_by_what_we_know_of_them() -> None:
    far = Far(messages.encode(ProcessReport(NodeId("f" * 40), "liar", processes=(ECHO,), orders={"echo": 9})))
    gone = member(NodeId("d" * 40), "left", MemberState.LEFT)
    reports = await everywhere(processes(far, None, member(DEAD, "down", MemberState.DEAD), gone), "echo")
    assert [(one.name, one.node, one.state.value) for one in reports] == [
        ("down", DEAD, "dead"),
        ("me", ME, "alive"),
        ("other", OTHER, "alive"),
    ]
    assert [one.processes for one in reports] == [(), (ECHO,), (ECHO,)]
    assert [one.error for one in reports] == ["down is dead", "", ""]
    assert reports[2].orders == {"echo": 9}
    assert far.asked == ["echo"]


@pytest.mark.parametrize(
    "answer", [LinkClosed("gone"), TimeoutError(), GridError("x"), b"", b"\xff" * 9, b"\x91" * 9999]
)
async def test_one_that_does_not_answer_spoils_nothing(answer: bytes | BaseException) -> None:
    me, other = await everywhere(processes(Far(answer)))
    assert (me.processes, me.error) == ((ECHO, WORDS), "")
    assert other.processes == ()
    assert other.error


async def test_one_without_a_link_is_named() -> None:
    assert (await everywhere(processes()))[1].error == "not linked to the node that was asked"


async def test_a_report_is_bounded() -> None:
    many = [Process("t", "tasks/t.py", "errored", why="x" * 9000)] * (MAX_PROCESSES + 9)
    report = decode_processes(await processes(None, many).here(ask()))
    assert (len(report.processes), len(report.processes[0].why)) == (MAX_PROCESSES, 400)
    report = decode_processes(await processes(None, many[:3]).here(ask()))
    assert len(report.processes[0].why) == messages.MAX_WHY


async def test_more_than_a_reply_holds_is_an_error_with_advice() -> None:
    many = [Process("t", "tasks/t.py", "errored", why="x" * 400)] * MAX_PROCESSES
    far = Far(await processes(None, many).here(ask()))
    others = [member(NodeId(f"{number:040d}"), f"n{number}") for number in range(9)]
    with pytest.raises(BodyTooLarge) as caught:
        await processes(far, many, *others).everywhere(ask())
    assert "gridctl ps TASK" in str(caught.value.hint)


@pytest.mark.parametrize(
    "bad",
    [
        ProcessReport(ME, "", processes=(Process("t" * 2000, "f", "ready"),)),
        ProcessReport(ME, "", processes=(Process("t", "f", "ready", why="x" * 9999),)),
        ProcessReport(ME, "", processes=(ECHO,) * (MAX_PROCESSES + 1)),
        ProcessReport(ME, "", orders={str(number): 1 for number in range(5000)}),
    ],
    ids=["task", "why", "processes", "orders"],
)
def test_reports_out_of_bounds_are_refused(bad: ProcessReport) -> None:
    with pytest.raises(BodyInvalid):
        decode_processes(messages.encode(bad))


@given(st.binary(max_size=200))
def test_garbage_is_refused(raw: bytes) -> None:
    with pytest.raises(BodyInvalid):
        decode_processes(raw)
