"""Pub/sub on one node: what is published here goes to those who listen here, and once to each node where somebody does.

One hop: what a peer sends is for the listeners of this node and goes nowhere else. At most once, and in order for each
publisher and topic; every queue is bounded, and who loses events is told how many.
"""

import asyncio
import itertools
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Protocol

import structlog

from gridnode import messages
from gridnode.errors import Forbidden, NoCapacity
from gridnode.event_wire import (
    check_patterns,
    decode_batch,
    decode_interest,
    decode_patterns,
    decode_publications,
)
from gridnode.feed import Feed, Run, belongs_to
from gridnode.interest import Heard, Own
from gridnode.link.protocol import Link
from gridnode.model import Deliver, NodeId, NodeRecord, TaskSpec
from gridnode.outbox import Outbox
from gridnode.sandbox.nested import MAX_DEPTH
from gridnode.topics import Backlog, Event, Table, check_payload, check_topic
from gridnode.wire import Frame, Op

__all__ = ["Events", "Listener"]

log = structlog.get_logger()

MAX_SUBSCRIPTIONS = 1024
"""Of clients of this node."""
_TELL_AFTER = 0.005
"""Seconds that changes of what this node listens to are collected for."""


class Listener(Protocol):
    """Takes events in order; must not raise, nor wait. backlog: where they do."""

    backlog: Backlog

    def push(self, event: Event) -> None: ...
    def missed(self, topic: str, count: int) -> None: ...


class Events:
    """peer: the open link to another node; tell: sends an event to all of them; labels: this node's.

    anywhere, here: run a call on the grid, or on this node; on_interest: the version peers should know is another.
    """

    def __init__(
        self,
        labels: Mapping[str, str],
        peer: Callable[[NodeId], Link | None],
        tell: Callable[[Op, bytes], None],
        on_interest: Callable[[int], None],
        anywhere: Run,
        here: Run,
    ) -> None:
        self._labels = labels
        self._peer = peer
        self._tell = tell
        self._on_interest = on_interest
        self._anywhere = anywhere
        self._here = here
        self._loop = asyncio.get_running_loop()
        self._prefix = secrets.token_hex(8)
        self._ids = itertools.count(1)
        self._near: Table[Listener] = Table()
        self._ones: Table[Listener] = Table()
        self._far: Table[Listener] = Table()
        self._heard: dict[NodeId, tuple[Heard, Outbox]] = {}
        self._numbers: dict[NodeId, int] = {}
        self._feeds: list[Feed] = []
        self._subscriptions = 0
        self._own = Own(time.time_ns() // 1_000_000)
        self._telling: asyncio.TimerHandle | None = None
        self._published = self._received = self._lost_before = self._said = 0

    # -- publishing -------------------------------------------------------------------------------------------------

    def publish(self, topic: str, content: bytes, depth: int = 0) -> int:
        """Send JSON to all who listen to the topic; to how many that is: tasks, subscriptions here, other nodes.

        Raises TopicInvalid, BodyInvalid, BodyTooLarge, Forbidden past MAX_DEPTH.
        """
        check_topic(topic)
        check_payload(topic, content)
        if depth > MAX_DEPTH:
            hint = "does a task publish what it listens to?"
            raise Forbidden(f"{topic}: {MAX_DEPTH} tasks and events led to this one already, no more", hint=hint)
        return self._send(topic, content, depth)

    def _send(self, topic: str, content: bytes, depth: int = 0) -> int:
        event = Event(topic, content, f"{self._prefix}{next(self._ids):016x}", time.time(), depth)
        self._published += 1
        found = [*self._near.match(topic), *self._ones.match(topic), *self._far.match(topic)]
        for listener in found:
            listener.push(event)
        return len(found)

    def take_publications(self, link: Link, frame: Frame) -> None:
        """PUBLISH of an operator: all of its events, or none."""
        counts = [self._send(topic, content) for topic, content in decode_publications(frame.body)]
        link.reply(frame.call_id, messages.encode(counts))

    # -- listening --------------------------------------------------------------------------------------------------

    def take_subscription(self, link: Link, frame: Frame) -> None:
        """SUBSCRIBE of an operator: a call without an end, whose events carry its id for a name."""
        patterns = decode_patterns(frame.body)
        outbox = Outbox(lambda: link, str(frame.call_id))
        self.listen(outbox, patterns)
        link.on_cancel(frame.call_id, partial(self._end, outbox))
        outbox.send_batch(link)

    def _end(self, outbox: Outbox) -> None:
        self.forget(outbox)
        outbox.close()

    def listen(self, listener: Listener, patterns: list[str]) -> None:
        """Have it get what matches, from here and from peers; TopicInvalid, BodyInvalid, or NoCapacity."""
        check_patterns(patterns)
        if self._subscriptions >= MAX_SUBSCRIPTIONS:
            raise NoCapacity(f"this node has {self._subscriptions} subscriptions already", hint="ask another node")
        self._subscriptions += 1
        self._near.put(listener, patterns)
        self._tell_soon()

    def forget(self, listener: Listener) -> None:
        """The end of `listen`."""
        if listener in self._near:
            self._subscriptions -= 1
            self._near.put(listener, ())
            self._lost_before += listener.backlog.dropped
            self._tell_soon()

    def follow(self, tasks: Iterable[TaskSpec]) -> None:
        """These are the release's tasks from now on; a task whose settings stay keeps what waits for it."""
        wanted = {spec.name: spec for spec in tasks if spec.topics}
        kept = {feed.spec.name: feed for feed in self._feeds if feed.spec == wanted.get(feed.spec.name)}
        for feed in self._feeds:
            if feed.spec.name not in kept:
                self._near.put(feed, ())
                self._ones.put(feed, ())
                self._lost_before += feed.backlog.dropped
        self._feeds = [
            self._feed(spec, kept.get(name)) for name, spec in wanted.items() if belongs_to(spec, self._labels)
        ]
        self._tell_soon()

    def _feed(self, spec: TaskSpec, kept: Feed | None) -> Feed:
        is_one = spec.deliver is Deliver.ONE
        feed = kept or Feed(spec, self._anywhere if is_one else self._here)
        (self._ones if is_one else self._near).put(feed, spec.topics)
        return feed

    # -- peers ------------------------------------------------------------------------------------------------------

    def linked(self, link: Link) -> None:
        """A new link to a peer, or the turn of an old one: tell all that this node listens to."""
        link.event(Op.INTEREST, messages.encode(self._own.whole()))

    def heard(self, node: NodeId, frame: Frame) -> bool:
        """Take a peer's event if it is about pub/sub; BodyInvalid for garbage."""
        if frame.op == Op.EVENTS:
            self._take_batch(node, frame.body)
        elif frame.op == Op.INTEREST:
            self._take_interest(node, frame.body)
        elif frame.op == Op.INTEREST_ASK:
            if link := self._peer(node):
                self.linked(link)
        else:
            return False
        return True

    def _take_batch(self, node: NodeId, body: bytes) -> None:
        number, batch = decode_batch(body)
        if number <= self._numbers.get(node, 0):
            self._lost_before += len(batch.events)  # it came late, over a link that was replaced: order counts more
            return
        self._numbers[node] = number
        for topic, count in batch.dropped.items():
            for listener in self._near.match(topic) if topic else self._near.all():
                listener.missed(topic, count)
        self._received += len(batch.events)
        match = self._near.match
        for event in batch.events:
            for listener in match(event.topic):
                listener.push(event)

    def _take_interest(self, node: NodeId, body: bytes) -> None:
        told = decode_interest(body)
        if node not in self._heard:
            self._heard[node] = Heard(), Outbox(partial(self._peer, node))
        heard, outbox = self._heard[node]
        if heard.take(told):
            self._far.put(outbox, heard.patterns)
        else:
            self._ask(node)

    def _ask(self, node: NodeId) -> None:
        if link := self._peer(node):
            link.event(Op.INTEREST_ASK)

    def compare(self, peers: Iterable[NodeRecord]) -> None:
        """Now and then, with the peers that are alive: forget the others, and ask those that listen to other things."""
        alive = {record.id: record.interest for record in peers}
        for node in self._heard.keys() - alive.keys():
            _, outbox = self._heard.pop(node)
            self._far.put(outbox, ())
            outbox.close()
            self._lost_before += outbox.backlog.dropped
            self._numbers.pop(node, None)
        for node, version in alive.items():
            known = self._heard[node][0].version if node in self._heard else None
            if version > (known or 0):
                self._ask(node)
        self._say_what_is_lost()

    def _tell_soon(self) -> None:
        if self._telling is None:
            self._telling = self._loop.call_later(_TELL_AFTER, self._tell_now)

    def _tell_now(self) -> None:
        self._telling = None
        told = self._own.update(self._near.patterns())
        if told:
            self._tell(Op.INTEREST, messages.encode(told))
            self._on_interest(told.version)

    def close(self) -> None:
        """Tell nothing more."""
        if self._telling:
            self._telling.cancel()
        for _, outbox in self._heard.values():
            outbox.close()

    # -- what can be seen of it -------------------------------------------------------------------------------------

    @property
    def dropped(self) -> int:
        """Events that some listener of this node, or some peer, did not get: since the node started."""
        tables = (self._near, self._ones, self._far)
        return self._lost_before + sum(one.backlog.dropped for table in tables for one in table.all())

    def counts(self) -> dict[str, int]:
        """Of this node since it started; listeners: now."""
        return {
            "published": self._published,
            "received": self._received,
            "dropped": self.dropped,
            "failed": sum(feed.failed for feed in self._feeds),
            "subscriptions": self._subscriptions,
            "tasks": len(self._feeds),
            "peers": sum(1 for _ in self._far.all()),
        }

    def _say_what_is_lost(self) -> None:
        dropped = self.dropped
        if dropped > self._said:
            log.warning("events were dropped: a listener or a peer is too slow", count=dropped - self._said)
        self._said = dropped
