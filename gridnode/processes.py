"""What runs where: this node's instances, and those of every member, asked side by side."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from operator import attrgetter

from msgspec.structs import replace

from gridnode import messages
from gridnode.errors import BodyTooLarge, GridError
from gridnode.link.protocol import Link
from gridnode.messages import MAX_PROCESSES, MAX_TASKS, ProcessReport
from gridnode.model import Member, MemberState, NodeId, Process
from gridnode.wire import MAX_CALL_BODY, Frame, Op

_PATIENCE = 2.0
_SHORT_WHY = 400
"""Characters of each reason when many instances are reported."""
_MANY = 64


class Processes:
    """Answers PROCESSES. me: this node; members: itself included; peer: an open link to another.

    own: this node's instances; orders: by task file's name, the sequence of the order it follows.
    """

    def __init__(
        self,
        me: NodeId,
        members: Callable[[], list[Member]],
        peer: Callable[[NodeId], Awaitable[Link]],
        own: Callable[[], list[Process]],
        orders: Callable[[], dict[str, int]],
    ) -> None:
        self._me = me
        self._members = members
        self._peer = peer
        self._own = own
        self._orders = orders

    async def here(self, frame: Frame) -> bytes:
        """This node's report, about one task file or about all."""
        return messages.encode(self._report(frame.name))

    async def everywhere(self, frame: Frame) -> bytes:
        """A report for every member that has not left, by name; BodyTooLarge when that is more than one reply holds."""
        members = [member for member in self._members() if member.state is not MemberState.LEFT]
        reports = await asyncio.gather(*(self._of(member, frame.name) for member in members))
        body = messages.encode(sorted(reports, key=attrgetter("name", "node")))
        if len(body) > MAX_CALL_BODY:
            raise BodyTooLarge(f"the grid's processes take {len(body)} bytes", hint="ask for one task: gridctl ps TASK")
        return body

    async def _of(self, member: Member, task: str) -> ProcessReport:
        record = member.record
        report = ProcessReport(record.id, record.name, member.state)
        try:
            if record.id == self._me:
                theirs = self._report(task)
            elif member.state is MemberState.ALIVE:
                theirs = await self._ask(record.id, task)
            else:
                return replace(report, error=f"{record.name} is {member.state.value}")
        except TimeoutError:
            return replace(report, error=f"no answer within {_PATIENCE:g} s")
        except GridError as exc:
            return replace(report, error=exc.message)
        return replace(report, processes=theirs.processes, orders=theirs.orders)

    async def _ask(self, node: NodeId, task: str) -> ProcessReport:
        link = await self._peer(node)
        return messages.decode_processes(await link.request(Op.PROCESSES, name=task, timeout=_PATIENCE))

    def _report(self, task: str) -> ProcessReport:
        processes = _bounded(process for process in self._own() if task in ("", process.task))
        orders = {name: sequence for name, sequence in self._orders().items() if task in ("", name)}
        bounded = dict(sorted(orders.items())[:MAX_TASKS])
        return ProcessReport(self._me, "", processes=processes, orders=bounded)


def _bounded(processes: Iterable[Process]) -> tuple[Process, ...]:
    """As many as one report holds, with the last of each reason."""
    some = tuple(processes)[:MAX_PROCESSES]
    longest = messages.MAX_WHY if len(some) <= _MANY else _SHORT_WHY
    return tuple(replace(process, why=process.why[-longest:]) for process in some)
