"""Several ways to one end, tried as in RFC 8305 ("happy eyeballs"): the first that leads there is kept."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

__all__ = ["STAGGER", "race"]

T = TypeVar("T")
STAGGER = 0.25
"""Seconds before the next is tried too."""


async def race(attempts: Sequence[Callable[[], Awaitable[T]]], undo: Callable[[T], object]) -> T:
    """What the first attempt to succeed gives; raises what the last raised when none does, ValueError without any.

    Each starts when those before have failed, at the latest STAGGER after the one before. Losers are cancelled, and
    `undo` takes back what a second one gave at the same moment.
    """
    running: set[asyncio.Task[T]] = set()
    left = list(attempts)
    failure: BaseException = ValueError("nothing to try")
    try:
        while left or running:
            if left:
                running.add(asyncio.ensure_future(_run(left.pop(0))))
            done, _ = await asyncio.wait(
                running, timeout=STAGGER if left else None, return_when=asyncio.FIRST_COMPLETED
            )
            running -= done
            won = [job for job in done if not job.exception()]
            for job in won[1:]:
                undo(job.result())
            if won:
                return won[0].result()
            failure = next((job.exception() or failure for job in done), failure)
        raise failure
    finally:
        for job in running:
            job.cancel()
            job.add_done_callback(lambda job: job.cancelled() or job.exception() or undo(job.result()))


async def _run(attempt: Callable[[], Awaitable[T]]) -> T:
    return await attempt()
