"""What peers tell over links of themselves and of others: read, bounded, verified, and handed to the Membership."""

import asyncio
from collections.abc import Callable

import structlog
from msgspec.structs import replace

from gridnode import gossip, messages
from gridnode.errors import GridError
from gridnode.link.protocol import Link
from gridnode.membership import Membership
from gridnode.model import MemberState, NodeId, NodeRecord
from gridnode.swim.events import (
    Asked,
    ClaimHeard,
    DigestHeard,
    Event,
    LoadHeard,
    RecordHeard,
    RetireHeard,
    VersionsHeard,
)
from gridnode.task_lists import TaskLists
from gridnode.wire import Frame, Op

log = structlog.get_logger()

_MAX_VERIFIED = 1024
"""Signatures of one peer's news that are looked at in a second; the comparing of sums makes the rest good."""
_FETCH_WITHIN = 5.0
_MAX_FETCHES = 16
"""Lists of tasks that are asked for at once."""
_MAX_ASKED = 4
"""Peers that are asked for one list, until all that is missing is asked for anew."""


class Hearsay:
    """handle: takes events; link: the open one to a peer, or None; on_change: a record has its tasks now."""

    def __init__(
        self,
        membership: Membership,
        handle: Callable[[Event], None],
        link: Callable[[NodeId], Link | None],
        on_change: Callable[[], None],
    ) -> None:
        self.lists = TaskLists()
        self._membership = membership
        self._handle = handle
        self._link = link
        self._on_change = on_change
        self._loop = asyncio.get_running_loop()
        self._whole: dict[NodeId, tuple[NodeRecord, NodeRecord]] = {}
        self._fetches: dict[str, asyncio.Task[None]] = {}
        self._in_vain: set[str] = set()
        self._verified: dict[NodeId, int] = {}
        self._counted_since = 0.0

    def heard(self, node: NodeId, frame: Frame) -> bool:
        """Take a peer's event if it is about members; BodyInvalid for garbage."""
        match frame.op:
            case Op.GOSSIP:
                self._take(node, frame.body)
            case Op.DIGEST:
                self._handle(DigestHeard(gossip.decode_digest(frame.body), node))
            case Op.VERSIONS:
                self._handle(VersionsHeard(*gossip.decode_versions(frame.body), node))
            case Op.RECORDS_ASK:
                self._handle(Asked(gossip.decode_ask(frame.body), node))
            case Op.LOAD:
                self._handle(LoadHeard(node, messages.decode_load(frame.body)))
            case Op.RETIRE:
                self._handle(RetireHeard(node))
            case _:
                return False
        return True

    def _take(self, source: NodeId, body: bytes) -> None:
        told = gossip.decode_gossip(body)
        for raw in told.news:
            record, signed = gossip.read_record(raw)
            if not self._membership.is_news(record):
                continue
            if not self._may_verify(source):
                break
            if not gossip.is_genuine(signed):
                log.warning("a peer tells of a node what that has not signed", peer=source, node=record.id)
                return
            self._handle(RecordHeard(record, raw, source))
        for claim in told.claims:
            self._handle(ClaimHeard(claim, source))

    def _may_verify(self, source: NodeId) -> bool:
        now = self._loop.time()
        if now - self._counted_since >= 1.0:
            self._counted_since, self._verified = now, {}
        self._verified[source] = self._verified.get(source, 0) + 1
        return self._verified[source] <= _MAX_VERIFIED

    # -- tasks ------------------------------------------------------------------------------------------------------

    def whole(self, record: NodeRecord) -> NodeRecord:
        """The record with the tasks that its node serves, as soon as they are known."""
        held = self._whole.get(record.id)
        if held and held[0] is record:
            return held[1]
        tasks = self.lists.get(record.served)
        filled = replace(record, tasks=tasks) if tasks else record
        if tasks is not None:
            self._whole[record.id] = (record, filled)
        return filled

    def want(self, record: NodeRecord) -> None:
        """Have the list of its tasks fetched, unless it is known, from any peer that serves the same."""
        served = record.served
        if self.lists.get(served) is not None or served in self._fetches or served in self._in_vain:
            return
        if len(self._fetches) < _MAX_FETCHES:
            self._fetches[served] = job = asyncio.create_task(self._fetch(served), name="fetch-tasks")
            job.add_done_callback(lambda _: self._fetches.pop(served, None))

    async def _fetch(self, served: str) -> None:
        asked = self._serving(served)
        for link in asked:
            try:
                body = await link.request(Op.TASKS, name=served, timeout=_FETCH_WITHIN)
                self.lists.take(served, messages.decode_tasks(body))
            except (GridError, TimeoutError) as exc:
                log.debug("a peer did not tell its tasks", peer=link.peer and link.peer.node, error=str(exc))
                continue
            self._on_change()
            return
        if asked:  # else it is to be asked for as soon as somebody is linked
            self._in_vain.add(served)

    def _serving(self, served: str) -> list[Link]:
        """Links to a few that may know it: first those that serve it themselves."""
        alive = [row.record for row in self._membership.members() if row.state is MemberState.ALIVE]
        links = [self._link(record.id) for record in sorted(alive, key=lambda record: record.served != served)]
        return [link for link in links if link and link.is_open][:_MAX_ASKED]

    def tidy(self) -> None:
        """Forget what no member needs, and ask again for what is still unknown."""
        records = [row.record for row in self._membership.members()]
        self.lists.keep(record.served for record in records)
        known = {record.id for record in records}
        self._whole = {node: held for node, held in self._whole.items() if node in known}
        self._in_vain.clear()
        for record in records:
            self.want(record)

    def close(self) -> None:
        for job in list(self._fetches.values()):
            job.cancel()
