"""One call on every node that serves a task: who is asked, who is missing, and each outcome as it comes."""

import asyncio
import secrets
from collections import deque
from collections.abc import Callable, Iterable

import msgspec

from gridnode import messages, wire
from gridnode.errors import BodyInvalid, BodyTooLarge, CallTimeout, GridError, NoNode, NotReady, TaskNotFound
from gridnode.flow import Credit, Stream, Window
from gridnode.json_line import json_line
from gridnode.link import Cancel, nothing_to_cancel
from gridnode.link.protocol import Link
from gridnode.messages import CallMeta, NodeOutcome
from gridnode.model import (
    Done,
    Invocation,
    InvocationId,
    Member,
    MemberState,
    NodeId,
    NodeRecord,
    Outcome,
    TaskName,
)
from gridnode.wire import Frame

__all__ = ["Broadcasts"]

MAX_ASKED = 32
"""Nodes that have been asked and whose outcomes the reader has not taken: each may be as large as a result can be."""
LINGER = 30.0
"""Seconds past the deadline in which a slow reader may take the outcomes."""

Route = Callable[[Invocation, Done, str], Cancel]
"""Runs a call on one node: (call, done, its id)."""


class Broadcasts:
    """members: this node and all it knows; route: to one of them, one hop; check: raises for a task nobody serves.

    timeout: seconds a call of the task may take when its caller does not say.
    """

    def __init__(
        self,
        members: Callable[[], Iterable[Member]],
        route: Route,
        check: Callable[[TaskName], None],
        timeout: Callable[[TaskName], float],
        max_timeout: float,
    ) -> None:
        self._members = members
        self._route = route
        self._check = check
        self._timeout = timeout
        self._max_timeout = max_timeout
        self._loop = asyncio.get_running_loop()

    def take(self, link: Link, frame: Frame) -> None:
        """BROADCAST of a client: the call's name, body and deadline as for INVOKE; a NodeOutcome in each Part."""
        if not frame.flags & wire.FLAG_STREAM:
            raise BodyInvalid("a broadcast is answered in parts: the call has to ask for a stream")
        call_id, task = frame.call_id, TaskName(frame.name)
        seconds = min(frame.deadline_ms / 1000 or self._timeout(task), self._max_timeout)
        stream = Stream(lambda item: link.part(call_id, item))
        link.streams.serve(call_id, stream.allow)
        call = Invocation(InvocationId(""), task, frame.body, self._loop.time() + seconds, stream=stream)

        def done(outcome: Outcome) -> None:
            if outcome.error:
                link.reply_error(call_id, outcome.error)
            else:
                link.reply(call_id, b"")

        link.on_cancel(call_id, self.route(call, done))

    def route(self, call: Invocation, done: Done, node: str = "") -> Cancel:
        """Ask every node; the call's stream gets their outcomes, one JSON line each, before `done`."""
        stream = call.stream
        try:
            self._check(call.task)
            if stream is None or node:
                raise BodyInvalid("a broadcast goes to every node, and is answered in parts")
        except GridError as exc:
            done(Outcome(error=exc, started=False, attempts=0))
            return nothing_to_cancel
        fan = _Fan(call, stream, done, self._route)
        fan.start([member for member in self._members() if member.state is not MemberState.LEFT])
        return fan.cancel


class _Fan:
    """One broadcast under way."""

    def __init__(self, call: Invocation, stream: Stream, done: Done, route: Route) -> None:
        self._call = call
        self._stream = stream
        self._done: Done | None = done
        self._route = route
        self._loop = asyncio.get_running_loop()
        self._to_ask: deque[NodeRecord] = deque()
        self._asked: dict[NodeId, Cancel] = {}
        self._ready: deque[bytes] = deque()
        self._window = Window()
        self._timer = self._loop.call_at(call.deadline + LINGER, self._late)
        stream.source = self._credited

    def start(self, members: list[Member]) -> None:
        """In the next turn of the loop, so that whoever started it can give it up."""
        for member in members:
            why = _missing(member, self._call.task)
            if why:
                self._ready.append(_line(NodeOutcome(member.record.id, member.record.name, missing=why[0]), why[1]))
            else:
                self._to_ask.append(member.record)
        self._loop.call_soon(self._go_on)

    def cancel(self) -> None:
        """Nobody reads any more."""
        self._done = None
        self._stop()

    def _credited(self, credit: Credit) -> None:
        self._window.add(credit)
        self._go_on()

    def _go_on(self) -> None:
        """Send what is ready, as far as the reader takes it, and ask more nodes, as far as there is room for them."""
        while self._done and self._ready and self._window.is_open:
            line = self._ready.popleft()
            self._window.spend(len(line))
            self._stream.take(line)
        while self._done and self._to_ask and len(self._asked) + len(self._ready) < MAX_ASKED:
            self._ask(self._to_ask.popleft())
        if self._done and not (self._to_ask or self._asked or self._ready):
            self._end(Outcome())

    def _ask(self, record: NodeRecord) -> None:
        meta = msgspec.json.encode(CallMeta(secrets.token_hex(16)))
        call = Invocation(InvocationId(""), self._call.task, self._call.body, self._call.deadline, meta)
        self._asked[record.id] = nothing_to_cancel

        def answered(outcome: Outcome) -> None:
            if self._asked.pop(record.id, None):
                self._ready.append(_told(record, outcome))
                self._loop.call_soon(self._go_on)

        cancel = self._route(call, answered, record.id)
        if record.id in self._asked:
            self._asked[record.id] = cancel

    def _late(self) -> None:
        self._end(Outcome(error=CallTimeout(f"{self._call.task}: the outcomes were not taken in time")))

    def _end(self, outcome: Outcome) -> None:
        done, self._done = self._done, None
        self._stop()
        if done:
            done(outcome)

    def _stop(self) -> None:
        self._timer.cancel()
        asked, self._asked = self._asked, {}
        self._to_ask.clear()
        self._ready.clear()
        for cancel in asked.values():
            cancel()


def _missing(member: Member, task: TaskName) -> tuple[str, GridError] | None:
    """Why a node is not asked: a word for it, and the error that stands for its outcome."""
    record = member.record
    if member.state is not MemberState.ALIVE:
        return member.state.value, NoNode(f"{record.name} is {member.state}: it was not asked")
    if record.draining:
        return "draining", NotReady(f"{record.name} is draining: it was not asked")
    if task not in record.tasks:
        return "no task", TaskNotFound(f"{record.name} does not serve {task}: it was not asked")
    return None


def _told(record: NodeRecord, outcome: Outcome) -> bytes:
    told = NodeOutcome(record.id, record.name, instance=outcome.instance, duration_ms=round(outcome.duration * 1000, 3))
    if outcome.error:
        return _line(told, outcome.error)
    try:
        line = _line(msgspec.structs.replace(told, result=msgspec.Raw(json_line(outcome.body))))
        if len(line) > wire.MAX_CALL_BODY:
            raise BodyTooLarge(f"the outcome is {len(line)} bytes, at most {wire.MAX_CALL_BODY} can be told")
    except GridError as exc:
        return _line(told, exc)
    return line


def _line(told: NodeOutcome, error: GridError | None = None) -> bytes:
    if error:
        told = msgspec.structs.replace(told, error=wire.error_body(error))
    return messages.encode_node_outcome(told)
