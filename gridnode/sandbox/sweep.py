"""Removes what should be gone: sandboxes that ended, of any node of the grid, and those whose removal failed."""

import asyncio

import structlog

from gridnode.errors import GridError
from gridnode.model import InstanceId
from gridnode.sandbox import Sandbox

log = structlog.get_logger()

_EVERY = 180.0
_AFTER = 60.0
"""Seconds that an ended sandbox stays for its own node to remove it."""
_AGAIN_FIRST = 1.0
_AGAIN_LAST = 60.0


class Sweep:
    """One node's. grid: the tag of the grid whose ended sandboxes it removes."""

    def __init__(self, sandbox: Sandbox, grid: str) -> None:
        self._sandbox = sandbox
        self._grid = grid
        self._owed: set[InstanceId] = set()
        self._owing = asyncio.Event()

    def owe(self, instance: InstanceId) -> None:
        """The engine did not remove it: try again until it is gone."""
        self._owed.add(instance)
        self._owing.set()

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._remove_ended(), name="sweep ended")
            group.create_task(self._remove_owed(), name="sweep owed")

    async def _remove_ended(self) -> None:
        while True:
            try:
                count = await self._sandbox.sweep(self._grid, _AFTER)
                if count:
                    log.info("removed sandboxes that had ended", count=count)
            except GridError as exc:
                log.warning("cannot look for ended sandboxes", error=exc.message)
            await asyncio.sleep(_EVERY)

    async def _remove_owed(self) -> None:
        delay = _AGAIN_FIRST
        while True:
            await self._owing.wait()
            await asyncio.sleep(delay)
            await self._settle()
            delay = min(2 * delay, _AGAIN_LAST) if self._owed else _AGAIN_FIRST

    async def _settle(self) -> None:
        """Remove what is owed and there; one listing tells, however much was tried while no engine answered."""
        owed = set(self._owed)
        try:
            held = {one.instance for one in await self._sandbox.held()}
        except GridError as exc:
            log.warning("sandboxes wait for their removal", count=len(owed), error=exc.message)
            return
        for instance in owed & held:
            try:
                await self._sandbox.stop(instance, 0)
                log.info("removed a sandbox that was owed", instance=instance)
            except GridError as exc:
                log.warning("a sandbox waits for its removal", instance=instance, error=exc.message)
                owed.discard(instance)
        self._owed -= owed
        if not self._owed:
            self._owing.clear()
