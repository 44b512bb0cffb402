"""Calls that a task makes from inside its sandbox: which of the calls inside it they belong to, and what they may cost.

What a sandbox says of itself counts for nothing here: depth and deadline are those of the call that it serves.
"""

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from gridnode import messages
from gridnode.errors import BodyInvalid, CallError, CallTimeout, Forbidden, GridError, NoCapacity, NotReady
from gridnode.link import Cancel
from gridnode.link.protocol import Link
from gridnode.messages import CallMeta, NestedMeta
from gridnode.model import Done, Invocation, InvocationId, Outcome, TaskName
from gridnode.wire import Frame, Op

MAX_DEPTH = 8
MAX_NESTED = 64
"""Calls that one instance has under way."""
MAX_BYTES = 32 * 1024 * 1024
"""Of their bodies together."""
MAX_PUBLISHED = 5000
"""Events of one instance in a second, and as many bytes as of calls."""

Key = tuple[Link, int]


@dataclass(frozen=True, slots=True)
class Onward:
    """How calls leave a sandbox. route: places a call anywhere in the grid; timeout: a task's own, in seconds.

    publish: sends JSON to all who listen to a topic, with the depth of the event; to how many.
    """

    route: Callable[[Invocation, Done], Cancel]
    timeout: Callable[[TaskName], float]
    publish: Callable[[str, bytes, int], int] | None = None


class _Parent:
    """A call inside the sandbox, and those it has under way: by their ids on the link."""

    __slots__ = ("call", "children")

    def __init__(self, call: Invocation) -> None:
        self.call = call
        self.children: dict[int, Cancel] = {}


class Nested:
    """One instance's calls, those inside it and those it makes. onward: None when it may make none."""

    def __init__(self, onward: Onward | None) -> None:
        self._onward = onward
        self._loop = asyncio.get_running_loop()
        self._parents: dict[Key, _Parent] = {}
        self._count = 0
        self._bytes = 0
        self._second = 0.0
        self._published = self._published_bytes = 0

    @property
    def count(self) -> int:
        """Calls under way that were made inside."""
        return self._count

    def entered(self, link: Link, call_id: int, call: Invocation) -> None:
        """A call was sent inside; from now on it may make calls of its own."""
        self._parents[link, call_id] = _Parent(call)

    def left(self, link: Link, call_id: int) -> None:
        """It was answered, or its instance is gone: nobody waits for the calls it made."""
        self.give_up(link, call_id)
        self._parents.pop((link, call_id), None)

    def give_up(self, link: Link, call_id: int) -> None:
        """Nobody waits for the call inside any more, so nobody does for the calls it made."""
        parent = self._parents.get((link, call_id))
        for child, cancel in list(parent.children.items()) if parent else ():
            cancel()
            link.reply_error(child, CallTimeout("nobody waits any more for the call that made this one"))

    def called(self, link: Link, frame: Frame) -> None:
        """A Call from inside the sandbox; GridError when it is refused."""
        if frame.op not in (Op.INVOKE, Op.PUBLISH):
            raise Forbidden(f"a sandbox may invoke tasks and publish, nothing else: op {frame.op} is refused")
        onward = self._onward
        if onward is None:
            raise NotReady("calls from inside a sandbox are not served here")
        parent = self._parent(link, frame)
        if frame.op == Op.PUBLISH:
            self._publish(link, frame, parent, onward)
            return
        call = self._checked(parent.call, frame, onward)
        self._route(link, frame, parent, call, onward)

    def _parent(self, link: Link, frame: Frame) -> _Parent:
        try:
            named = msgspec.json.decode(frame.meta, type=NestedMeta).parent
        except (msgspec.MsgspecError, RecursionError) as exc:
            raise BodyInvalid(f"malformed metadata of a nested call: {exc}") from exc
        parent = self._parents.get((link, named))
        if parent is None:
            raise Forbidden(f"{frame.name}: a call can be made only while the sandbox serves one")
        return parent

    def _checked(self, parent: Invocation, frame: Frame, onward: Onward) -> Invocation:
        """The nested call, no deeper and no longer than allowed."""
        depth = _depth(parent)
        now = self._loop.time()
        if depth > MAX_DEPTH:
            hint = "does a task end up calling itself?"
            raise Forbidden(f"{frame.name}: tasks called tasks {MAX_DEPTH} deep already, no deeper", hint=hint)
        if parent.deadline <= now:
            raise CallTimeout(f"{frame.name}: the call that wants it is past its own deadline")
        if self._count >= MAX_NESTED or self._bytes + len(frame.body) > MAX_BYTES:
            raise NoCapacity(f"{frame.name}: this instance has {self._count} calls of its own under way")
        task = TaskName(frame.name)
        deadline = min(parent.deadline, now + (frame.deadline_ms / 1000 or onward.timeout(task)))
        meta = msgspec.json.encode(CallMeta(secrets.token_hex(16), depth=depth))
        return Invocation(InvocationId(""), task, frame.body, deadline, meta)

    def _publish(self, link: Link, frame: Frame, parent: _Parent, onward: Onward) -> None:
        if onward.publish is None:
            raise NotReady("events from inside a sandbox are not taken here")
        now = self._loop.time()
        if now - self._second >= 1.0:
            self._second, self._published, self._published_bytes = now, 0, 0
        self._published += 1
        self._published_bytes += len(frame.body)
        if self._published > MAX_PUBLISHED or self._published_bytes > MAX_BYTES:
            raise NoCapacity(f"{frame.name}: this instance publishes too much in one second")
        listeners = onward.publish(frame.name, frame.body, _depth(parent.call))
        link.reply(frame.call_id, b"%d" % listeners)

    def _route(self, link: Link, frame: Frame, parent: _Parent, call: Invocation, onward: Onward) -> None:
        call_id, size = frame.call_id, len(frame.body)
        self._count += 1
        self._bytes += size
        over = False

        def end() -> bool:
            """Whether it was not over yet."""
            nonlocal over
            if over:
                return False
            over = True
            self._count -= 1
            self._bytes -= size
            parent.children.pop(call_id, None)
            return True

        def done(outcome: Outcome) -> None:
            if end():
                _reply(link, call_id, outcome)

        cancel = onward.route(call, done)

        def stop() -> None:
            if end():
                cancel()

        if not over:
            parent.children[call_id] = stop
            link.on_cancel(call_id, stop)


def _depth(parent: Invocation) -> int:
    """Of what is called or published by it."""
    return max(0, messages.decode_call_meta(parent.meta).depth) + 1


def _reply(link: Link, call_id: int, outcome: Outcome) -> None:
    error = outcome.error
    if error is None:
        link.reply(call_id, outcome.body)
    elif isinstance(error, CallError):
        link.reply_error(call_id, error)
    else:  # of links and nodes a sandbox learns nothing
        link.reply_error(call_id, _plain(error))


def _plain(error: GridError) -> CallError:
    return CallError("the grid could not run the call", trace=error.trace)
