"""Events through real nodes: published at one, listened to at another."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Coroutine

import pytest

from gridctl import Grid
from gridctl.cli import run
from gridctl.subscribe import as_line
from gridctl.subscription import Event, Inbox, Subscription, check_publications
from gridnode.errors import BodyInvalid, BodyTooLarge, LinkClosed, TopicInvalid, UsageError
from gridnode.event_wire import MAX_EVENTS, encode_batch
from gridnode.topics import MAX_PAYLOAD, Batch
from gridnode.topics import Event as Sent
from tests.fakes.peers import until
from tests.gridctl.conftest import RunningGrid

PATIENCE = 20.0


def at(grid: RunningGrid, number: int) -> Coroutine[None, None, Grid]:
    async def connected() -> Grid:
        return await Grid.connect(grid.gridfile, [f"127.0.0.1:{grid.ports[number]}"])

    return connected()


async def comes_true(check: Callable[[], Awaitable[object]]) -> None:
    """Poll until it holds."""
    deadline = asyncio.get_running_loop().time() + PATIENCE
    while not await check():
        assert asyncio.get_running_loop().time() < deadline, "never came to be"
        await asyncio.sleep(0.01)


async def listened(grid: Grid, topic: str, count: int = 1, payload: object = "first") -> bool:
    """Publish there: whether so many listen."""
    return await grid.publish(topic, payload) == count


async def known(publisher: Grid, topic: str, subscription: Subscription, count: int = 1) -> None:
    """Wait until what is published there comes here: interest takes a moment to get about."""
    await comes_true(lambda: listened(publisher, topic, count))
    async with asyncio.timeout(PATIENCE):
        while (await subscription.next()).payload != "first":
            pass


async def test_an_event_reaches_whoever_listens_on_another_node(hello_grid: RunningGrid) -> None:
    one, two = await at(hello_grid, 0), await at(hello_grid, 1)
    try:
        async with two.subscribe("orders.*", "stock.>") as events:
            await known(one, "orders.first", events)
            assert await one.publish("orders.created", {"id": 1, "name": "é"}) == 1
            assert await one.publish_all([("orders.a.b", 1), ("stock.low.a", 2), ("orders.paid", None)]) == [0, 1, 1]
            async with asyncio.timeout(PATIENCE):
                got = [await events.next() for _ in range(3)]
        assert [(event.topic, event.payload) for event in got] == [
            ("orders.created", {"id": 1, "name": "é"}),
            ("stock.low.a", 2),
            ("orders.paid", None),
        ]
        assert sorted(event.id for event in got) == [event.id for event in got]
        assert {event.dropped for event in got} == {0}
        await comes_true(lambda: listened(one, "orders.created", 0))
    finally:
        await one.close()
        await two.close()


async def test_many_events_come_in_order_and_once(hello_grid: RunningGrid) -> None:
    one, two = await at(hello_grid, 0), await at(hello_grid, 1)
    try:
        async with two.subscribe("n", buffer=100_000) as events:
            await known(one, "n", events)
            await asyncio.gather(*(one.publish_all([("n", 50 * turn + n) for n in range(50)]) for turn in range(100)))
            async with asyncio.timeout(PATIENCE):
                got = [(await events.next()).payload for _ in range(5000)]
            assert got == list(range(5000))
            assert events.dropped == 0
    finally:
        await one.close()
        await two.close()


async def test_a_slow_reader_loses_the_oldest_and_is_told(hello_grid: RunningGrid) -> None:
    async with Grid.connect(hello_grid.gridfile) as grid, grid.subscribe("s", buffer=10) as events:
        for number in range(25):
            await grid.publish("s", number)
        await until(lambda: events.dropped == 15)
        async with asyncio.timeout(PATIENCE):
            first = await events.next()
            second = await events.next()
        assert (first.payload, first.dropped, second.payload, second.dropped) == (15, 15, 16, 0)


async def test_a_loop_that_is_left_ends_its_subscription(hello_grid: RunningGrid) -> None:
    async with Grid.connect(hello_grid.gridfile) as grid:

        async def first() -> object:
            async for event in grid.subscribe("left"):
                return event.payload
            return None

        job = asyncio.create_task(first())
        await comes_true(lambda: listened(grid, "left", payload=7))
        async with asyncio.timeout(PATIENCE):
            assert await job == 7
        await comes_true(lambda: listened(grid, "left", 0))


async def test_closing_ends_the_loop_and_losing_the_node_is_an_error(hello_grid: RunningGrid) -> None:
    grid = await Grid.connect(hello_grid.gridfile)
    closed = await grid.subscribe("a").open()
    lost = await grid.subscribe("a").open()
    closed.close()
    closed.close()
    assert [event async for event in closed] == []
    await grid.close()
    with pytest.raises(LinkClosed):
        await lost.next()
    with pytest.raises(LinkClosed):
        await grid.publish("a")


async def test_what_cannot_be_is_refused_here(hello_grid: RunningGrid) -> None:
    async with Grid.connect(hello_grid.gridfile) as grid:
        for pattern in ("", "a..b", "a b"):
            with pytest.raises(TopicInvalid):
                grid.subscribe(pattern)
        with pytest.raises(UsageError):
            grid.subscribe()
        with pytest.raises(TopicInvalid):
            await grid.publish("a.*")
        with pytest.raises(BodyTooLarge):
            await grid.publish("a", "x" * MAX_PAYLOAD)
        with pytest.raises(BodyInvalid):
            await grid.publish("a", object())
        assert await grid.publish("a", "x" * (MAX_PAYLOAD - 2)) == 0
    with pytest.raises(UsageError):
        check_publications([("a", b"1")] * (MAX_EVENTS + 1))


def test_the_same_without_async(hello_grid: RunningGrid) -> None:
    with Grid.open(hello_grid.gridfile) as grid:
        events = grid.subscribe("sync.*")
        assert grid.publish("sync.a", [1]) == 1
        assert next(events).payload == [1]
        events.close()


def test_garbage_from_a_node_ends_a_subscription() -> None:
    async def check() -> None:
        inbox = Inbox(10)
        inbox.take(b"\xc1")
        assert isinstance(inbox.error, BodyInvalid)

    asyncio.run(check())


def test_an_inbox_adds_what_the_node_lost() -> None:
    async def check() -> None:
        inbox = Inbox(1)
        inbox.take(encode_batch(1, Batch([Sent("a", b"1", "1", 0.0), Sent("a", b"2", "2", 0.0)], {"a": 4})))
        assert inbox.backlog.take(9, 9).dropped == {"a": 5}

    asyncio.run(check())


def test_lines_for_people_and_programs() -> None:
    event = Event("a.b", {"x": "\x1b[31m"}, "1f", 0.5, 2)
    assert as_line(event, as_json=False) == '1970-01-01T00:00:00.500Z a.b {"x": "\\u001b[31m"}'
    assert json.loads(as_line(event, as_json=True)) == {
        "schema": 1,
        "topic": "a.b",
        "data": {"x": "\x1b[31m"},
        "id": "1f",
        "time": 0.5,
        "dropped": 2,
    }


@pytest.mark.parametrize(
    "argv", [["publish", "a..b"], ["publish", "a", "{"], ["subscribe", "a..b"], ["subscribe"], ["publish"]]
)
def test_usage_errors_of_the_commands(argv: list[str], hello_grid: RunningGrid) -> None:
    assert run([*argv, "--gridfile", str(hello_grid.gridfile)] if len(argv) > 1 else argv) == 2


def test_publish_says_how_many_listen(hello_grid: RunningGrid, capsys: pytest.CaptureFixture[str]) -> None:
    said: Callable[[], str] = lambda: capsys.readouterr().out  # noqa: E731
    assert run(["publish", "nobody.here", '{"a": 1}', "--json", "--gridfile", str(hello_grid.gridfile)]) == 0
    assert json.loads(said()) == {"schema": 1, "topic": "nobody.here", "listeners": 0}
    with Grid.open(hello_grid.gridfile) as grid:
        events = grid.subscribe("cli")
        assert run(["publish", "cli", "7", "--gridfile", str(hello_grid.gridfile)]) == 0
        assert next(events).payload == 7
        events.close()
