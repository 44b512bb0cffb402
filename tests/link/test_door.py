import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Callable

import pytest

from gridnode.link import LinkLimits
from gridnode.link import door as doors
from gridnode.link.client import dial
from gridnode.link.door import Door
from gridnode.link.protocol import Link
from gridnode.link.tls import client_context, server_context
from gridnode.model import Address
from tests.fakes.peers import ALICE, BOB, TLS_IDENTITY, End, until

Open = Callable[..., Door]


@pytest.fixture
def ends() -> list[End]:
    return []


@pytest.fixture
async def opened(ends: list[End]) -> AsyncIterator[Open]:
    running: list[Door] = []

    def begin(host: str = "127.0.0.1", timeout: float = 30.0) -> Door:
        end = End()
        ends.append(end)
        new = lambda: Link(end, LinkLimits(), TLS_IDENTITY)  # noqa: E731
        running.append(Door(host, 0, new, server_context(BOB), timeout))
        return running[-1]

    yield begin
    for door in running:
        door.close()
    for end in ends:
        for link in end.links:
            link.close()


async def linked(door: Door, host: str = "127.0.0.1") -> Link:
    link = await dial(Address(host, door.port), End(), client_context(ALICE), TLS_IDENTITY, LinkLimits())
    await link.wait_open()
    return link


async def silent(door: Door, count: int) -> list[socket.socket]:
    """Connections that say nothing."""
    found = []
    for _ in range(count):
        sock = socket.socket()
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", door.port))
        found.append(sock)
    return found


def open_sockets() -> int:
    count = 0
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            count += os.readlink(f"/proc/self/fd/{name}").startswith("socket:")
    return count


def is_cut(sock: socket.socket) -> bool:
    try:
        return sock.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


async def test_a_peer_comes_in(opened: Open, ends: list[End]) -> None:
    door = opened()
    link = await linked(door)
    assert link.peer
    assert link.peer.node == BOB.node
    await until(lambda: not door._unproven and not door._hosts)
    link.close()


async def test_by_ipv6_and_by_ipv4_when_no_host_is_named(opened: Open) -> None:
    door = opened("")
    (await linked(door)).close()
    if door._sockets[0].family == socket.AF_INET6:
        (await linked(door, "::1")).close()


async def test_those_who_say_nothing_are_few_and_not_for_long(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doors, "MAX_OF_ONE_HOST", 5)
    door = opened(timeout=0.3)
    before = open_sockets()
    socks = await silent(door, 12)
    await until(lambda: sum(is_cut(sock) for sock in socks) >= 7, "the last are cut off")
    assert len(door._unproven) <= 5
    await until(lambda: all(is_cut(sock) for sock in socks), "the first are too, in time")
    for sock in socks:
        sock.close()
    await until(lambda: open_sockets() <= before, "nothing is left open")
    await until(lambda: not door._hosts)
    (await linked(door)).close()


async def test_when_all_places_are_taken_the_oldest_goes(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doors, "MAX_UNPROVEN", 3)
    door = opened()
    before = open_sockets()
    socks = await silent(door, 3)
    await until(lambda: len(door._unproven) == 3)
    link = await linked(door)
    await until(lambda: is_cut(socks[0]), "the oldest is cut off")
    assert not is_cut(socks[1])
    link.close()
    door.close()
    for sock in socks:
        await until(lambda sock=sock: is_cut(sock))  # type: ignore[misc]
        sock.close()
    await until(lambda: open_sockets() <= before)


async def test_garbage_ends_at_the_door(opened: Open, ends: list[End]) -> None:
    door = opened()
    (sock,) = await silent(door, 1)
    sock.send(os.urandom(2000))
    await until(lambda: is_cut(sock) or not door._unproven)
    await until(lambda: not door._unproven)
    assert ends[0].links == []
    sock.close()


async def test_a_port_that_is_taken_is_said(opened: Open) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="in use"):
        Door("127.0.0.1", taken.getsockname()[1], asyncio.Protocol, server_context(BOB), 1.0)
