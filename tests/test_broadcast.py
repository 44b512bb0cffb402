"""Broadcasts: who is asked, who is missing, and a reader that is slow or goes away."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from gridnode import wire
from gridnode.broadcast import LINGER, MAX_ASKED, Broadcasts
from gridnode.errors import BodyInvalid, CallTimeout, GridError, TaskNotFound, TaskRaised
from gridnode.flow import FIRST_SIZE, Stream
from gridnode.link import Cancel
from gridnode.link.protocol import Link
from gridnode.link.reader import Reader
from gridnode.model import (
    Done,
    InstanceId,
    Invocation,
    InvocationId,
    Member,
    MemberState,
    NodeId,
    NodeRecord,
    Outcome,
    TaskName,
)
from gridnode.wire import Frame, Op
from tests.fakes.peers import End, hop, until

TASK = TaskName("t")


def member(number: int, state: MemberState = MemberState.ALIVE, **fields: Any) -> Member:
    given = {"tasks": (TASK,), **fields}
    return Member(NodeRecord(NodeId(f"{number:040x}"), f"n{number}", 1, 0, (), "1", 0, **given), state, 0.0)


class House:
    """A grid's members, each of which answers, or not."""

    def __init__(self, *members: Member) -> None:
        self.members = list(members)
        self.asked: dict[str, tuple[Invocation, Done]] = {}
        self.cancelled: list[str] = []
        self.answer: Outcome | None = Outcome(b'{"x":\n1}', instance=InstanceId("ab" * 4), duration=0.5)
        self.broadcasts = Broadcasts(lambda: self.members, self.route, self.check, lambda task: 5.0, 60.0)

    def check(self, task: TaskName) -> None:
        if task != TASK:
            raise TaskNotFound(f"no task {task}")

    def route(self, call: Invocation, done: Done, node: str) -> Cancel:
        self.asked[node] = call, done
        if self.answer:
            done(self.answer)
        return lambda: self.cancelled.append(node)

    def start(self, task: TaskName = TASK, seconds: float = 5.0, node: str = "") -> "tuple[Reader[Outcome], Cancel]":
        reader: Reader[Outcome] = Reader()
        deadline = asyncio.get_running_loop().time() + seconds
        call = Invocation(InvocationId(""), task, b"7", deadline, stream=reader.stream)
        return reader, self.broadcasts.route(call, reader.end, node)


async def all_of(reader: Reader[Any]) -> list[dict[str, Any]]:
    lines = []
    async with asyncio.timeout(20):
        while (line := await reader.next()) is not None:
            assert b"\n" not in line
            lines.append(json.loads(line))
    return lines


async def test_each_node_is_asked_and_the_missing_are_named() -> None:
    house = House(
        member(1),
        member(2, MemberState.DEAD),
        member(3, MemberState.SUSPECT),
        member(4, MemberState.LEFT),
        member(5, draining=True),
        member(6, tasks=()),
        member(7),
    )
    reader, _ = house.start()
    found = {line["name"]: line for line in await all_of(reader)}
    assert reader.outcome == Outcome()
    missing = {name: (line["missing"], line["error"]["code"]) for name, line in found.items() if "missing" in line}
    assert missing == {
        "n2": ("dead", "no_node"),
        "n3": ("suspect", "no_node"),
        "n5": ("draining", "not_ready"),
        "n6": ("no task", "task_not_found"),
    }
    one = {"node": f"{1:040x}", "name": "n1", "instance": "abababab", "duration_ms": 500.0, "result": {"x": 1}}
    assert found["n1"] == one
    assert set(found) == {"n1", "n2", "n3", "n5", "n6", "n7"}
    calls = [call for call, _ in house.asked.values()]
    assert [(call.task, call.body, call.stream) for call in calls] == [(TASK, b"7", None)] * 2
    assert len({call.meta for call in calls}) == 2


async def test_outcomes_come_as_they_do() -> None:
    house = House(*map(member, range(3)))
    house.answer = None
    reader, cancel = house.start()
    await until(lambda: len(house.asked) == 3)
    for number in (2, 0):
        house.asked[f"{number:040x}"][1](Outcome(error=TaskRaised("no", trace="tr")))
        line = await reader.next()
        assert line
        assert json.loads(line)["error"] == {"code": "task_raised", "message": "no", "trace": "tr"}
        assert json.loads(line)["name"] == f"n{number}"
    assert reader.outcome is None
    cancel()
    cancel()
    assert house.cancelled == [f"{1:040x}"]
    house.asked[f"{1:040x}"][1](Outcome(b"1"))
    assert not reader.has_items


@pytest.mark.parametrize("body", [b"{", b"1\n2", b"x" * 10, b'"' + b"x" * wire.MAX_CALL_BODY + b'"'])
async def test_a_result_that_cannot_be_told(body: bytes) -> None:
    house = House(member(1))
    house.answer = Outcome(body)
    reader, _ = house.start()
    assert [line["error"]["code"] for line in await all_of(reader)] in (["body_invalid"], ["body_too_large"])


async def test_a_reader_that_is_slow_holds_up_the_rest() -> None:
    """So that no more results wait here than there is room for."""
    house = House(*map(member, range(4 * MAX_ASKED)))
    house.answer = Outcome(b'"%s"' % (b"x" * FIRST_SIZE))
    reader, _ = house.start()
    await until(lambda: house.asked)
    for _ in range(20):
        await asyncio.sleep(0)
    assert len(house.asked) <= MAX_ASKED + 1
    assert len(await all_of(reader)) == 4 * MAX_ASKED


@pytest.mark.parametrize(("task", "node", "code"), [("other", "", "task_not_found"), (TASK, "n1", "body_invalid")])
async def test_what_cannot_be_broadcast(task: TaskName, node: str, code: str) -> None:
    reader, cancel = House(member(1)).start(task, node=node)
    cancel()
    assert reader.outcome
    assert reader.outcome.error
    assert (reader.outcome.error.code, reader.outcome.started) == (code, False)


async def test_a_reader_that_takes_nothing_is_waited_for_until_a_while_after_the_deadline() -> None:
    house = House(member(1), member(2))
    house.answer = None
    reader, _ = house.start(seconds=0.05 - LINGER)
    await until(lambda: reader.outcome)
    assert reader.outcome
    assert isinstance(reader.outcome.error, CallTimeout)
    assert len(house.cancelled) == 2


# -- over a link ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flood", [1, 300])
async def test_over_a_link(tmp_path: Path, flood: int) -> None:
    house = House(*map(member, range(flood)))
    async with hop("unix", End(house.broadcasts.take), tmp_path) as place:
        near = await place.dial(End())
        reader: Reader[Frame | GridError] = Reader()
        near.call(Op.BROADCAST, TASK, b"7", reader.end, stream=reader.stream)
        assert len(await all_of(reader)) == flood
        assert isinstance(reader.outcome, Frame)
        assert (reader.outcome.flags, reader.outcome.body) == (0, b"")
        with pytest.raises(BodyInvalid, match="in parts"):
            await near.request(Op.BROADCAST, name=TASK)
        refused: Reader[Frame | GridError] = Reader()
        near.call(Op.BROADCAST, "other", b"", refused.end, stream=refused.stream)
        assert await refused.next() is None
        with pytest.raises(TaskNotFound):
            wire.read_reply(refused.outcome or Frame(0, 0))


async def test_a_client_that_goes_gives_it_up(tmp_path: Path) -> None:
    house = House(*map(member, range(3)))
    house.answer = None
    async with hop("unix", End(house.broadcasts.take), tmp_path) as place:
        near: Link = await place.dial(End())
        near.call(Op.BROADCAST, TASK, b"", lambda reply: None, stream=Stream(lambda item: None))
        await until(lambda: len(house.asked) == 3)
        near.close()
        await until(lambda: len(house.cancelled) == 3)
