"""An echo through our own SDK, and over a bare link: a unix socket, or TCP with both sides' certificates."""

import asyncio
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import uvloop
from _load import BODY, serve

sys.path.insert(0, str(Path(__file__).parent.parent))

from gridctl import Grid
from gridnode.errors import GridError
from gridnode.gridfile import Gridfile, render_secret
from gridnode.identity import DAY, authority_of, issue_leaf, mint_card, operator_credentials
from gridnode.link import LinkLimits
from gridnode.link.client import dial
from gridnode.link.protocol import Link
from gridnode.link.tls import client_context, peer_identity, server_context
from gridnode.model import Address
from gridnode.wire import Frame, Op

CALL = b'{"text": "' + b"x" * 88 + b'"}'
Start = Callable[[Callable[[], None]], None]
"""Sends one call and calls back when it is answered."""


class End:
    """Either end of a bare link: it echoes."""

    def hello(self, link: Link) -> bytes:
        return b"{}"

    def opened(self, link: Link, body: bytes) -> None: ...

    def called(self, link: Link, frame: Frame) -> None:
        link.reply(frame.call_id, frame.body)

    def heard(self, link: Link, frame: Frame) -> None: ...

    def closed(self, link: Link, error: GridError | None) -> None: ...


def identify(transport: asyncio.BaseTransport) -> object:
    return peer_identity(transport.get_extra_info("ssl_object"))


async def closed_loop(start: Start, window: int, seconds: float) -> tuple[list[float], float]:
    """`window` calls under way, each followed by the next, for so long."""
    took: list[float] = []
    clock = time.perf_counter
    began = clock()
    over = asyncio.get_running_loop().create_future()
    left = window

    def send() -> None:
        nonlocal left
        sent = clock()
        if sent - began >= seconds:
            left -= 1
            if not left:
                over.set_result(None)
            return

        def answered() -> None:
            took.append(clock() - sent)
            send()

        start(answered)

    for _ in range(window):
        send()
    await over
    return took, clock() - began


def bare(link: Link) -> Start:
    return lambda answered: void(link.call(Op.INVOKE, "echo", CALL, lambda reply: answered()))


def void(_: object) -> None: ...


async def listen(where: str, ready: Callable[[int], None], secret: bytes) -> None:
    loop = asyncio.get_running_loop()
    if where:
        server = await loop.create_unix_server(lambda: Link(End(), LinkLimits()), where)
        ready(1)
    else:
        grid, now = authority_of(Gridfile("bench", (), grid_password=render_secret(secret))), time.time()
        leaf = issue_leaf(mint_card(grid, "bench", now, DAY, b"1" * 32), b"2" * 32, now)
        context = server_context(leaf)
        server = await loop.create_server(
            lambda: Link(End(), LinkLimits(), identify),  # type: ignore[arg-type]
            "127.0.0.1",
            0,
            ssl=context,
        )
        ready(server.sockets[0].getsockname()[1])
    await asyncio.sleep(1e6)


async def connect(where: str, port: int, secret: bytes) -> Link:
    if where:
        _, link = await asyncio.get_running_loop().create_unix_connection(lambda: Link(End(), LinkLimits()), where)
    else:
        grid = authority_of(Gridfile("bench", (), grid_password=render_secret(secret)))
        context = client_context(operator_credentials(grid, time.time(), b"o" * 32))
        link = await dial(Address("127.0.0.1", port), End(), context, identify, LinkLimits())  # type: ignore[arg-type]
    await link.wait_open()
    return link


def raw(over_tls: bool) -> None:
    """The limit: the same frames and nothing else, from process to process."""
    with tempfile.TemporaryDirectory() as directory:
        where = "" if over_tls else f"{directory}/s"
        secret = os.urandom(32)
        here, there = multiprocessing.Pipe()
        process = multiprocessing.get_context("fork").Process(
            target=lambda: uvloop.run(listen(where, there.send, secret)), daemon=True
        )
        process.start()
        port = here.recv()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            link = runner.run(connect(where, port, secret))
            serve(lambda window, seconds: runner.run(closed_loop(bare(link), window, seconds)))
        process.terminate()


def sdk(gridfile: str, address: str, node: str) -> None:
    """Through the node at `address`, to be run on `node`."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        grid = runner.run(_open(gridfile, address))
        call = lambda: grid.invoke("echo", BODY, node=node)  # noqa: E731
        serve(lambda window, seconds: runner.run(_invoke(call, window, seconds)))
        runner.run(grid.close())


async def _open(gridfile: str, address: str) -> Grid:
    return await Grid.connect(gridfile, [address], links=1)


async def _invoke(call: Callable[[], Awaitable[object]], window: int, seconds: float) -> tuple[list[float], float]:
    took: list[float] = []
    began = time.perf_counter()

    async def one_by_one() -> None:
        while (sent := time.perf_counter()) - began < seconds:
            await call()
            took.append(time.perf_counter() - sent)

    await asyncio.gather(*(one_by_one() for _ in range(window)))
    return took, time.perf_counter() - began


if __name__ == "__main__":
    if sys.argv[1] == "sdk":
        sdk(*sys.argv[2:])
    else:
        raw(sys.argv[1] == "tls")
