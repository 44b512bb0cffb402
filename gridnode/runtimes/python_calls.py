"""Calls that a handler makes: who carries them, and which call it is that is being served."""

from __future__ import annotations

from typing import ClassVar, Protocol

from gridnode.runtimes.python_frames import CALL, HEADER, OP_INVOKE, Frame

Served = tuple[Frame, float]
"""A call being served, and when it came: unix seconds."""


class Line(Protocol):
    """The connection to the node, as the loop that serves it lets handlers use it."""

    def served(self) -> Served | None:
        """The call that the caller of this belongs to."""

    def call(self, task: bytes, body: bytes, deadline_ms: int) -> Frame:
        """Invoke and wait for the Reply; raises Unanswered, or RuntimeError where it would wait for itself."""

    async def call_async(self, task: bytes, body: bytes, deadline_ms: int) -> Frame:
        """The same."""


class Calling:
    """What `grid` goes by. line: set by whichever loop serves."""

    line: ClassVar[Line | None] = None


class Unanswered(Exception):
    """No Reply will come: the connection is gone, or nobody waits for the call that is being served."""


def pack_call(call_id: int, task: bytes, parent: int, body: bytes, deadline_ms: int) -> bytes:
    """An INVOKE on behalf of the call `parent`."""
    meta = b'{"parent":%d}' % parent
    length = len(task) + len(meta) + len(body)
    return HEADER.pack(length, call_id, CALL, 0, OP_INVOKE, deadline_ms, len(task), len(meta)) + task + meta + body
