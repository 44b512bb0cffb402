"""Sandboxes with `network = "egress"`, between a real outside, a real host and a neighbour.

The outside is a container behind a veth pair of the host's own, so that what reaches it is routed as to any other
server: the engine keeps its networks apart from each other, which would prove nothing. It has the address at which
clouds tell their servers who they are, too. Every probe is shown to succeed once the rules are gone.
"""

import asyncio
import json
import secrets
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from gridnode.errors import SandboxError
from gridnode.model import Network, NodeId
from gridnode.sandbox.docker import DockerSandbox
from gridnode.sandbox.egress import BRIDGE, NETWORK, TABLE
from integration import engine
from integration.engine import docker
from integration.grid import until
from tests.sandbox.conformance import Line, Listener, Place

WIRING = (Path(__file__).parent / "wiring.py").read_text()
OUTSIDE, GATEWAY, METADATA = "198.51.100.2", "198.51.100.1", "169.254.169.254"
PORTS = (80, 7400, 8080)
SERVER = """
import socket, sys, threading

PACKET_INFO = 8

def tcp(port):
    with socket.create_server(("0.0.0.0", port)) as server:
        while True:
            try:
                with server.accept()[0] as connection:
                    connection.sendall(b"here")
            except OSError:
                pass

def udp(port):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("0.0.0.0", port))
        sock.setsockopt(socket.IPPROTO_IP, PACKET_INFO, 1)
        while True:  # answers from the address that was asked
            _, ((_, _, told),), _, sender = sock.recvmsg(64, 64)
            sock.sendmsg([b"here"], [(socket.IPPROTO_IP, PACKET_INFO, bytes(4) + told[4:])], 0, sender)

for port in map(int, sys.argv[1:]):
    for serve in (tcp, udp):
        threading.Thread(target=serve, args=(port,)).start()
"""
PROBE = """
import errno, socket
from concurrent.futures import ThreadPoolExecutor

def probe(kind, host, port, patience):
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM) as sock:
            sock.settimeout(patience)
            sock.connect((host, port))
            if kind == "udp":
                sock.send(b"who is there")
            return "open" if sock.recv(64) == b"here" else "something else"
    except TimeoutError:
        return "nothing"
    except OSError as exc:
        return errno.errorcode[exc.errno]

def handler(event):
    with ThreadPoolExecutor(32) as threads:
        return list(threads.map(lambda one: probe(*one, event["patience"]), event["targets"]))
"""
TASK = f"""
{PROBE}
def listen():
    import os, subprocess, sys
    subprocess.Popen([sys.executable, "-c", {SERVER!r}, "8080"])

def look_up(event):
    try:
        return socket.getaddrinfo(event, 80)[0][4][0]
    except socket.gaierror as exc:
        return exc.errno
"""
Target = tuple[str, str, int]


class Outside(NamedTuple):
    """host: the addresses of this machine but loopback; host_port: where a server of it listens on all of them."""

    host: list[str]
    host_port: int

    def reachable(self) -> list[Target]:
        return [(kind, OUTSIDE, port) for kind in ("tcp", "udp") for port in (80, 8080)]

    def closed(self) -> list[Target]:
        """What no sandbox may reach, but for its neighbours."""
        kinds = ("tcp", "udp")
        metadata: list[Target] = [(kind, METADATA, 80) for kind in kinds]
        grid: list[Target] = [(kind, OUTSIDE, 7400) for kind in kinds]
        return metadata + grid + [(kind, host, self.host_port) for kind in kinds for host in self.host]


def run(*options: str, program: str, argv: tuple[str, ...] = (), entrypoint: str = "/usr/bin/python3") -> str:
    """Output of a container of the image under test that runs a program of ours."""
    labels = ("--label", f"{engine.TEST}={engine.RUN}")
    given = ("-c", program) if entrypoint.endswith("python3") else (program,)
    return docker("run", *labels, *options, "--entrypoint", entrypoint, engine.image(), *given, *argv).strip()


def wire(network: str, *argv: str, options: tuple[str, ...] = ()) -> str:
    admin = ("--rm", "--network", network, "--cap-drop", "ALL", "--cap-add", "NET_ADMIN", *options)
    return run(*admin, program=WIRING, argv=argv)


def nft(*argv: str) -> str:
    admin = ("--rm", "--network", "host", "--cap-drop", "ALL", "--cap-add", "NET_ADMIN")
    return run(*admin, program=argv[0], argv=argv[1:], entrypoint="/usr/sbin/nft")


def remove_rules() -> None:
    nft("delete", "table", "inet", TABLE)
    nft("delete", "table", "bridge", TABLE)


@pytest.fixture(scope="module")
def outside(nothing_left: None) -> Iterator[Outside]:
    server = run("-d", "--network", "none", program=SERVER, argv=tuple(map(str, PORTS)))
    started = [server]
    try:
        pid = docker("inspect", "-f", "{{.State.Pid}}", server).strip()
        name = f"grid{secrets.token_hex(3)}"
        wire("host", "pair", name, "world0", pid, options=("--pid", "host"))
        wire(f"container:{server}", "address", "world0", f"{OUTSIDE}/24")
        wire(f"container:{server}", "address", "world0", f"{METADATA}/32")
        wire(f"container:{server}", "route", "0.0.0.0/0", GATEWAY)
        wire("host", "address", name, f"{GATEWAY}/24")
        wire("host", "route", f"{METADATA}/32", OUTSIDE)
        with socket.socket() as free:
            free.bind(("0.0.0.0", 0))
            port = free.getsockname()[1]
        started.append(run("-d", "--network", "host", program=SERVER, argv=(str(port),)))
        found = wire("host", "addresses").split()
        yield Outside([address for address in found if not address.startswith("127.")], port)
    finally:
        engine.remove_containers(started)  # the pair, its addresses and its route go with the network it leads to


Start = Callable[[Network], Awaitable[tuple[Line, str]]]


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    place = Place(NodeId(secrets.token_hex(20)), engine.image())
    yield place
    place.remove()


@pytest.fixture
async def start(place: Place) -> AsyncIterator[Start]:
    """Starts a sandbox: its line, and its address."""
    sandbox = DockerSandbox(place.node, image=engine.image(), ports=[7400])

    async def started(network: Network) -> tuple[Line, str]:
        spec = place.spec(TASK, network=network)
        listener = await listeners.enter_async_context(Listener(Path(spec.socket_dir)))
        await sandbox.start(spec)
        return await listener.line(), await asyncio.to_thread(address_of, spec.instance)

    async with AsyncExitStack() as listeners:
        yield started
        for instance in await sandbox.running():
            await sandbox.stop(instance, 0)
        await sandbox.close()


def address_of(instance: str) -> str:
    (row,) = engine.inspect(*engine.containers(f"gridcontrol.instance={instance}"))
    return str(row["NetworkSettings"]["Networks"].get(NETWORK, {}).get("IPAddress", ""))


async def probe(line: Line, targets: list[Target], patience: float) -> dict[Target, Any]:
    found = await line.ask("req", {"targets": targets, "patience": patience})
    return dict(zip(targets, found, strict=True))


async def reaches(line: Line, targets: list[Target]) -> set[Target]:
    """Those that answer within a time that is enough on a loaded machine."""
    return {target for target, found in (await probe(line, targets, 10.0)).items() if found == "open"}


async def test_a_sandbox_with_egress_reaches_the_world_outside_and_nothing_else(outside: Outside, start: Start) -> None:
    line, _ = await start(Network.EGRESS)
    neighbour, address = await start(Network.EGRESS)
    await neighbour.ask("req.listen")
    async with asyncio.timeout(20):
        while not await reaches(neighbour, [("tcp", address, 8080), ("udp", address, 8080)]):
            continue
    assert await reaches(line, outside.reachable()) == set(outside.reachable())
    closed = [*outside.closed(), ("tcp", address, 8080), ("udp", address, 8080)]
    found = await probe(line, closed, 2.0)
    assert set(found.values()) == {"nothing"}, found
    assert len(outside.host) >= 2, "an address of the bridge, one of the server's own"
    loopback: Target = ("tcp", "127.0.0.1", outside.host_port)
    assert await probe(line, [loopback], 2.0) == {loopback: "ECONNREFUSED"}, "a sandbox's loopback is its own"

    await asyncio.to_thread(remove_rules)
    assert await reaches(line, outside.closed()) == set(outside.closed())

    again, _ = await start_anew(start)
    assert await reaches(again, outside.reachable()) == set(outside.reachable())
    for one in (line, again):
        assert set((await probe(one, outside.closed(), 2.0)).values()) == {"nothing"}


async def start_anew(start: Start) -> tuple[Line, str]:
    """Start another one once the rules are no longer taken to be there."""
    async with asyncio.timeout(90):
        while True:
            line, address = await start(Network.EGRESS)
            if TABLE in await asyncio.to_thread(nft, "list", "tables"):
                return line, address
            await asyncio.sleep(2)


def test_neighbours_of_another_network_do_reach_each_other() -> None:
    """The control of the one probe that the engine itself closes too."""
    name = f"gridcontrol-test-{engine.RUN}-control"
    docker("network", "create", "--label", f"{engine.TEST}={engine.RUN}", name)
    server = run("-d", "--network", name, program=SERVER, argv=("8080",))
    try:
        (row,) = engine.inspect(server)
        address = row["NetworkSettings"]["Networks"][name]["IPAddress"]
        ask = {"targets": [("tcp", address, 8080), ("udp", address, 8080)], "patience": 5.0}
        program = f"{PROBE}\nprint(*handler({ask!r}))"
        until(lambda: run("--rm", "--network", name, program=program) == "open open", 30, "an answer")
    finally:
        engine.remove_containers([server])
        docker("network", "rm", name)


async def test_a_sandbox_without_network_opens_no_connection_at_all(outside: Outside, start: Start) -> None:
    line, _ = await start(Network.NONE)
    found = await probe(line, outside.reachable() + outside.closed(), 2.0)
    assert set(found.values()) == {"ENETUNREACH"}


async def test_names_are_looked_up(start: Start) -> None:
    name = f"{secrets.token_hex(6)}.invalid"
    with pytest.raises(socket.gaierror) as caught:
        await asyncio.get_running_loop().getaddrinfo(name, 80)
    if caught.value.errno != socket.EAI_NONAME:
        pytest.skip("no nameserver answers here")
    line, _ = await start(Network.EGRESS)
    assert await line.ask("req.look_up", name) == socket.EAI_NONAME, "which only a nameserver can say"


async def test_the_sandbox_is_as_any_other_but_for_its_network(place: Place, start: Start) -> None:
    await start(Network.EGRESS)
    rows = engine.inspect(*engine.containers(f"gridcontrol.node={place.node}"))
    host = rows[0]["HostConfig"]
    assert (host["NetworkMode"], host["CapDrop"], host["CapAdd"]) == (NETWORK, ["ALL"], None)
    assert (host["ReadonlyRootfs"], host["Privileged"], host["PortBindings"] or {}) == (True, False, {})
    (network,) = json.loads(docker("network", "inspect", NETWORK))
    assert network["Options"]["com.docker.network.bridge.enable_icc"] == "false"
    assert network["Options"]["com.docker.network.bridge.name"] == BRIDGE
    assert engine.containers("gridcontrol.firewall") == [], "what set the rules is gone"


async def test_without_rules_no_sandbox_starts(place: Place) -> None:
    sandbox = DockerSandbox(place.node, image="gridcontrol-base:trixie")
    with pytest.raises(SandboxError, match="firewall") as caught:
        await sandbox.start(place.spec(TASK, network=Network.EGRESS))
    assert "nftables" in str(caught.value.hint)
    assert await sandbox.running() == []
    assert engine.containers("gridcontrol.firewall") == []
    await sandbox.close()
