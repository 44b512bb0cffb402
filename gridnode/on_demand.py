"""Invokes on a peer that is not linked yet: the first call dials it, and those after that go straight."""

import asyncio
from collections.abc import Awaitable, Callable

from gridnode.errors import GridError, LinkClosed
from gridnode.link import Cancel, Invoker, nothing_to_cancel
from gridnode.model import Done, Invocation, NodeId, Outcome

__all__ = ["OnDemand"]


class OnDemand:
    """dial: an invoker on an open link to `node`, or raises a GridError."""

    def __init__(self, node: NodeId, dial: Callable[[NodeId], Awaitable[Invoker]]) -> None:
        self._node = node
        self._dial = dial

    def invoke(self, call: Invocation, done: Done) -> Cancel:
        """Dial, then send the call; a node that cannot be reached is an outcome that never started."""
        cancel: Cancel = nothing_to_cancel

        async def go() -> None:
            nonlocal cancel
            try:
                invoker = await self._dial(self._node)
            except GridError as exc:
                error = exc if exc.retryable else LinkClosed(exc.message)
                done(Outcome(error=error, node=self._node, started=False))
                return
            cancel = invoker.invoke(call, done)

        job = asyncio.create_task(go(), name="dial-for-call")
        _JOBS.add(job)
        job.add_done_callback(_JOBS.discard)

        def give_up() -> None:
            job.cancel()
            cancel()

        return give_up


_JOBS: set[asyncio.Task[None]] = set()
"""The loop keeps no job alive by itself."""
