"""Servers that become nodes at their first boot, by user-data alone: nobody can log in to them."""

import gzip
import hashlib
import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from gridctl.sample import copy_sample
from integration import engine
from integration.engine import docker
from integration.grid import GRIDCTL, until
from integration.whole_server import WholeServer

SEED = "/var/lib/cloud/seed/nocloud"


@dataclass
class Cloud:
    """A network of servers that boot with the same user-data, and an operator outside. seconds: a boot to a member."""

    directory: Path
    network: str
    servers: dict[str, WholeServer]
    seconds: float = 0.0

    def gridctl(self, *argv: str) -> str:
        env = {name: value for name, value in os.environ.items() if not name.startswith("GRIDCTL_")}
        ended = engine.run(str(GRIDCTL), *argv, env=env | {"GRIDCTL_GRIDFILE": str(self.directory / "Gridfile")})
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout

    def boot(self, name: str) -> WholeServer:
        seed = self.directory / f"seed-{name}"
        seed.mkdir()
        shutil.copy(self.directory / "user-data", seed / "user-data")
        (seed / "meta-data").write_text(f"instance-id: {name}\nlocal-hostname: {name}\n")
        self.servers[name] = WholeServer.start(name, self.network, mounts=[f"{seed}:{SEED}:ro"])
        return self.servers[name]

    def alive(self) -> set[str]:
        rows = json.loads(self.gridctl("ls", "--json"))["nodes"]
        return {row["name"] for row in rows if row["state"] == "alive"}

    def serving(self) -> set[str]:
        return {json.loads(self.gridctl("invoke", "whoami"))["node"] for _ in range(4)}


def served(directory: Path, host: str) -> ThreadingHTTPServer:
    """The directory, for HTTP requests to this address."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

    return ThreadingHTTPServer((host, 0), partial(Quiet, directory=str(directory)))


@pytest.fixture(scope="module")
def cloud(nothing_left: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    """One server of the group has booted, and the sample is deployed to it; the other boots later."""
    home = tmp_path_factory.mktemp("cloud")
    network = f"gridcontrol-test-{engine.RUN}-cloud"
    docker("network", "create", "--label", f"{engine.TEST}={engine.RUN}", network)
    gateway = json.loads(docker("network", "inspect", network))[0]["IPAM"]["Config"][0]["Gateway"]
    image = home / "images" / "gridnode.tar.gz"
    image.parent.mkdir()
    with subprocess.Popen(["docker", "save", engine.image()], stdout=subprocess.PIPE) as saving:
        assert saving.stdout
        with gzip.open(image, "wb", compresslevel=1) as file:
            shutil.copyfileobj(saving.stdout, file, 1 << 20)
    cloud = Cloud(home, network, {})
    http = served(image.parent, gateway)
    thread = threading.Thread(target=http.serve_forever)
    thread.start()
    try:
        subprocess.run(
            [GRIDCTL, "new", "--name", "cloud", "--server", "10.255.255.1"], cwd=home, check=True, timeout=60
        )
        gridfile = home / "Gridfile"
        digest = hashlib.sha256(image.read_bytes()).hexdigest()
        url = f"http://{gateway}:{http.server_port}/{image.name}#sha256={digest}"
        gridfile.write_text(f"image_url = '{url}'\n{gridfile.read_text()}")
        (home / "user-data").write_text(cloud.gridctl("cloud-init", "--labels", "group=spot", "--ttl", "2h"))
        started = time.monotonic()
        first = cloud.boot("first")
        text = gridfile.read_text().replace("10.255.255.1", first.address)
        gridfile.write_text(text)
        until(lambda: ready(cloud, "first"), 90, "the first server is a node")
        cloud.seconds = time.monotonic() - started
        copy_sample("hello", home / "hello")
        cloud.gridctl("deploy", str(home / "hello"), "-y")
        yield cloud
    finally:
        http.shutdown()
        http.server_close()
        thread.join()
        engine.remove_containers(engine.containers(f"{engine.TEST}={engine.RUN}", f"{engine.NAME}=server"))
        docker("network", "rm", network)


def ready(cloud: Cloud, name: str) -> bool:
    """Whether the node answers; AssertionError as soon as cloud-init has given up."""
    server = cloud.servers[name]
    log = server.run("cat /var/log/cloud-init-output.log", check=False)
    assert "gridnode: " not in log, log
    answer = engine.run(str(GRIDCTL), "--gridfile", str(cloud.directory / "Gridfile"), "ls", "--json")
    return answer.returncode == 0


def test_the_user_data_is_valid(cloud: Cloud) -> None:
    server = cloud.servers["first"]
    assert "Valid" in server.run(f"cloud-init schema --config-file {SEED}/user-data 2>&1")
    assert (cloud.directory / "user-data").stat().st_size <= 16 * 1024


def test_a_server_is_a_node_without_ssh(cloud: Cloud) -> None:
    print(f"from power on to a node: {cloud.seconds:.1f} s")
    assert cloud.alive() == {"first"}
    assert cloud.serving() == {"first"}
    server = cloud.servers["first"]
    assert server.run("cat /root/.ssh/authorized_keys 2>/dev/null", check=False).strip() == ""
    assert "group" in server.run("cat /etc/gridnode/Card")


def test_another_server_with_the_same_user_data_joins_syncs_and_serves(cloud: Cloud) -> None:
    cloud.boot("second")
    until(lambda: cloud.alive() == {"first", "second"}, 90, "the second server has joined")
    until(lambda: cloud.serving() == {"first", "second"}, 60, "both serve what was deployed before it was there")


def test_no_secret_is_in_what_others_can_read(cloud: Cloud) -> None:
    server = cloud.servers["first"]
    card = server.run("cat /etc/gridnode/Card")
    assert server.run("stat -c '%a %U' /etc/gridnode/Card").split() == ["600", "root"]
    secrets = {line for line in card.split("issuer_key")[1].splitlines() if len(line) > 40}
    secrets |= {line.split("'")[1] for line in card.splitlines() if line.startswith("network_key")}
    assert len(secrets) == 2
    where = "find /var/log /run /var/lib/cloud /etc /tmp -xdev -type f -perm -o=r -not -path '*/seed/*'"
    for secret in secrets:
        assert server.run(f"{where} -exec grep -lF -- '{secret}' {{}} + 2>/dev/null", check=False) == ""
    said = server.run("journalctl --no-pager; docker inspect gridnode; systemctl show gridnode")
    assert [secret for secret in secrets if secret in said] == []
