"""Plans on many hosts at once: each host goes its own way, and what stops one does not stop the others."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from gridctl.ssh import Ended, Host
from gridctl.steps import Command, Feed, Plan, Step
from gridnode.errors import GridError, StepFailed
from gridnode.gridfile import Server

__all__ = ["Fleet", "HostResult", "Report", "State"]

T = TypeVar("T")
_TRACE_LINES = 20

Feeds = Callable[[Server, Feed], AsyncIterator[bytes]]
"""The bytes of a feed, for one server."""
Last = Callable[[Host], Awaitable[None]]
"""What is to be true of a host in the end; raises GridError."""


class State:
    """What became of a step."""

    DONE = "ok"
    UNCHANGED = "unchanged"
    WANTED = "would change"
    FAILED = "failed"


class Report(Protocol):
    """Who watches."""

    def begun(self, server: Server, step: str) -> None: ...

    def line(self, server: Server, text: str) -> None:
        """What a command printed; it comes from the server and is not to be trusted."""

    def ended(self, server: Server, step: str, state: str, seconds: float) -> None: ...


@dataclass(slots=True)
class HostResult:
    """What became of one host. reached: it let us in; changed: steps that were taken; error: what stopped it."""

    server: Server
    changed: list[str] = field(default_factory=list)
    error: GridError | None = None
    seconds: float = 0.0
    reached: bool = False


class Fleet:
    """Hosts, opened by `dial`, at most `jobs` of them at a time. dry_run: check, but change nothing.

    last: what the step at the end of a run is called.
    """

    def __init__(
        self,
        dial: Callable[[Server], Awaitable[Host]],
        feeds: Feeds,
        report: Report,
        jobs: int,
        dry_run: bool = False,
        last: str = "member",
    ) -> None:
        self._dial = dial
        self._feeds = feeds
        self._report = report
        self._free = asyncio.Semaphore(jobs)
        self._dry_run = dry_run
        self._last = last

    async def run(self, servers: Iterable[Server], plan: Plan, last: Last | None = None) -> list[HostResult]:
        """Take every host through the plan, and wait for `last`; one result for each, in order."""
        return list(await asyncio.gather(*(self._host(server, plan, last) for server in servers)))

    async def roll(self, servers: Iterable[Server], plan: Plan, last: Last | None = None) -> list[HostResult]:
        """As `run`, but one after the other, and the first failure ends it; a result for each host until then."""
        results: list[HostResult] = []
        for server in servers:
            results += await self.run([server], plan, last)
            if results[-1].error:
                break
        return results

    async def execute(self, servers: Iterable[Server], argv: Sequence[str]) -> list[tuple[Server, Ended | GridError]]:
        """Run one command as the login user on every host; how it ended on each, in order."""
        return list(await asyncio.gather(*(self._execute(server, argv) for server in servers)))

    async def _execute(self, server: Server, argv: Sequence[str]) -> tuple[Server, Ended | GridError]:
        async with self._free:
            start = time.monotonic()
            self._report.begun(server, "run")
            try:
                host = await self._dial(server)
                try:
                    ended: Ended | GridError = await self._command(host, Command(tuple(argv), root=False), 86_400.0)
                finally:
                    await host.close()
            except GridError as exc:
                ended = exc
            good = isinstance(ended, Ended) and ended.code == 0
            self._report.ended(server, "run", State.DONE if good else State.FAILED, time.monotonic() - start)
            return server, ended

    async def _host(self, server: Server, plan: Plan, last: Last | None) -> HostResult:
        result = HostResult(server)
        async with self._free:
            start = time.monotonic()
            try:
                host = await self._timed(server, "connect", self._dial(server))
                result.reached = True
                try:
                    for step in plan:
                        await self._step(host, step, result)
                    if last and not self._dry_run:
                        await self._timed(server, self._last, last(host))
                finally:
                    await host.close()
            except GridError as exc:
                result.error = exc
            result.seconds = time.monotonic() - start
        return result

    async def _timed(self, server: Server, name: str, work: Awaitable[T]) -> T:
        """Wait for it, as a step that changes nothing."""
        self._report.begun(server, name)
        start, state = time.monotonic(), State.FAILED
        try:
            value = await work
            state = State.DONE
            return value
        finally:
            self._report.ended(server, name, state, time.monotonic() - start)

    async def _step(self, host: Host, step: Step, result: HostResult) -> None:
        self._report.begun(host.server, step.name)
        start, state = time.monotonic(), State.FAILED
        try:
            state = await self._take(host, step)
        finally:
            self._report.ended(host.server, step.name, state, time.monotonic() - start)
        if state in (State.DONE, State.WANTED) and step.check:
            result.changed.append(step.name)

    async def _take(self, host: Host, step: Step) -> str:
        """Check, act where there is something to do, and check again: what does not hold afterwards has failed."""
        if step.check and (await self._command(host, step.check, step.timeout, quiet=True)).code == 0:
            return State.UNCHANGED
        if step.check and self._dry_run:
            return State.WANTED
        ended = await self._command(host, step.act, step.timeout, quiet=step.judge is not None)
        if ended.code:
            raise _failed(host.server, step, ended, f"exit code {ended.code}")
        wrong = step.judge(ended.output, time.time()) if step.judge else []
        if wrong:
            raise StepFailed(f"{host.server}: {'; '.join(wrong)}", hint="nothing was changed on it")
        if step.check and (await self._command(host, step.check, step.timeout, quiet=True)).code:
            raise _failed(host.server, step, ended, "it ended well, and yet its check does not hold")
        return State.DONE

    async def _command(self, host: Host, command: Command, timeout: float, quiet: bool = False) -> Ended:
        stdin = command.stdin
        feed = self._feeds(host.server, stdin) if isinstance(stdin, Feed) else _once(stdin)
        listener = None if quiet else lambda text: self._report.line(host.server, text)
        return await host.run(command, timeout, feed, listener)


def _failed(server: Server, step: Step, ended: Ended, why: str) -> StepFailed:
    printed = (ended.output + ended.errors).strip().splitlines()[-_TRACE_LINES:]
    return StepFailed(
        f"{server}: step {step.name!r} failed: {why}", trace="\n".join(printed) or None, hint=step.hint or None
    )


async def _once(stdin: bytes) -> AsyncIterator[bytes]:
    yield stdin
