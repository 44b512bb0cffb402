"""One more instance of a task, from the order to its being ready, against a bare `docker run` of the same image."""

import asyncio
import statistics
import time
from argparse import Namespace
from collections.abc import Iterator

from benchmarks._grid import deploy, open_grid
from benchmarks._table import Measure, Report, parser, say
from gridctl.client import Grid as Client
from gridnode.model import Order
from integration import engine
from integration.engine import docker

TASK = "echo"
_ASK_EVERY = 0.005


async def instance(client: Client, count: int) -> float:
    """Seconds from the order of `count` instances to the moment at which so many are ready."""
    _, sequence = (await client.orders()).get(TASK, (Order(), 0))
    started = time.perf_counter()
    await client.put_order(TASK, Order(instances=count), sequence + 1)
    while await ready(client) != count:  # noqa: ASYNC110
        await asyncio.sleep(_ASK_EVERY)
    return time.perf_counter() - started


async def ready(client: Client) -> int:
    (report,) = await client.processes(TASK)
    return sum(process.state == "ready" for process in report.processes)


def container() -> float:
    """Seconds of `docker run` of a Python program that does nothing."""
    options = [
        "--rm",
        "--label",
        f"{engine.TEST}={engine.RUN}",
        "--network",
        "none",
        "--entrypoint",
        "/usr/bin/python3",
    ]
    started = time.perf_counter()
    docker("run", *options, engine.image(), "-I", "-c", "pass")
    return time.perf_counter() - started


async def rounds(gridfile: str, count: int) -> tuple[list[float], list[float]]:
    """Seconds of instances and of plain containers, by turns."""
    instances, containers = [], []
    async with Client.connect(gridfile) as client:
        for turn in range(count):
            say(f"round {turn + 1} of {count}")
            instances.append(await instance(client, turn + 2))
            containers.append(await asyncio.to_thread(container))
    return instances, containers


def measures(instances: list[float], containers: list[float]) -> Iterator[Measure]:
    yield Measure("one more instance, ready", 1000 * statistics.median(instances), "ms")
    yield Measure("docker run", 1000 * statistics.median(containers), "ms")
    ratios = [one / other for one, other in zip(instances, containers, strict=True)]
    yield Measure("instance / docker run", statistics.median(ratios), "x", at_most=1.5)


def main(options: Namespace) -> None:
    report = Report("cold")
    with open_grid(1) as grid:
        deploy(grid)
        instances, containers = asyncio.run(rounds(str(grid.gridfile), options.rounds))
    report.measures = list(measures(instances, containers))
    report.notes = [f"Medians of {options.rounds} rounds, by turns; the instance's time has the order's way in it."]
    report.print(options.json)


if __name__ == "__main__":
    main(parser(__doc__, rounds=9).parse_args())
