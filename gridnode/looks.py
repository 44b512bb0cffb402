"""What the doctor looks at on this node: facts from its parts, put to the judgements of checks.py."""

import asyncio
import shutil
import time
from collections.abc import Awaitable, Callable

from gridnode.checks import check_card, check_disk
from gridnode.diagnosis import Check
from gridnode.doctor import Engine, Look, look_at_engine, look_at_images, look_at_peers
from gridnode.finding import Finding
from gridnode.ledger_sync import LedgerSync
from gridnode.link.protocol import Link
from gridnode.mesh import Mesh
from gridnode.model import Address
from gridnode.settings import Settings

__all__ = ["looks"]


def looks(
    settings: Settings,
    finding: Finding,
    mesh: Mesh,
    engine: Engine,
    image: str,
    ledger: LedgerSync,
    dial: Callable[[Address], Awaitable[Link]],
) -> dict[str, Look]:
    """By subject. image: of Python tasks that name none; dial: opens a bulk link."""

    async def disk() -> list[Check]:
        usage = await asyncio.to_thread(shutil.disk_usage, settings.data_dir)
        return [check_disk(usage.free, usage.total, settings.disk_reserve, str(settings.data_dir))]

    async def card() -> list[Check]:
        return [check_card(mesh.record().until, time.time())]

    async def images() -> list[Check]:
        tasks = ledger.release.tasks if ledger.release else ()
        return await look_at_images(engine, image, settings.node_image, tasks)

    return {
        "engine": lambda: look_at_engine(engine),
        "images": images,
        "disk": disk,
        "card": card,
        "ports": lambda: look_at_peers(mesh.alive(), dial, settings.port),
        "network": finding.look,
    }
