"""The Docker backend on a real engine: the conformance suite, and what a task can and cannot do inside."""

import asyncio
import gc
import json
import os
import secrets
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from gridnode.errors import EngineUnavailable, SandboxError
from gridnode.model import NodeId
from gridnode.sandbox.docker import DockerSandbox
from tests.sandbox.conformance import ECHO, PATIENCE, Line, Listener, Place, SandboxConformance

IMAGE = os.environ.get("GRIDCONTROL_IMAGE", "gridcontrol/gridnode:latest")
REPOSITORY = Path(__file__).parent.parent

PROBE = """
import errno, os, socket

def handler(event):
    with open("/proc/self/status") as status:
        fields = dict(line.rstrip().split(":\\t", 1) for line in status if ":\\t" in line)
    wanted = ("Uid", "Gid", "CapEff", "CapPrm", "CapBnd", "NoNewPrivs", "Seccomp")
    return {name: fields[name].split()[0] for name in wanted} | {"groups": os.getgroups(), "env": sorted(os.environ)}

def reach(event):
    failures = []
    for family, address in ((socket.AF_INET, (event, 53)), (socket.AF_INET, ("169.254.169.254", 80))):
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            with socket.socket(family, kind) as sock:
                sock.settimeout(2)
                try:
                    sock.connect(address)
                    failures.append("connected")
                except OSError as exc:
                    failures.append(errno.errorcode[exc.errno])
    return {"failures": failures, "interfaces": [name for _, name in socket.if_nameindex()]}

def write(event):
    found = {}
    for directory in event:
        try:
            with open(os.path.join(directory, "x"), "w") as file:
                file.write("x")
            found[directory] = "written"
        except OSError as exc:
            found[directory] = errno.errorcode[exc.errno]
    return found

def fill():
    size = 0
    try:
        with open("/tmp/big", "wb", buffering=0) as file:
            while True:
                size += file.write(bytes(1 << 20))
    except OSError as exc:
        return [size, errno.errorcode[exc.errno]]
    finally:
        os.unlink("/tmp/big")

def run_from_tmp():
    with open("/tmp/program", "w") as file:
        file.write("#!/bin/sh\\nexit 0\\n")
    os.chmod("/tmp/program", 0o755)
    try:
        os.execv("/tmp/program", ["program"])
    except OSError as exc:
        return errno.errorcode[exc.errno]

def exists(event):
    return [path for path in event if os.path.lexists(path)]

def processes():
    return sorted(int(name) for name in os.listdir("/proc") if name.isdigit())

def hoard(event):
    held = []
    for _ in range(event):
        held.append(bytearray(os.urandom(1 << 20)))
    return len(held)

def bomb():
    import signal
    children = []
    while True:
        try:
            child = os.fork()
        except OSError as exc:
            why = errno.errorcode[exc.errno]
            break
        if child == 0:
            signal.pause()
        children.append(child)
    for child in children:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return [len(children), why]
"""


@pytest.fixture
def place() -> Iterator[Place]:
    place = Place(NodeId(secrets.token_hex(20)), IMAGE)
    yield place
    place.remove()


@pytest.fixture
async def again(place: Place) -> AsyncIterator[DockerSandbox]:
    sandbox = DockerSandbox(place.node)
    yield sandbox
    for instance in await sandbox.running():
        await sandbox.stop(instance, 0)
    await sandbox.close()


@pytest.fixture
async def sandbox(place: Place, again: DockerSandbox) -> AsyncIterator[DockerSandbox]:
    sandbox = DockerSandbox(place.node)
    yield sandbox
    await sandbox.close()


@pytest.fixture
async def line(sandbox: DockerSandbox, place: Place) -> AsyncIterator[Line]:
    """A running instance with the probe inside."""
    spec = place.spec(PROBE, task="probe")
    async with Listener(Path(spec.socket_dir)) as listener:
        await sandbox.start(spec)
        yield await listener.line()


class TestDockerSandbox(SandboxConformance):
    pass


def inspect(place: Place) -> dict[str, Any]:
    """`docker inspect` of the node's only sandbox."""
    found = docker("ps", "-aq", "--no-trunc", "--filter", f"label=gridcontrol.node={place.node}").split()
    rows: list[dict[str, Any]] = json.loads(docker("inspect", *found))
    assert len(rows) == 1
    return rows[0]


def docker(*argv: str) -> str:
    return subprocess.run(["docker", *argv], check=True, capture_output=True, text=True, timeout=60).stdout


async def test_what_docker_inspect_says(sandbox: DockerSandbox, place: Place) -> None:
    spec = place.spec(ECHO, cpu=0.5)
    await sandbox.start(spec)
    row = await asyncio.to_thread(inspect, place)
    host, config = row["HostConfig"], row["Config"]
    assert row["Name"] == f"/gridcontrol-{spec.node[:8]}-req-{spec.instance}"
    assert (host["NetworkMode"], host["ReadonlyRootfs"], host["CapDrop"]) == ("none", True, ["ALL"])
    assert "no-new-privileges:true" in host["SecurityOpt"]
    assert not any("unconfined" in option for option in host["SecurityOpt"])
    assert (host["Memory"], host["MemorySwap"], host["NanoCpus"]) == (spec.memory, spec.memory, 500_000_000)
    assert (host["PidsLimit"], host["IpcMode"], host["Init"]) == (spec.pids, "private", True)
    assert host["RestartPolicy"]["Name"] == "no"
    assert (host["Privileged"], host["CapAdd"], host["Devices"] or None, host["Binds"]) == (False, None, None, None)
    assert host["LogConfig"] == {"Type": "json-file", "Config": {"max-size": "1m", "max-file": "2"}}
    mounts = {("/task", False), ("/run/grid", False), ("/usr/lib/gridnode/runtimes", False)}
    assert {(m["Destination"], m["RW"]) for m in row["Mounts"]} == mounts
    assert (config["User"], config["Healthcheck"]["Test"]) == ("65534:65534", ["NONE"])
    assert "Health" not in row["State"]
    assert "docker.sock" not in json.dumps(row)


async def test_a_task_is_nobody_without_capabilities(line: Line) -> None:
    found = await line.ask("probe")
    assert (found["Uid"], found["Gid"], found["groups"]) in (("65534", "65534", []), ("65534", "65534", [65534]))
    assert {int(found[name], 16) for name in ("CapEff", "CapPrm", "CapBnd")} == {0}
    assert (found["NoNewPrivs"], found["Seccomp"]) == ("1", "2")
    assert [name for name in found["env"] if "SECRET" in name or "PASSWORD" in name or "CARD" in name] == []


async def test_a_task_reaches_no_network(line: Line) -> None:
    gateway = await asyncio.to_thread(
        docker, "network", "inspect", "bridge", "-f", "{{(index .IPAM.Config 0).Gateway}}"
    )
    found = await line.ask("probe.reach", gateway.strip() or "172.17.0.1")
    assert set(found["failures"]) == {"ENETUNREACH"}
    assert set(found["interfaces"]) - {"tunl0", "sit0", "ip6tnl0"} == {"lo"}


async def test_a_task_writes_nowhere_but_tmp(line: Line) -> None:
    read_only = ["/", "/task", "/task/tasks", "/run/grid", "/etc", "/usr/lib/gridnode/runtimes", "/var/lib", "/root"]
    found = await line.ask("probe.write", [*read_only, "/tmp", "/proc/sys/kernel", "/sys"])
    assert found.pop("/tmp") == "written"
    assert "written" not in found.values()
    assert found["/task"] == found["/run/grid"] == "EROFS"


async def test_tmp_is_bounded_and_runs_no_programs(line: Line) -> None:
    size, why = await line.ask("probe.fill")
    assert why == "ENOSPC"
    assert 15 << 20 <= size <= 16 << 20
    assert await line.ask("probe.run_from_tmp") == "EACCES"


async def test_a_task_sees_no_engine_and_no_other_process(line: Line) -> None:
    sockets = ["/var/run/docker.sock", "/run/docker.sock", "/run/containerd/containerd.sock"]
    assert await line.ask("probe.exists", sockets) == []
    assert len(await line.ask("probe.processes")) <= 3


async def test_out_of_memory_is_told_apart(sandbox: DockerSandbox, place: Place) -> None:
    spec = place.spec(PROBE, task="probe")
    async with Listener(Path(spec.socket_dir)) as listener:
        await sandbox.start(spec)
        line = await listener.line()
        line.call("probe.hoard", 500)
        async with asyncio.timeout(PATIENCE):
            end = await sandbox.wait(spec.instance)
    assert (end.code, end.oom) == (137, True)


async def test_a_fork_bomb_is_contained(sandbox: DockerSandbox, place: Place) -> None:
    spec = place.spec(PROBE, task="probe", memory=512 << 20)  # so that it is the limit on processes that stops it
    async with Listener(Path(spec.socket_dir)) as listener:
        await sandbox.start(spec)
        line = await listener.line()
        children, why = await line.ask("probe.bomb")
        assert why == "EAGAIN"
        assert 100 < children < spec.pids
        assert await line.ask("probe.processes")


async def test_an_absent_image_says_what_to_do(sandbox: DockerSandbox, place: Place) -> None:
    with pytest.raises(SandboxError, match="not on this server") as caught:
        await sandbox.start(place.spec(ECHO, image="gridcontrol/absent:0"))
    assert "gridctl image push" in str(caught.value.hint)
    assert await sandbox.running() == []


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # the SDK leaks a socket that cannot dial
async def test_an_absent_engine_is_named() -> None:
    sandbox = DockerSandbox(NodeId("ab" * 20), "unix:///run/nobody-listens.sock")
    with pytest.raises(EngineUnavailable, match="nobody-listens"):
        await sandbox.running()
    await sandbox.close()
    gc.collect()


async def test_gridnode_finds_the_image_it_runs_from(sandbox: DockerSandbox) -> None:
    program = (
        "import asyncio; from gridnode.sandbox.docker import DockerSandbox\n"
        "async def main():\n"
        "    sandbox = DockerSandbox('ab' * 20)\n"
        "    print(await sandbox.own_image())\n"
        "    await sandbox.close()\n"
        "asyncio.run(main())"
    )
    argv = ["run", "--rm", "--network", "host", "-e", "PYTHONPATH=/source"]
    argv += ["-v", "/var/run/docker.sock:/var/run/docker.sock", "-v", f"{REPOSITORY}/gridnode:/source/gridnode:ro"]
    argv += ["--entrypoint", "/opt/gridnode/bin/python", IMAGE, "-c", program]
    image = (await asyncio.to_thread(docker, "image", "inspect", "-f", "{{.Id}}", IMAGE)).strip()
    assert (await asyncio.to_thread(docker, *argv)).strip() == image
    assert await sandbox.own_image() is None
