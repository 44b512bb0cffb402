"""Calls that a handler makes: who carries them, and which call it is that is being served."""

from __future__ import annotations

from typing import ClassVar, Protocol

from gridnode.runtimes.python_frames import CALL, HEADER, OP_INVOKE, OP_PUBLISH, Frame

__all__ = ["OP_INVOKE", "OP_PUBLISH", "Calling", "Line", "Served", "Unanswered", "pack_call"]

Served = tuple[Frame, float]
"""A call being served, and when it came: unix seconds."""


class Line(Protocol):
    """The connection to the node, as the loop that serves it lets handlers use it."""

    def served(self) -> Served | None:
        """The call that the caller of this belongs to."""

    def is_cancelled(self, call_id: int) -> bool:
        """Whether the node has said that nobody waits for this call any more, or is gone."""

    def part(self, call_id: int, item: bytes) -> bool:
        """Send an item of a call's stream once its reader takes it; False when nobody does any more."""

    def call(self, task: bytes, body: bytes, deadline_ms: int, op: int = OP_INVOKE) -> Frame:
        """Invoke or publish, wait for the Reply; raises Unanswered, or RuntimeError where it would wait for itself."""

    async def call_async(self, task: bytes, body: bytes, deadline_ms: int, op: int = OP_INVOKE) -> Frame:
        """The same."""


class Calling:
    """What `grid` goes by. line: set by whichever loop serves."""

    line: ClassVar[Line | None] = None


class Unanswered(Exception):
    """No Reply will come: the connection is gone, or nobody waits for the call that is being served."""


def pack_call(call_id: int, name: bytes, parent: int, body: bytes, deadline_ms: int, op: int) -> bytes:
    """An INVOKE of a task, or a PUBLISH on a topic, on behalf of the call `parent`."""
    meta = b'{"parent":%d}' % parent
    length = len(name) + len(meta) + len(body)
    return HEADER.pack(length, call_id, CALL, 0, op, deadline_ms, len(name), len(meta)) + name + meta + body
