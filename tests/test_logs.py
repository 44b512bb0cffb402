"""The op LOGS over a backend and kept lines that are plain lists."""

import contextlib
from typing import Any, cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridnode import messages
from gridnode.errors import BodyInvalid, EngineUnavailable, GridError
from gridnode.logs import Logs, within
from gridnode.messages import MAX_LOG_LINES, MAX_LOG_SIZE, OWN_LOG, LogQuery, LogReply
from gridnode.model import InstanceId, LogLine
from gridnode.sandbox import Held, Output

SECOND = 1_000_000_000


class Source:
    """live: instance → (task, its lines); kept: what is gone; own: gridnode's."""

    def __init__(self) -> None:
        self.live: dict[str, tuple[str, list[Output]]] = {}
        self.gone: list[LogLine] = []
        self.own: list[LogLine] = []
        self.asked: list[str] = []
        self.changed: list[int] = []
        self.error: GridError | None = None

    async def held(self) -> list[Held]:
        if self.error:
            raise self.error
        return [Held(InstanceId(name), "", task, "", True) for name, (task, _) in self.live.items()]

    async def log_lines(self, instance: InstanceId, since: int, lines: int) -> list[Output]:
        self.asked.append(instance)
        return [line for line in self.live[instance][1] if line.time > since][-lines:]

    def kept(self, task: str, changed: int) -> list[LogLine]:
        self.changed.append(changed)
        return list(self.gone)

    def read_own(self, since: int, lines: int) -> list[LogLine]:
        return [line for line in self.own if line.time > since][-lines:]

    def logs(self, now: int = 5) -> Logs:
        return Logs(cast(Any, self), self.kept, self.read_own, lambda: now)


@pytest.fixture
def source() -> Source:
    source = Source()
    source.live = {
        "aa000000": ("echo", [Output(1, "stdout", "one"), Output(4, "stderr", "four")]),
        "ab000000": ("a.b", [Output(2, "stdout", "two")]),
    }
    source.gone = [LogLine(3, "echo", "ac000000", "stdout", "three")]
    source.own = [LogLine(6, OWN_LOG, "", "info", "{}"), LogLine(7, OWN_LOG, "", "info", "{}")]
    return source


async def texts(source: Source, query: LogQuery) -> list[str]:
    return [line.text for line in (await source.logs().read(query)).lines]


async def test_lines_of_instances_that_run_and_that_are_gone_come_by_time(source: Source) -> None:
    reply = messages.decode(await source.logs().answer(b""), LogReply)
    assert [line.text for line in reply.lines] == ["one", "two", "three", "four"]
    assert reply.lines[3] == LogLine(4, "echo", "aa000000", "stderr", "four")
    assert (reply.now, reply.cut, reply.error) == (5, False, "")


async def test_of_one_task_or_one_instance(source: Source) -> None:
    assert await texts(source, LogQuery("echo")) == ["one", "three", "four"]
    assert source.asked == ["aa000000"], "others are not read"
    assert await texts(source, LogQuery("a.b")) == ["two"]
    assert await texts(source, LogQuery("a")) == []
    assert await texts(source, LogQuery(instance="ac")) == ["three"]
    assert await texts(source, LogQuery("echo", "aa")) == ["one", "four"]


async def test_the_newest_are_left_and_that_it_is_cut_is_said(source: Source) -> None:
    reply = await source.logs().read(LogQuery(lines=2))
    assert ([line.text for line in reply.lines], reply.cut) == (["three", "four"], True)


async def test_later_than_a_time_or_than_what_is_known(source: Source) -> None:
    assert await texts(source, LogQuery(since=2)) == ["three", "four"]
    assert await texts(source, LogQuery(since=2, after={"aa000000": 4})) == ["three"]
    assert await texts(source, LogQuery(after={"aa000000": 1, "ac000000": 3, "ab000000": 0})) == ["two", "four"]


async def test_kept_lines_are_looked_at_again_only_where_they_may_have_changed(source: Source) -> None:
    await source.logs().read(LogQuery(since=7, seen=3 * SECOND))
    await source.logs().read(LogQuery(since=4 * SECOND, seen=3 * SECOND))
    assert source.changed == [2 * SECOND, 4 * SECOND]


async def test_an_instance_that_ends_meanwhile_is_told_once(source: Source) -> None:
    source.gone.append(LogLine(1, "echo", "aa000000", "stdout", "one"))
    assert await texts(source, LogQuery("echo")) == ["one", "three", "four"]


async def test_gridnodes_own(source: Source) -> None:
    assert [line.time for line in (await source.logs().read(LogQuery(OWN_LOG))).lines] == [6, 7]
    assert [line.time for line in (await source.logs().read(LogQuery(OWN_LOG, after={"": 6}))).lines] == [7]
    assert source.asked == []


async def test_an_engine_that_does_not_answer_is_told_beside_what_is_kept(source: Source) -> None:
    source.error = EngineUnavailable("no engine")
    reply = await source.logs().read(LogQuery())
    assert ([line.text for line in reply.lines], reply.error) == (["three"], "no engine")


async def test_a_reply_is_bounded(source: Source) -> None:
    flood = [Output(number, "stdout", "x" * 8192) for number in range(1, 9000)]
    source.live = {f"{number:08x}": ("echo", flood) for number in range(3)}
    body = await source.logs().answer(messages.encode(LogQuery(lines=MAX_LOG_LINES)))
    assert len(body) <= MAX_LOG_SIZE
    reply = messages.decode(body, LogReply)
    assert reply.cut
    assert reply.lines[-1].time == 8999


def test_what_fits() -> None:
    lines = [LogLine(number, "t", "i", "stdout", "é" * 100) for number in range(10)]
    assert within(lines, 3) == lines[7:]
    assert within(lines, 100) == lines
    assert within([], 5) == []
    assert len(within(lines * 2000, 20_000)) == MAX_LOG_SIZE // 264


@pytest.mark.parametrize(
    "query",
    [
        LogQuery(lines=0),
        LogQuery(lines=-1),
        LogQuery(lines=MAX_LOG_LINES + 1),
        LogQuery("x" * 256),
        LogQuery(instance="x" * 256),
        LogQuery(after={"x" * 256: 1}),
        LogQuery(after={str(number): 1 for number in range(4097)}),
    ],
    ids=lambda query: str(query)[:40],
)
async def test_what_is_out_of_bounds_is_refused(source: Source, query: LogQuery) -> None:
    with pytest.raises(BodyInvalid):
        await source.logs().answer(messages.encode(query))
    assert source.asked == []


@given(st.one_of(st.binary(max_size=100), st.dictionaries(st.text(), st.integers(0, 9) | st.text())))
def test_garbage_is_a_typed_error(body: bytes | dict[str, int | str]) -> None:
    raw = body if isinstance(body, bytes) else msgspec.msgpack.encode(body)
    with contextlib.suppress(BodyInvalid):
        messages.decode_log_query(raw)
