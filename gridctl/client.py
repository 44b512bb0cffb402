"""The SDK: a grid's tasks, events and state for a program. Async; sync_client.py has it without."""

import asyncio
from collections.abc import AsyncIterable, Iterable
from typing import TYPE_CHECKING, Any

from gridctl.calls import Call, Calls, Done
from gridctl.connecting import Connecting, Gridfiles, Places, read_gridfile
from gridctl.control import RECONNECT, Control
from gridctl.item_stream import ItemStream
from gridctl.json_values import decode_result, encode_argument
from gridctl.links import Links
from gridctl.node_answers import NodeAnswer, read_answer
from gridctl.outcomes import raised, result_of
from gridctl.results import DEFAULT_CONCURRENCY, OnProgress, Results
from gridctl.subscription import Publisher, Subscription
from gridctl.window import Window
from gridnode.errors import GridError
from gridnode.identity import Authority
from gridnode.model import NodeRecord, Outcome
from gridnode.wire import Op

if TYPE_CHECKING:
    from gridctl.sync_client import SyncGrid

__all__ = ["Connecting", "Grid", "decode_result", "encode_argument", "read_gridfile"]


class Grid(Control):
    """An open connection to a grid. Errors are gridnode.errors types.

    It keeps links to a few nodes and calls the one that is least busy. A link that breaks is dialled again; calls
    that were on it raise NodeLost, for they may have run; calls made meanwhile take another link or wait 3 s for one.
    Outcomes come to the event loop it was opened in; it is not for several threads, SyncGrid is.

    >>> import asyncio, gridctl
    >>> async def main():
    ...     async with gridctl.Grid.connect() as grid:
    ...         print(await grid.invoke("echo", {"n": 1}))
    ...         print([result async for result in grid.map("echo", range(5))])
    >>> asyncio.run(main())
    {'n': 1}
    [0, 1, 2, 3, 4]
    """

    def __init__(self, links: Links, authority: Authority | None) -> None:
        super().__init__(links, authority)
        self._loop = asyncio.get_running_loop()
        self._calls = Calls(links)
        self._publisher = Publisher(links.main.link)

    @staticmethod
    def connect(gridfile: Gridfiles = None, addresses: Places = (), *, links: int = 3) -> Connecting:
        """`async with Grid.connect() as grid`, or `grid = await Grid.connect()` and `await grid.close()` later.

        Takes the first of `addresses`, else of the Gridfile's seeds, that answers within 3 s; a path, as
        `/run/gridnode/client.sock`, is a node's socket on this machine, which needs no Gridfile and is what is used
        where there is none. links: to how many nodes at most, when there is much to do.
        Raises NotAuthenticated when the nodes refuse this Gridfile, LinkClosed when nobody answers.
        """
        return Connecting(gridfile, addresses, links)

    @staticmethod
    def open(gridfile: Gridfiles = None, addresses: Places = (), *, links: int = 3) -> "SyncGrid":
        """The same for code that is not async: `with Grid.open() as grid`, or `grid.close()` later."""
        from gridctl.sync_client import SyncGrid

        return SyncGrid(gridfile, addresses, links=links)

    @property
    def record(self) -> NodeRecord | None:
        """What the node at the other end of the oldest link said of itself."""
        return self._links.main.end.record

    @property
    def via(self) -> str:
        """How the node at the other end of the oldest link is reached: `direct` or `ssh`."""
        return self._links.main.end.via

    async def close(self) -> None:
        """Close the links; calls under way are given up."""
        self._calls.close()
        await self._links.close()

    # -- calls ------------------------------------------------------------------------------------------------------

    async def invoke(
        self,
        task: str,
        argument: Any = None,
        *,
        timeout: float | None = None,
        node: str = "",
        idempotency_key: str = "",
    ) -> Any:
        """The task's result for a JSON-like argument; raises what became of the call instead.

        TaskRaised has the task's traceback as its cause. timeout: seconds; None: the task's own.
        node: its name, id or unique prefix of it; empty: the least busy one.
        idempotency_key: calls with the same one run once and get the same outcome; KeyReused for another argument.
        """
        body = encode_argument(argument)
        return result_of(await self.send(task, body, timeout=timeout, node=node, idempotency_key=idempotency_key))

    async def call(
        self,
        task: str,
        argument: Any = None,
        *,
        timeout: float | None = None,
        node: str = "",
        idempotency_key: str = "",
    ) -> Outcome:
        """As `invoke`, but the whole Outcome: body or error, node, instance, attempts, duration."""
        body = encode_argument(argument)
        return await self.send(task, body, timeout=timeout, node=node, idempotency_key=idempotency_key)

    async def send(
        self, task: str, body: bytes, *, timeout: float | None = None, node: str = "", idempotency_key: str = ""
    ) -> Outcome:
        """As `call`, with a body that is JSON already; BodyTooLarge past 6 MiB."""
        future: asyncio.Future[Outcome] = self._loop.create_future()

        def done(outcome: Outcome) -> None:
            if not future.done():
                future.set_result(outcome)

        call = self._calls.start(task, body, done, timeout=timeout, node=node, key=idempotency_key)
        try:
            return await future
        finally:
            call.cancel()

    def submit(
        self,
        task: str,
        argument: Any = None,
        *,
        timeout: float | None = None,
        node: str = "",
        idempotency_key: str = "",
    ) -> "asyncio.Future[Any]":
        """As `invoke`, sent at once: a future of the result. Cancelling it gives the call up.

        Nothing bounds how many are under way but the nodes, which refuse past 1024 a link: for many calls use `map`.
        """
        future: asyncio.Future[Any] = self._loop.create_future()
        body = encode_argument(argument)
        call = self._calls.start(
            task, body, lambda outcome: _settle(future, outcome), timeout=timeout, node=node, key=idempotency_key
        )
        future.add_done_callback(lambda _: call.cancel())
        return future

    def map(
        self,
        task: str,
        items: Iterable[Any] | AsyncIterable[Any],
        *,
        concurrency: int = DEFAULT_CONCURRENCY,
        ordered: bool = True,
        timeout: float | None = None,
        return_exceptions: bool = False,
        progress: OnProgress | None = None,
    ) -> Results:
        """`async for result in grid.map("words", texts)`: a call for each item, so many at a time.

        items: any iterable or async iterable, read as results are taken, so that neither fills the memory.
        ordered: results in the order of the items, else as they come. timeout: of each call, seconds.
        return_exceptions: errors come in place of results; else the first one ends it and gives up the calls under way.
        progress: called with (results so far, how many there will be, or None when items do not say).
        A call that is refused for want of room is sent again for up to 30 s.
        """
        return Results(self.window(task, concurrency, ordered, timeout), items, return_exceptions, progress)

    def window(
        self,
        task: str,
        concurrency: int,
        ordered: bool = True,
        timeout: float | None = None,
        *,
        node: str = "",
        patient: bool = True,
    ) -> Window:
        """Calls of one task side by side; what `map` is made of. patient: those refused for want of room go again."""

        def start(body: bytes, done: Done) -> Call:
            return self._calls.start(task, body, done, timeout=timeout, node=node)

        return Window(start, concurrency, ordered, patient)

    def stream(
        self, task: str, argument: Any = None, *, timeout: float | None = None, node: str = ""
    ) -> ItemStream[Any]:
        """`async for item in grid.stream("words.each", text)`: what the task yields, as it does.

        A slow reader stops the task, and leaving the loop ends it. A task that does not yield gives its result as the
        one item. timeout: seconds for all of it; None: the task's own. An error is raised after the items before it.
        """
        return self.stream_json(task, encode_argument(argument), timeout=timeout, node=node)

    def stream_json(self, task: str, body: bytes, *, timeout: float | None = None, node: str = "") -> ItemStream[Any]:
        """As `stream`, with a body that is JSON already."""
        return ItemStream(self._links, Op.INVOKE, task, body, decode_result, timeout, node)

    def broadcast(self, task: str, argument: Any = None, *, timeout: float | None = None) -> ItemStream[NodeAnswer]:
        """`async for answer in grid.broadcast("whoami")`: a NodeAnswer of every node, as each comes.

        Nodes that are known but were not asked are among them, with the reason in `missing`. Errors are in the answers;
        raised is only what became of the broadcast itself.
        """
        return self.broadcast_json(task, encode_argument(argument), timeout=timeout)

    def broadcast_json(self, task: str, body: bytes, *, timeout: float | None = None) -> ItemStream[NodeAnswer]:
        """As `broadcast`, with a body that is JSON already."""
        return ItemStream(self._links, Op.BROADCAST, task, body, read_answer, timeout)

    def start(
        self, task: str, body: bytes, done: Done, *, timeout: float | None = None, node: str = "", key: str = ""
    ) -> Call:
        """As `send`, without waiting: `done` gets the Outcome, from the event loop, and must not raise."""
        return self._calls.start(task, body, done, timeout=timeout, node=node, key=key)

    # -- events -----------------------------------------------------------------------------------------------------

    async def publish(self, topic: str, payload: Any = None) -> int:
        """Send JSON-like content to all who listen to the topic; to how many tasks, subscriptions there and nodes."""
        return (await self.publish_all([(topic, payload)]))[0]

    async def publish_all(self, events: Iterable[tuple[str, Any]]) -> list[int]:
        """Several (topic, payload) at once, in order; at most 4096, and 6 MiB."""
        publications = [(topic, encode_argument(one) or b"null") for topic, one in events]
        return await (await self._speaker()).publish(publications)

    async def publish_json(self, topic: str, body: bytes) -> int:
        """As `publish`, with data that is JSON already."""
        return (await (await self._speaker()).publish([(topic, body or b"null")]))[0]

    async def _speaker(self) -> Publisher:
        """One link for all events, as long as it lasts: they stay in order."""
        if not self._publisher.is_open:
            self._publisher = Publisher((await self._links.ready(RECONNECT)).link)
        return self._publisher

    def subscribe(self, *patterns: str, buffer: int = 8192) -> Subscription:
        """`async for event in grid.subscribe("orders.*")`: * is any one word, > the rest.

        Who reads slowly loses the oldest events past `buffer`; the next one's `dropped` says how many.
        It ends with LinkClosed when its node goes: subscribe again, for events were missed.
        """
        lane = self._links.main
        return Subscription(lane.link, lane.end.inboxes, patterns, buffer)


def _settle(future: "asyncio.Future[Any]", outcome: Outcome) -> None:
    if future.done():
        return
    try:
        future.set_result(result_of(outcome))
    except GridError as exc:
        future.set_exception(raised(exc))
