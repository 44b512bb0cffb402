"""Pub/sub of whole nodes on one loop, with links that deliver at once, late, or not at all."""

import asyncio
import itertools
import json
from collections.abc import Callable

import pytest

from gridnode import messages
from gridnode.errors import BodyInvalid, Forbidden, NoCapacity, NotReady, TopicInvalid
from gridnode.event_wire import MAX_INTEREST, Interest, encode_batch
from gridnode.events import MAX_SUBSCRIPTIONS, Events
from gridnode.feed import MAX_RUNNING
from gridnode.link import Cancel, nothing_to_cancel
from gridnode.model import Deliver, Done, Invocation, NodeId, NodeRecord, Outcome, TaskSpec
from gridnode.topics import Backlog, Batch, Event
from gridnode.wire import Frame, Kind, Op
from tests.fakes.peers import until


class Wire:
    """A link to another node: what is sent arrives in the loop's next turn, unless it is cut. stuck: it is full."""

    def __init__(self, grid: "Stations", source: NodeId, target: NodeId) -> None:
        self.grid, self.source, self.target = grid, source, target
        self.is_open = True
        self.stuck = False
        self.sent: list[tuple[int, bytes]] = []

    def buffered(self) -> int:
        return 1 << 30 if self.stuck else 0

    def event(self, op: Op, body: bytes = b"", *, name: str = "") -> None:
        self.sent.append((op, body))
        if self.is_open:
            frame = Frame(Kind.EVENT, 0, op, 0, 0, name, b"", body)
            asyncio.get_running_loop().call_soon(self.grid.deliver, self.source, self.target, frame)


class Stations:
    """Nodes that are all linked. runs: what each was given to run, here or anywhere."""

    def __init__(self, count: int) -> None:
        self.ids = [NodeId(f"{number:040x}") for number in range(count)]
        self.wires: dict[tuple[NodeId, NodeId], Wire] = {}
        self.events: dict[NodeId, Events] = {}
        self.runs: list[tuple[NodeId, str, Invocation, Done]] = []
        self.interest: dict[NodeId, int] = {}
        for node in self.ids:
            self.events[node] = self.make(node)
        for one, two in itertools.permutations(self.ids, 2):
            self.wires[one, two] = Wire(self, one, two)

    def make(self, node: NodeId) -> Events:
        def run(where: str) -> Callable[[Invocation, Done], Cancel]:
            def record(call: Invocation, done: Done) -> Cancel:
                self.runs.append((node, where, call, done))
                return nothing_to_cancel

            return record

        def tell(op: Op, body: bytes) -> None:
            for (source, _), wire in self.wires.items():
                if source == node:
                    wire.event(op, body)

        def on_interest(version: int) -> None:
            self.interest[node] = version

        peer = lambda other: self.wires.get((node, other))  # noqa: E731
        return Events({"gpu": "true"}, peer, tell, on_interest, run("anywhere"), run("here"))  # type: ignore[arg-type]

    def deliver(self, source: NodeId, target: NodeId, frame: Frame) -> None:
        self.events[target].heard(source, frame)

    def records(self, but: NodeId) -> list[NodeRecord]:
        return [
            NodeRecord(node, "n", 1, 1, (), "1", 0, interest=self.interest.get(node, 0))
            for node in self.ids
            if node != but
        ]

    def close(self) -> None:
        for events in self.events.values():
            events.close()

    def __getitem__(self, number: int) -> Events:
        return self.events[self.ids[number]]


class Listening:
    """A listener that keeps all it gets."""

    def __init__(self) -> None:
        self.backlog = Backlog()
        self.got: list[Event] = []
        self.missing = 0

    def push(self, event: Event) -> None:
        self.got.append(event)

    def missed(self, topic: str, count: int) -> None:
        self.missing += count

    @property
    def topics(self) -> list[str]:
        return [event.topic for event in self.got]


async def knows(events: Events, topic: str, count: int = 1) -> None:
    await until(lambda: len(events._far.match(topic)) == count, f"{count} peers listen to {topic}")


async def test_events_go_where_somebody_listens_and_nowhere_else() -> None:
    grid = Stations(3)
    here, there = Listening(), Listening()
    grid[0].listen(here, ["a.*"])
    grid[1].listen(there, ["a.>", "a.b"])
    await knows(grid[0], "a.b")
    assert grid[0].publish("a.b", b"1") == 2
    assert grid[0].publish("a.b.c", b"2") == 1
    assert grid[0].publish("b", b"3") == 0
    await until(lambda: len(there.got) == 2)
    assert (here.topics, there.topics) == (["a.b"], ["a.b", "a.b.c"])
    assert [op for op, _ in grid.wires[grid.ids[0], grid.ids[2]].sent if op == Op.EVENTS] == []
    assert [op for op, _ in grid.wires[grid.ids[1], grid.ids[2]].sent if op == Op.EVENTS] == []  # one hop
    grid[1].forget(there)
    grid[1].forget(there)
    await until(lambda: grid[0].publish("a.b.c", b"1") == 0)
    grid.close()


async def test_a_peer_that_does_not_read_slows_nobody_and_its_listeners_are_told() -> None:
    grid = Stations(3)
    slow, quick = Listening(), Listening()
    grid[1].listen(slow, ["a"])
    grid[2].listen(quick, ["a"])
    await knows(grid[0], "a", 2)
    wire = grid.wires[grid.ids[0], grid.ids[1]]
    wire.stuck = True
    total = 10_000
    for number in range(total):
        grid[0].publish("a", b"%d" % number)
        if number % 1000 == 0:
            await asyncio.sleep(0)
    await until(lambda: len(quick.got) + quick.missing == total)
    assert slow.got == []
    wire.stuck = False
    await until(lambda: len(slow.got) + slow.missing == total)
    assert slow.missing == total - 8192
    assert [int(event.payload) for event in slow.got] == list(range(slow.missing, total))
    assert grid[0].dropped >= slow.missing
    assert grid[0].counts()["dropped"] == grid[0].dropped
    grid.close()


async def test_what_went_wrong_on_the_way_is_asked_for_again() -> None:
    grid = Stations(2)
    wire = grid.wires[grid.ids[1], grid.ids[0]]
    wire.is_open = False
    listening = Listening()
    grid[1].listen(listening, ["a"])
    await until(lambda: grid.interest.get(grid.ids[1]))
    assert grid[0].publish("a", b"1") == 0
    wire.is_open = True
    grid[0].compare(grid.records(but=grid.ids[0]))
    await knows(grid[0], "a")
    sent = len(wire.sent)
    grid[0].compare(grid.records(but=grid.ids[0]))
    await asyncio.sleep(0)
    assert len(wire.sent) == sent  # it knows
    wire.is_open = False
    grid[1].listen(Listening(), ["b"])
    await until(lambda: len(wire.sent) > sent)
    wire.is_open = True
    grid[1].listen(Listening(), ["c"])
    await knows(grid[0], "b")  # a change that did not follow was noticed, and the whole asked for
    await knows(grid[0], "c")
    grid.close()


async def test_a_peer_that_is_gone_is_forgotten() -> None:
    grid = Stations(2)
    grid[1].listen(Listening(), ["a"])
    await knows(grid[0], "a")
    grid[0].compare([])
    assert grid[0].publish("a", b"1") == 0
    assert grid[0].counts()["peers"] == 0
    grid.close()


async def test_batches_that_come_late_are_dropped_for_the_sake_of_order() -> None:
    grid = Stations(2)
    listening = Listening()
    grid[0].listen(listening, ["a"])
    for number, name in ((2, "2"), (1, "1"), (2, "2"), (3, "3")):
        body = encode_batch(number, Batch([Event("a", b"1", name, 1.0)], {}))
        grid[0].heard(grid.ids[1], Frame(Kind.EVENT, 0, Op.EVENTS, body=body))
    assert [event.id for event in listening.got] == ["2", "3"]
    assert grid[0].dropped == 2
    grid.close()


async def test_losses_on_the_way_are_told_to_those_whom_they_concern() -> None:
    grid = Stations(2)
    a, b = Listening(), Listening()
    grid[0].listen(a, ["a"])
    grid[0].listen(b, ["b"])
    body = encode_batch(1, Batch([], {"a": 3, "": 1}))
    assert grid[0].heard(grid.ids[1], Frame(Kind.EVENT, 0, Op.EVENTS, body=body))
    assert (a.missing, b.missing) == (4, 1)
    grid.close()


@pytest.mark.parametrize("op", [Op.EVENTS, Op.INTEREST])
async def test_garbage_of_a_peer_is_refused(op: Op) -> None:
    grid = Stations(2)
    with pytest.raises(BodyInvalid):
        grid[0].heard(grid.ids[1], Frame(Kind.EVENT, 0, op, body=b"\xc1"))
    assert not grid[0].heard(grid.ids[1], Frame(Kind.EVENT, 0, Op.LEDGER_DIGEST))
    grid.close()


async def test_a_peer_with_more_patterns_than_allowed_gets_a_coarser_view() -> None:
    grid = Stations(2)
    for number in range(MAX_INTEREST + 1):
        grid[1].listen(Listening(), [f"t.n{number}"])
    await knows(grid[0], "t.n0")
    await knows(grid[0], "t.of.no.one")
    grid.close()


async def test_bounds() -> None:
    grid = Stations(1)
    with pytest.raises(TopicInvalid):
        grid[0].publish("a.*", b"1")
    with pytest.raises(BodyInvalid):
        grid[0].publish("a", b"{")
    with pytest.raises(Forbidden):
        grid[0].publish("a", b"1", depth=9)
    with pytest.raises(BodyInvalid):
        grid[0].listen(Listening(), [])
    for _ in range(MAX_SUBSCRIPTIONS):
        grid[0].listen(Listening(), ["a"])
    with pytest.raises(NoCapacity):
        grid[0].listen(Listening(), ["a"])
    grid.close()


def spec(name: str, deliver: Deliver, **more: object) -> TaskSpec:
    return TaskSpec(name, f"tasks/{name}.py", topics=("a.*",), deliver=deliver, **more)  # type: ignore[arg-type]


async def test_one_instance_of_a_task_gets_it_or_one_on_each_node() -> None:
    grid = Stations(2)
    tasks = [spec("one", Deliver.ONE), spec("each", Deliver.EACH), spec("off", Deliver.EACH, on={"gpu": "false"})]
    for node in (0, 1):
        grid[node].follow([*tasks, TaskSpec("plain", "tasks/plain.py")])
    await knows(grid[0], "a.b")
    assert grid[0].publish("a.b", b'{"n": 1}', depth=2) == 3
    await until(lambda: len(grid.runs) == 3)
    ran = {(grid.ids.index(node), where, call.task) for node, where, call, _ in grid.runs}
    assert ran == {(0, "anywhere", "one"), (0, "here", "each"), (1, "here", "each")}
    for _, _, call, _ in grid.runs:
        event, meta = json.loads(call.body), messages.decode_call_meta(call.meta)
        assert (event["topic"], event["data"], set(event)) == ("a.b", {"n": 1}, {"topic", "data", "id", "time"})
        assert (meta.topic, meta.depth, len(meta.id)) == ("a.b", 2, 32)
    grid.close()


async def test_a_task_takes_so_many_at_once_and_the_rest_wait_or_are_lost() -> None:
    grid = Stations(1)
    grid[0].follow([spec("one", Deliver.ONE)])
    for number in range(2000):
        grid[0].publish("a.b", b"%d" % number)
    assert len(grid.runs) == MAX_RUNNING
    handled = 0
    while handled < len(grid.runs):
        error = NotReady("not now") if handled % 2 else None
        grid.runs[handled][3](Outcome(error=error))
        handled += 1
        await asyncio.sleep(0)
    events = [json.loads(call.body) for _, _, call, _ in grid.runs]
    lost = 2000 - MAX_RUNNING - 1024
    assert [event["data"] for event in events] == [*range(MAX_RUNNING), *range(2000 - 1024, 2000)]
    assert [event.get("dropped", 0) for event in events[MAX_RUNNING:]] == [lost] + [0] * 1023
    assert (grid[0].dropped, grid[0].counts()["failed"]) == (lost, len(events) // 2)
    grid.close()


async def test_a_release_that_changes_nothing_of_a_task_keeps_what_waits_for_it() -> None:
    grid = Stations(1)
    grid[0].follow([spec("one", Deliver.ONE), spec("gone", Deliver.ONE)])
    for number in range(MAX_RUNNING + 1):
        grid[0].publish("a.b", b"%d" % number)
    grid[0].follow([spec("one", Deliver.ONE)])
    assert grid[0].publish("a.b", b"1") == 1
    for run in list(grid.runs):
        run[3](Outcome())
    await until(lambda: len([run for run in grid.runs if run[2].task == "one"]) == MAX_RUNNING + 2)
    grid[0].follow([])
    assert grid[0].publish("a.b", b"1") == 0
    grid.close()


async def test_interest_from_a_stranger_version_is_asked_for() -> None:
    grid = Stations(2)
    body = messages.encode(Interest(9, base=8, add=("a",)))
    grid[0].heard(grid.ids[1], Frame(Kind.EVENT, 0, Op.INTEREST, body=body))
    assert [op for op, _ in grid.wires[grid.ids[0], grid.ids[1]].sent] == [Op.INTEREST_ASK]
    assert grid[0].publish("a", b"1") == 0
    grid.close()
