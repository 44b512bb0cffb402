"""Looks at this node when an operator asks: every look side by side, each within its time, whatever the others do."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, Protocol

import structlog

from gridnode import messages
from gridnode.checks import Reach, check_engine, check_image, check_reach
from gridnode.diagnosis import Check, Diagnosis, Verdict
from gridnode.errors import GridError
from gridnode.link.pool import leads_there
from gridnode.link.protocol import Link
from gridnode.model import Address, NodeRecord, TaskSpec
from gridnode.wire import Frame

__all__ = ["Doctor", "Engine", "Look", "look_at_engine", "look_at_images", "look_at_peers"]

log = structlog.get_logger()

PATIENCE: Final = 4.0
"""Seconds for one look: who asks a node for another's diagnosis waits 5."""
FRESH: Final = 1.0
"""Seconds for which what was found is told to others who ask."""
MAX_PEERS: Final = 32
_DIALS_AT_ONCE: Final = 8
_DIAL_WITHIN: Final = 1.5

Look = Callable[[], Awaitable[Sequence[Check]]]


class Engine(Protocol):
    """What is asked of the container engine; each raises SandboxError."""

    async def version(self) -> str: ...
    async def has(self, name: str) -> bool: ...


class Doctor:
    """looks: by subject."""

    def __init__(self, looks: Mapping[str, Look]) -> None:
        self._looks = looks
        self._turn = asyncio.Lock()
        self._checks: tuple[Check, ...] = ()
        self._fresh_until = 0.0

    async def answer(self, frame: Frame) -> bytes:
        """DOCTOR: this node's Diagnosis. Many who ask at once make it look once."""
        now, began = time.time_ns(), time.perf_counter_ns()
        async with self._turn:
            if time.monotonic() >= self._fresh_until:
                found = await asyncio.gather(*(self._run(subject, look) for subject, look in self._looks.items()))
                self._checks = tuple(check for checks in found for check in checks)
                self._fresh_until = time.monotonic() + FRESH
        return messages.encode(Diagnosis(now, time.perf_counter_ns() - began, self._checks))

    @staticmethod
    async def _run(subject: str, look: Look) -> Sequence[Check]:
        try:
            async with asyncio.timeout(PATIENCE):
                return await look()
        except TimeoutError:
            return [Check(subject, Verdict.WRONG, f"no answer within {PATIENCE:g} s", "is this server overloaded?")]
        except GridError as exc:
            return [Check(subject, Verdict.WRONG, exc.message, exc.hint or "")]
        except Exception as exc:
            log.exception("a look of the doctor failed", subject=subject)
            return [Check(subject, Verdict.WRONG, f"{type(exc).__name__}: {exc}", "gridctl logs --system says more")]


async def look_at_engine(engine: Engine) -> list[Check]:
    """Whether it answers, and how fast."""
    began = time.perf_counter()
    version = error = ""
    try:
        version = await engine.version()
    except GridError as exc:
        error = exc.message
    return [check_engine(version, time.perf_counter() - began, error)]


async def look_at_images(engine: Engine, own: str, node_image: str, tasks: Sequence[TaskSpec]) -> list[Check]:
    """Those that tasks of the release run in; own, node_image: for Python and JavaScript tasks that name none."""
    users: dict[str, list[str]] = {own: [], node_image: []}
    for task in tasks:
        if task.runtime == "image" and not task.image:
            continue
        name = task.image or (node_image if task.runtime == "node" else own)
        users.setdefault(name, []).append(task.name)
    return [check_image(name, await engine.has(name), files) for name, files in users.items() if name]


async def look_at_peers(
    peers: Sequence[tuple[NodeRecord, Link]], dial: Callable[[Address], Awaitable[Link]], port: int
) -> list[Check]:
    """Whether those that are linked can be dialled now, too."""
    turns = asyncio.Semaphore(_DIALS_AT_ONCE)

    async def way(record: NodeRecord, link: Link) -> Reach:
        async with turns:
            return await _way(record, link, dial)

    return check_reach(await asyncio.gather(*(way(record, link) for record, link in peers[:MAX_PEERS])), port)


async def _way(record: NodeRecord, link: Link, dial: Callable[[Address], Awaitable[Link]]) -> Reach:
    error = "it tells no address"
    for address in record.addresses[:2]:
        try:
            async with asyncio.timeout(_DIAL_WITHIN):
                other = await dial(address)
                if await leads_there(other, record.id):
                    other.close()
                    return Reach(record.name, record.addresses)
            error = "another node answers there"
        except TimeoutError:
            error = f"no answer within {_DIAL_WITHIN:g} s"
        except GridError as exc:
            error = exc.message.removeprefix(f"{address}: ")
    host = link.peer.host if link.peer else ""
    return Reach(record.name, record.addresses, error, host not in {address.host for address in record.addresses})
