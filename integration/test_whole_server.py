"""A whole server for tests leaves the host's control groups as they were: the engine still notices OOM kills."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from integration import engine
from integration.engine import docker
from integration.whole_server import WholeServer


def hierarchies() -> dict[str, str]:
    """Of each control group controller of this host: its hierarchy, `0` while nobody has mounted it."""
    lines = Path("/proc/cgroups").read_text().splitlines()[1:]
    return {line.split()[0]: line.split()[1] for line in lines}


@pytest.fixture
def server(nothing_left: None) -> Iterator[WholeServer]:
    network = f"gridcontrol-test-{engine.RUN}-one-server"
    docker("network", "create", "--label", f"{engine.TEST}={engine.RUN}", network)
    try:
        yield WholeServer.start("alone", network)
    finally:
        engine.remove_containers(engine.containers(f"{engine.TEST}={engine.RUN}", f"{engine.NAME}=server"))
        docker("network", "rm", network)


def test_the_host_keeps_its_control_groups_and_sees_oom_kills(server: WholeServer) -> None:
    before = hierarchies()
    shown = {line.split()[0] for line in server.run("tail -n +2 /proc/cgroups").splitlines()}
    mounts = server.run("grep '^cgroup ' /proc/mounts | cut -d ' ' -f 4", check=False).split()
    mounted = {option for options in mounts for option in options.split(",")}
    assert shown <= mounted or not mounted
    assert {name for name, hierarchy in before.items() if hierarchy != "0"} & mounted == mounted & set(before)
    server.stop()
    server.boot()
    assert hierarchies() == before
    grow = ["--entrypoint", "/usr/bin/python3", engine.image(), "-c", "bytearray(256 << 20)"]
    label = ["--label", f"{engine.TEST}={engine.RUN}", "--label", f"{engine.NAME}=server"]
    plain = docker("create", *label, "--memory", "24m", "--memory-swap", "24m", *grow).strip()
    docker("start", "--attach", plain, check=False)
    assert engine.inspect(plain)[0]["State"]["OOMKilled"] is True
