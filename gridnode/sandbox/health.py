"""Whether an instance is well, by its own word: asked before it serves, and every few seconds while it does."""

import asyncio
import secrets
from dataclasses import dataclass
from typing import Final

from gridnode.errors import GridError, InstanceFailed
from gridnode.model import Invocation, InvocationId, Outcome, TaskName
from gridnode.sandbox.instance import Instance

HTTP_HEALTH: Final = ":health"
"""After a task's name: the question to a runtime that asks its HTTP server, by the path in $GRID_HEALTH."""


@dataclass(frozen=True, slots=True)
class HealthPolicy:
    """Seconds; failures: how many in a row are the end of an instance. again: between questions before it serves."""

    every: float = 10.0
    timeout: float = 5.0
    again: float = 1.0
    failures: int = 3


class Health:
    """One instance's. asked: what TaskSpec.health says."""

    def __init__(self, instance: Instance, asked: str, policy: HealthPolicy) -> None:
        self._instance = instance
        self._asked = asked
        self._policy = policy
        self._loop = asyncio.get_running_loop()
        self._under_way = False
        self._failures = 0

    async def prove(self) -> None:
        """Return once it is well; InstanceFailed when it is not, several times in a row."""
        left = self._policy.failures
        while (error := await self._ask()) is not None:
            left -= 1
            if left == 0:
                file = self._instance.spec.file
                trace = error.trace or await self._instance.log()
                raise InstanceFailed(f"{file}: unhealthy: {error.message}", trace=trace or None)
            await asyncio.sleep(self._policy.again)

    async def check(self) -> str:
        """Ask once; why the instance has to go, nothing while it may stay."""
        error = await self._ask()
        self._failures = 0 if error is None else self._failures + 1
        return f"was unhealthy: {error.message}" if error and self._failures >= self._policy.failures else ""

    async def _ask(self) -> GridError | None:
        """Why it is not well, or None."""
        if self._under_way:
            return InstanceFailed(f"{self._asked} has not answered since it was asked last")
        if self._instance.spec.runtime != "http" and self._task() not in self._instance.handlers:
            names = ", ".join(sorted(self._instance.handlers)[:10])
            return InstanceFailed(f"no public function {self._asked} in the file; there are {names}")
        reply: asyncio.Future[Outcome] = self._loop.create_future()

        def done(outcome: Outcome) -> None:
            self._under_way = False
            if not reply.done():
                reply.set_result(outcome)

        self._under_way = True
        deadline = self._loop.time() + self._policy.timeout
        call = Invocation(InvocationId(secrets.token_hex(16)), self._task(), b"", deadline)
        cancel = self._instance.invoke(call, done)
        try:
            async with asyncio.timeout(self._policy.timeout):
                return self._judge(await reply)
        except TimeoutError:
            return InstanceFailed(f"{self._asked} did not answer within {self._policy.timeout:g} s")
        finally:
            if not reply.done() or reply.cancelled():
                cancel()

    def _judge(self, outcome: Outcome) -> GridError | None:
        if outcome.error:
            return outcome.error
        return InstanceFailed(f"{self._asked} said false") if outcome.body.strip() == b"false" else None

    def _task(self) -> TaskName:
        """What is called: the function, which may be the file's own handler."""
        task = self._instance.spec.task
        if self._instance.spec.runtime == "http":
            return TaskName(f"{task}{HTTP_HEALTH}")
        name = TaskName(f"{task}.{self._asked}")
        own = self._asked in ("handler", "default", task.rpartition(".")[2])
        return TaskName(task) if own and name not in self._instance.handlers else name
