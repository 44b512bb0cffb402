"""Answers the op LOGS: lines of this node's instances, of those that are gone, and of gridnode itself."""

import asyncio
import time
from collections.abc import Callable, Iterable

from gridnode import messages
from gridnode.errors import SandboxError
from gridnode.messages import MAX_LOG_SIZE, OWN_LOG, LogQuery, LogReply
from gridnode.model import LogLine
from gridnode.sandbox import Held, Sandbox

_AT_ONCE = 2
"""Queries answered, and instances read for each, at once: lines are bulky, and the engine has other work."""
_SLACK = 1_000_000_000
"""Nanoseconds by which a file's time may be behind the clock."""
_OVERHEAD = 64


class Logs:
    """kept: of instances that are gone, by task file or all, what changed since; own: gridnode's own, since, so many.

    Both block. now: unix nanoseconds.
    """

    def __init__(
        self,
        sandbox: Sandbox,
        kept: Callable[[str, int], list[LogLine]],
        own: Callable[[int, int], list[LogLine]],
        now: Callable[[], int] = time.time_ns,
    ) -> None:
        self._sandbox = sandbox
        self._kept = kept
        self._own = own
        self._now = now
        self._queries = asyncio.Semaphore(_AT_ONCE)

    async def answer(self, body: bytes) -> bytes:
        """A LogReply for a LogQuery; BodyInvalid on garbage."""
        query = messages.decode_log_query(body)
        async with self._queries:
            return messages.encode(await self.read(query))

    async def read(self, query: LogQuery) -> LogReply:
        """What the query asks for; an engine that does not answer is told in `error`."""
        collected = _Newest(query, self._now())
        if query.task == OWN_LOG:
            collected.add(await asyncio.to_thread(self._own, query.after.get("", query.since), query.lines))
            return collected.reply()
        try:
            await self._read_live(query, collected)
        except SandboxError as exc:
            collected.error = exc.message
        changed = max(query.since, query.seen - _SLACK)
        # After the live ones: an instance that ends meanwhile is kept before it is gone.
        collected.add(await asyncio.to_thread(self._kept, query.task, changed))
        return collected.reply()

    async def _read_live(self, query: LogQuery, collected: "_Newest") -> None:
        turn = asyncio.Semaphore(_AT_ONCE)

        async def read(held: Held) -> None:
            async with turn:
                since = query.after.get(held.instance, query.since)
                output = await self._sandbox.log_lines(held.instance, since, query.lines)
                collected.add(LogLine(line.time, held.task, held.instance, line.stream, line.text) for line in output)

        wanted = [
            held
            for held in await self._sandbox.held()
            if query.task in ("", held.task) and held.instance.startswith(query.instance)
        ]
        for result in await asyncio.gather(*(read(held) for held in wanted), return_exceptions=True):
            if isinstance(result, SandboxError):
                collected.error = result.message
            elif isinstance(result, BaseException):
                raise result


class _Newest:
    """The newest lines that a query asks for, whatever more is added."""

    def __init__(self, query: LogQuery, now: int) -> None:
        self._query = query
        self._now = now
        self._lines: list[LogLine] = []
        self._cut = False
        self.error = ""

    def add(self, lines: Iterable[LogLine]) -> None:
        fresh = [line for line in lines if self._asked_for(line)]
        found = sorted(dict.fromkeys(self._lines + fresh), key=lambda line: line.time)
        self._lines = within(found, self._query.lines)
        self._cut = self._cut or len(self._lines) < len(found)

    def _asked_for(self, line: LogLine) -> bool:
        query = self._query
        later = line.time > query.after.get(line.instance, query.since)
        return later and query.task in ("", line.task) and line.instance.startswith(query.instance)

    def reply(self) -> LogReply:
        return LogReply(tuple(self._lines), self._now, self._cut, self.error)


def within(lines: list[LogLine], count: int) -> list[LogLine]:
    """The last of them: at most `count`, and what fits in a reply."""
    first, size = len(lines), 0
    for line in reversed(lines[-count:]):
        size += len(line.text.encode(errors="replace")) + _OVERHEAD
        if size > MAX_LOG_SIZE:
            break
        first -= 1
    return lines[first:]
