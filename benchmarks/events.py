"""Events a second from one publisher to one subscriber on another node, beside Redis pub/sub driven by redis-py."""

import asyncio
import contextlib
import importlib
import multiprocessing
import shutil
import statistics
import subprocess
import tempfile
import time
from argparse import Namespace
from collections.abc import Iterator
from typing import Any

from benchmarks import _proc
from benchmarks._grid import node_pid, open_grid
from benchmarks._table import Measure, Report, parser, say
from gridctl import Grid as Client
from integration.grid import Grid

TOPIC = "bench.events"
EVENT = "x" * 98
"""100 bytes of JSON."""
TARGET = 20_000
PATIENCE = 60.0
_FORK = multiprocessing.get_context("fork")


async def known(publisher: Client, events: Any) -> None:
    """Until what is published on one node comes on the other."""
    deadline = time.monotonic() + PATIENCE
    while not await publisher.publish(TOPIC, "first"):
        if time.monotonic() > deadline:
            raise RuntimeError("the publisher's node never learnt of the subscriber")
        await asyncio.sleep(0.02)
    while (await events.next()).payload != "first":
        pass


async def publish(publisher: Client, count: int, batch: int, window: int) -> None:
    """`batch` events a request, `window` requests under way."""
    turns = iter(range(0, count, batch))

    async def some() -> None:
        for _ in turns:
            await publisher.publish_all([(TOPIC, EVENT)] * batch)

    await asyncio.gather(*(some() for _ in range(window)))


def ours(grid: Grid, count: int, batch: int, window: int) -> dict[str, float]:
    """Events a second until the last one has arrived; the subscriber is a process of its own."""
    one, two = (f"127.0.0.1:{node.port}" for node in list(grid.nodes.values())[:2])
    ready, done = _FORK.Event(), _FORK.Event()
    lost = _FORK.Value("i", 0)

    async def read() -> None:
        async with Client.connect(grid.gridfile, [two]) as reader, reader.subscribe(TOPIC, buffer=count) as events:
            async with Client.connect(grid.gridfile, [one]) as publisher:
                await known(publisher, events)
            ready.set()
            got = 0
            while got + events.dropped < count:
                await events.next()
                got += 1
            lost.value = events.dropped
            done.set()

    async def write() -> float:
        async with Client.connect(grid.gridfile, [one]) as publisher:
            started = time.perf_counter()
            await publish(publisher, count, batch, window)
            await asyncio.to_thread(done.wait, PATIENCE)
            return time.perf_counter() - started

    reader = _FORK.Process(target=lambda: asyncio.run(read()))
    pids = [node_pid(node) for node in list(grid.nodes.values())[:2]]
    reader.start()
    if not ready.wait(PATIENCE):
        raise RuntimeError("the subscriber did not come up")
    before = sum(map(_proc.cpu, pids))
    elapsed = asyncio.run(write())
    used = sum(map(_proc.cpu, pids)) - before
    reader.join(PATIENCE)
    return {"rate": (count - lost.value) / elapsed, "lost": lost.value, "cpu": used / count * 1e6}


@contextlib.contextmanager
def redis_server() -> Iterator[Any]:
    """A redis-py client of a server of our own on a unix socket; None, and said why, where there is none."""
    program = shutil.which("redis-server")
    try:
        redis: Any = importlib.import_module("redis")
    except ImportError:
        redis = None
    if not program or redis is None:
        missing = " and ".join(
            name for name, there in (("redis-server", program), ("the Python package redis", redis)) if not there
        )
        say(f"Redis is not compared: {missing} not installed")
        yield None
        return
    with tempfile.TemporaryDirectory() as directory:
        path = f"{directory}/redis"
        argv = [program, "--port", "0", "--unixsocket", path, "--save", "", "--appendonly", "no", "--dir", directory]
        with subprocess.Popen(argv, stdout=subprocess.DEVNULL) as process:
            try:
                yield _connected(redis, path)
            finally:
                process.terminate()


def _connected(redis: Any, path: str) -> Any:
    client = redis.Redis(unix_socket_path=path)
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            client.ping()
            return client
        except redis.ConnectionError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def theirs(client: Any, count: int, batch: int) -> float:
    """The same over Redis: pipelines of `batch`, one subscriber, a process of its own."""
    ready, done = _FORK.Event(), _FORK.Event()

    def read() -> None:
        with client.pubsub(ignore_subscribe_messages=False) as events:
            events.subscribe(TOPIC)
            events.get_message(timeout=PATIENCE)
            ready.set()
            for _ in range(count):
                while events.get_message(timeout=PATIENCE) is None:
                    pass
            done.set()

    reader = _FORK.Process(target=read)
    reader.start()
    ready.wait(PATIENCE)
    payload = f'"{EVENT}"'
    started = time.perf_counter()
    for _ in range(0, count, batch):
        pipe = client.pipeline(transaction=False)
        for _ in range(batch):
            pipe.publish(TOPIC, payload)
        pipe.execute()
    done.wait(PATIENCE)
    elapsed = time.perf_counter() - started
    reader.join(PATIENCE)
    return count / elapsed


def main(options: Namespace) -> None:
    report = Report("events")
    rounds: list[dict[str, Any]] = []
    with open_grid(2) as grid, redis_server() as redis:
        for turn in range(options.rounds):
            row: dict[str, Any] = {"round": turn + 1}
            batched = ours(grid, options.events, options.batch, 4)
            single = ours(grid, options.events // 4, 1, 256)
            row |= {f"in {options.batch}s": batched["rate"], "lost": batched["lost"] + single["lost"]}
            row |= {"one by one": single["rate"], "node CPU us": batched["cpu"]}
            if redis:
                row["redis"] = theirs(redis, options.events, options.batch)
                row["redis one by one"] = theirs(redis, options.events // 4, 1)
            rounds.append(row)
            say(str(row))
    middle = {name: statistics.median(row[name] for row in rounds) for name in rounds[0]}
    batched_name = f"in {options.batch}s"
    report.details = rounds
    report.measures = [
        Measure(f"events of 100 bytes, {options.batch} a request", middle[batched_name], "/s", at_least=TARGET),
        Measure("one a request, 256 under way", middle["one by one"], "/s"),
        Measure("CPU of both nodes, an event", middle["node CPU us"], "us"),
    ]
    if redis:
        ratios = [row[batched_name] / row["redis"] for row in rounds]
        report.measures.append(Measure("ours / Redis, alike in size", statistics.median(ratios), "x", at_least=1))
        ratios = [row["one by one"] / row["redis one by one"] for row in rounds]
        report.measures.append(Measure("ours / Redis, one a request", statistics.median(ratios), "x"))
    else:
        report.notes.append("redis-server or the Python package redis is not installed here: no comparison.")
    report.notes.append(
        f"Medians of {options.rounds} rounds of {options.events} events. Publisher and subscriber are processes, "
        "the nodes are containers on this machine."
    )
    report.print(options.json)


if __name__ == "__main__":
    arguments = parser(__doc__, rounds=5)
    arguments.add_argument("--events", type=int, default=40_000, help="events a round (40000)")
    arguments.add_argument("--batch", type=int, default=64, help="events a request (64)")
    main(arguments.parse_args())
