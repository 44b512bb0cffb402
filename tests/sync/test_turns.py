"""Who may upload next: few at once, none for ever passed over."""

import asyncio

import pytest

from gridnode.errors import NoCapacity
from gridnode.model import NodeId
from gridnode.sync.turns import Turns
from tests.fakes.peers import until

A, B = NodeId("a" * 40), NodeId("b" * 40)


class Uploads:
    """Turns that last until they are told to end. order: of those that began."""

    def __init__(self, turns: Turns) -> None:
        self.turns = turns
        self.order: list[object] = []
        self.jobs: dict[object, asyncio.Task[None]] = {}

    def ask(self, peer: NodeId, what: object, name: object = None) -> None:
        self.jobs[name or what] = asyncio.ensure_future(self._upload(peer, what, name or what))

    async def _upload(self, peer: NodeId, what: object, name: object) -> None:
        async with self.turns.turn(peer, what):
            self.order.append(name)
            await asyncio.Event().wait()

    async def end(self, name: object) -> None:
        self.jobs[name].cancel()
        await asyncio.wait({self.jobs.pop(name)})

    async def close(self) -> None:
        for name in list(self.jobs):
            await self.end(name)


async def test_few_at_once_and_fewer_of_one_peer() -> None:
    uploads = Uploads(Turns(at_once=3, per_peer=2))
    for n in range(4):
        uploads.ask(A, n)
    uploads.ask(B, "b")
    await until(lambda: len(uploads.order) == 3)
    assert uploads.order == [0, 1, "b"]
    await uploads.end("b")
    assert uploads.order == [0, 1, "b"], "A has two already"
    await uploads.end(0)
    await until(lambda: uploads.order == [0, 1, "b", 2])
    await uploads.close()


async def test_what_was_given_least_often_goes_first() -> None:
    uploads = Uploads(Turns(at_once=1))
    uploads.ask(A, "piece", 1)
    await until(lambda: uploads.order == [1])
    uploads.ask(B, "piece", 2)
    uploads.ask(B, "fresh", 3)
    await uploads.end(1)
    await until(lambda: uploads.order == [1, 3])
    await uploads.end(3)
    await until(lambda: uploads.order == [1, 3, 2])
    await uploads.close()


async def test_none_waits_for_ever() -> None:
    uploads = Uploads(Turns(at_once=1, patient=4))
    uploads.ask(A, "old", "first")
    await until(lambda: uploads.order == ["first"])
    uploads.ask(A, "old", "second")
    before: object = "first"
    for n in range(6):
        uploads.ask(B, n)
        await asyncio.sleep(0)
        await uploads.end(before)
        await until(lambda n=n: len(uploads.order) == n + 2)  # type: ignore[misc]
        before = uploads.order[-1]
    assert "second" in uploads.order
    await uploads.close()


async def test_too_many_waiting_are_refused() -> None:
    uploads = Uploads(Turns(at_once=1, max_waiting=2))
    for n in range(3):
        uploads.ask(A, n)
        await asyncio.sleep(0)
    with pytest.raises(NoCapacity):
        async with uploads.turns.turn(A, "more"):
            pass
    await uploads.close()
    async with uploads.turns.turn(A, "all are over"):
        pass
