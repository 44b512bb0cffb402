"""Asks every node for lines, and remembers how far each is known, so that following costs little."""

import asyncio
from collections.abc import Iterable
from typing import NamedTuple, Protocol

import msgspec

from gridnode.errors import GridError, NodeNotFound
from gridnode.messages import MAX_LOG_LINES, LogQuery, LogReply
from gridnode.model import LogLine, Member, MemberState, NodeId, NodeRecord

__all__ = ["Row", "Tail", "chosen"]

MAX_CURSORS = 1000
"""Instances of one node whose place is remembered; of older ones only that they are older."""


class Row(NamedTuple):
    """One line, and the node it comes from."""

    node: NodeRecord
    line: LogLine


class Asked(Protocol):
    """A Grid's part in it."""

    async def nodes(self) -> list[Member]: ...
    async def logs(self, node: NodeId, query: LogQuery) -> LogReply: ...


class Tail:
    """The lines that `query` asks for, of all nodes or of one, by name, id or a unique prefix of the id.

    Of the last poll: `answered`, the nodes that did; `missing`, those that did not, with their names and why; `cut`,
    names of those that left lines out.
    """

    def __init__(self, query: LogQuery, node: str = "") -> None:
        self.answered: set[NodeId] = set()
        self.missing: dict[NodeId, tuple[str, str]] = {}
        self.cut: set[str] = set()
        self._query = query
        self._node = node
        self._queries: dict[NodeId, LogQuery] = {}

    async def poll(self, grid: Asked) -> list[Row]:
        """What is new since the last poll, by time."""
        members = await self._members(grid)
        self.answered, self.missing, self.cut = set(), {}, set()
        for member in members:
            if member.state is not MemberState.ALIVE:
                self.missing[member.record.id] = (member.record.name, f"it is {member.state.value}")
        alive = [member.record for member in members if member.state is MemberState.ALIVE]
        found = await asyncio.gather(*(self._ask(grid, record) for record in alive))
        if alive and not self.answered:
            await grid.nodes()  # raises when it is our own link that is lost
        rows = [Row(record, line) for record, lines in zip(alive, found, strict=True) for line in lines]
        return sorted(rows, key=lambda row: row.line.time)

    async def _members(self, grid: Asked) -> list[Member]:
        """A node that was asked before may leave, or not be known yet to whom we ask now."""
        members = await grid.nodes()
        here = [one for one in members if one.state is not MemberState.LEFT or one.record.id in self._queries]
        try:
            return chosen(here, self._node)
        except NodeNotFound:
            if not self._queries:
                raise
            return []

    async def _ask(self, grid: Asked, record: NodeRecord) -> tuple[LogLine, ...]:
        query = self._queries.get(record.id, self._query)
        try:
            reply = await grid.logs(record.id, query)
        except GridError as exc:
            self.missing[record.id] = (record.name, exc.message)
            return ()
        self.answered.add(record.id)
        if reply.error:
            self.missing[record.id] = (record.name, reply.error)
        if reply.cut:
            self.cut.add(record.name)
        self._queries[record.id] = further(query, reply)
        return reply.lines


def further(query: LogQuery, reply: LogReply) -> LogQuery:
    """The query for what comes after this reply to `query`."""
    after = dict(query.after)
    for line in reply.lines:
        after[line.instance] = max(line.time, after.get(line.instance, 0))
    since = query.since
    if reply.cut and reply.lines:  # what was left out is older than all of these: it is not asked for again
        since = max(since, reply.lines[0].time)
    oldest = sorted(after, key=after.__getitem__)[: max(0, len(after) - MAX_CURSORS)]
    since = max([since, *(after.pop(instance) for instance in oldest)])
    return msgspec.structs.replace(query, after=after, since=since, seen=reply.now, lines=MAX_LOG_LINES)


def chosen(members: Iterable[Member], wanted: str) -> list[Member]:
    """All of them by name, or the wanted one alone; NodeNotFound when that is none or several."""
    here = sorted(members, key=lambda member: (member.record.name, member.record.id))
    if not wanted:
        return here
    named = [member for member in here if wanted in (member.record.name, member.record.id)]
    named = named or [member for member in here if member.record.id.startswith(wanted)]
    if len(named) != 1:
        why = "no node is" if not named else f"{len(named)} nodes are"
        names = ", ".join(sorted(member.record.name for member in here))
        raise NodeNotFound(f"{why} called {wanted:.64}; there are {names}")
    return named
