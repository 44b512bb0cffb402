"""Nodes that were just started: they answer over a Link, and know each other."""

import asyncio
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace

from gridctl.client import Connecting, Grid
from gridctl.fleet import HostResult
from gridctl.ssh import Host
from gridctl.steps import Command
from gridnode.errors import GridError, HostUnreachable, NotAuthenticated, StepFailed
from gridnode.gridfile import Gridfile, Server
from gridnode.model import Address, Member, MemberState, NodeId, Release, ReleaseState
from gridnode.servers import LINK_PORT

__all__ = ["Joining", "standing"]

START_TIMEOUT = 60.0
JOIN_TIMEOUT = 20.0
DIRECT_FIRST = 5.0
_PAUSE = 0.2
_JOURNAL = Command(("journalctl", "-u", "gridnode", "-n", "20", "-o", "cat", "--no-pager"))


class Joining:
    """Asks the servers of one Gridfile."""

    def __init__(self, gridfile: Gridfile) -> None:
        self._gridfile = gridfile
        self._nodes: dict[Server, NodeId] = {}
        self._vias: dict[Server, str] = {}

    async def answers(self, host: Host) -> None:
        """Wait until the host's node answers this Gridfile's operator; StepFailed with its log when it does not."""
        started = time.monotonic()
        while True:
            waited = time.monotonic() - started
            try:
                async with self._connect(host.server, again=waited > DIRECT_FIRST) as grid:
                    if grid.record:
                        self._nodes[host.server] = grid.record.id
                        self._vias[host.server] = grid.via
                        return
            except GridError as exc:
                if waited > START_TIMEOUT:
                    raise await self._silent(host, exc) from exc
            await asyncio.sleep(_PAUSE)

    async def serves(self, host: Host) -> None:
        """Wait until the host's node has taken up its work, as it and all others within reach see it; StepFailed."""
        await self.answers(host)
        node, deadline = self._nodes[host.server], time.monotonic() + START_TIMEOUT
        missing = ""
        for server in (host.server, *(one for one in self._gridfile.servers if one != host.server)):
            while missing := await self._missing(server, node, own=server == host.server):
                if time.monotonic() > deadline:
                    hint = "`gridctl ls` and `gridctl logs --system` say more"
                    raise StepFailed(
                        f"{host.server}: its node runs, but {missing}, as {server.host} sees it", hint=hint
                    )
                await asyncio.sleep(_PAUSE)

    async def _missing(self, server: Server, node: NodeId, own: bool) -> str:
        """What the node still lacks in the eyes of a server; nothing when that is another one out of reach."""
        try:
            async with self._connect(server) as grid:
                return standing(await grid.nodes(), await grid.release(), node)
        except GridError as exc:
            return exc.message if own else ""

    async def know_each_other(self, results: Iterable[HostResult]) -> None:
        """Wait until one of the nodes knows all others as alive; those it does not know get an error."""
        results = [result for result in results if result.server in self._nodes and not result.error]
        deadline = time.monotonic() + JOIN_TIMEOUT
        while results:
            alive = await self._alive(results[0].server)
            missing = [result for result in results if self._nodes[result.server] not in alive]
            if not missing:
                return
            if time.monotonic() > deadline:
                for result in missing:
                    result.error = StepFailed(
                        f"{result.server}: its node runs, but {results[0].server.host} does not know it",
                        hint=f"servers must reach each other on {LINK_PORT}/tcp",
                    )
                return
            await asyncio.sleep(_PAUSE)

    async def _alive(self, server: Server) -> set[NodeId]:
        with suppress(GridError):
            async with self._connect(server) as grid:
                return {row.record.id for row in await grid.nodes() if row.state is MemberState.ALIVE}
        return set()

    def _connect(self, server: Server, again: bool = False) -> Connecting:
        """A connection to a server's node, the way that worked; again: in any way that the Gridfile allows.

        A node that is just starting refuses too: that alone is no reason to go through SSH.
        """
        via = self._gridfile.via
        if via == "auto" and not again:
            via = self._vias.get(server) or next(iter(self._vias.values()), "direct")
        return Grid.connect(replace(self._gridfile, via=via), [self._address(server)])

    def _address(self, server: Server) -> Address:
        """Where its node listens: as the seeds say, if they name it."""
        seeds = (seed for seed in self._gridfile.seeds if seed.host == server.host)
        return next(seeds, Address(server.host, LINK_PORT))

    async def _silent(self, host: Host, error: GridError) -> StepFailed:
        trace = None
        with suppress(HostUnreachable):
            trace = (await host.run(_JOURNAL, 10)).output.strip() or None
        name = host.server
        if isinstance(error, NotAuthenticated):
            return StepFailed(f"{name}: {error.message}", trace=trace, hint="it may be a node of another grid")
        return StepFailed(
            f"{name}: its node does not answer: {error.message}",
            trace=trace,
            hint=f"this machine and the other servers must reach {LINK_PORT}/tcp there",
        )


def standing(members: Iterable[Member], release: Release | None, node: NodeId) -> str:
    """What a node lacks for calls to go there; nothing when it has all."""
    row = next((row for row in members if row.record.id == node), None)
    if row is None or row.state is not MemberState.ALIVE:
        return f"it is {row.state.value}" if row else "it is not a member"
    if row.record.draining and not row.record.drained:
        return "it is going down"
    status = row.record.release
    if release is None:
        return ""
    if status is None or status.sequence != release.sequence:
        return f"it has not begun with release {release.sequence}"
    if status.state is not ReleaseState.ACTIVE:
        return f"release {status.sequence} is {status.state.value}"
    return "" if row.record.tasks or not release.tasks else "it has no task ready"
