"""A grid of real gridnode containers for tests. GRID_REUSE=name keeps it from one run to the next."""

import itertools
import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from testcontainers.core.config import testcontainers_config
from testcontainers.core.container import DockerContainer
from testcontainers.core.network import Network

from gridctl.new import card_text, load_gridfile, new_gridfile
from gridnode.gridfile import parse_card, render_gridfile
from gridnode.model import Address
from integration import engine
from integration.engine import docker
from integration.node import Node

testcontainers_config.ryuk_disabled = True  # we clean up by label, also after a run that was killed

T = TypeVar("T")
GRIDCTL = Path(sys.executable).parent / "gridctl"
SOCKET = "/var/run/docker.sock"
CARD = "/etc/gridnode/Card"
LINK_PORT = 7400
_numbers = itertools.count()
open_grids: list["Grid"] = []


def until(check: Callable[[], T | None], within: float, what: str) -> T:
    """The first truthy value of `check`, asked again and again; AssertionError with the last one when time is up."""
    deadline = time.monotonic() + within
    while True:
        value = check()
        if value:
            return value
        assert time.monotonic() < deadline, f"not within {within:g} s: {what}; last seen: {value!r}"
        time.sleep(0.05)


class Grid:
    """`size` nodes with cards of one Gridfile, on a network of their own or on that of another grid.

    disturbed: nodes came, went or got another release since somebody last set it to False.
    """

    def __init__(self, size: int, name: str = "test", neighbour: "Grid | None" = None) -> None:
        self.name = name
        self.nodes: dict[str, Node] = {}
        self.disturbed = True
        self.directory = engine.DIRECTORY / (name if engine.REUSED else str(next(_numbers)))
        self.directory.mkdir(parents=True, exist_ok=True)
        self._image = engine.image()
        self.gridfile = self.directory / "Gridfile"
        if not self.gridfile.exists():
            new_gridfile(self.directory, name, servers=["127.0.0.1"])
        self.tag = parse_card(self.card("any"), "card").tag
        engine.mark(self.directory, self.tag)
        self._owns_network = neighbour is None
        self.network: Network = neighbour.network if neighbour else self._open_network()
        open_grids.append(self)
        for number in range(1, size + 1):
            self.add(f"{'node' if neighbour is None else name}-{number}")

    # -- nodes ------------------------------------------------------------------------------------------------------

    def card(self, host: str, seeds: Iterable[Address] = ()) -> str:
        """A fresh card; without seeds, so that only multicast finds the others."""
        return card_text(load_gridfile(self.gridfile), host, seeds=seeds)

    def add(
        self, name: str, card: str | None = None, env: Mapping[str, str] | None = None, network: str | None = None
    ) -> Node:
        """Start one more node. card: its text, a fresh one by default, no file at all when empty.

        network: name of another than the grid's.
        """
        self.disturbed = True
        node = Node(name, self.directory / name)
        self.nodes[name] = node
        if engine.REUSED and self._takes_over(node):
            return node
        for directory in (node.directory / "data", node.directory / "run"):
            directory.mkdir(parents=True, exist_ok=True)
        card_file = node.directory / "Card"
        if card != "":
            card_file.touch(mode=0o600)
            card_file.write_text(card or self.card(name))
        node.container = self._create(node, card_file if card != "" else None, env or {}, network)
        self._find_port(node)
        return node

    def start(self, node: Node) -> None:
        self.disturbed = True
        docker("start", node.container)
        self._find_port(node)

    def kill(self, node: Node) -> None:
        """SIGKILL, as a power cut."""
        self.disturbed = True
        docker("kill", node.container)

    def stop(self, node: Node) -> None:
        """SIGTERM, and time to leave in order."""
        self.disturbed = True
        docker("stop", "-t", "30", node.container)

    def restart(self, node: Node) -> None:
        self.stop(node)
        self.start(node)

    @contextmanager
    def frozen(self, node: Node) -> Iterator[None]:
        """A node that does nothing while the block runs, and closes no connection."""
        self.disturbed = True
        docker("pause", node.container)
        try:
            yield
        finally:
            docker("unpause", node.container)

    def drop(self, node: Node) -> None:
        """Stop a node and forget it."""
        self.stop(node)
        sandboxes = engine.containers(f"{engine.NODE}={node.id}") if node.has_started else []
        engine.remove_containers([node.container, *sandboxes])
        del self.nodes[node.name]
        self._write_seeds()

    def close(self) -> None:
        """Remove everything, unless it is kept for the next run."""
        open_grids.remove(self)
        if engine.REUSED:
            return
        engine.remove_containers([node.container for node in self.nodes.values()])
        engine.remove_containers(engine.containers(f"{engine.GRID}={self.tag}"))
        if self._owns_network:
            docker("network", "rm", str(self.network.name))
        engine.remove_directory(self.directory)

    # -- asking it --------------------------------------------------------------------------------------------------

    def gridctl(self, *argv: str, stdin: str = "", timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """Run gridctl with a Gridfile that lists the nodes."""
        self.disturbed |= argv[0] == "deploy"
        env = {name: value for name, value in os.environ.items() if not name.startswith("GRIDCTL_")}
        env |= {"GRIDCTL_GRIDFILE": str(self.gridfile)}
        return engine.run(str(GRIDCTL), *argv, stdin=stdin, env=env, timeout=timeout)

    def deploy(self, directory: Path, *argv: str) -> dict[str, Any]:
        """`gridctl deploy` that has to succeed; what it says in JSON."""
        ended = self.gridctl("deploy", str(directory), "--json", "-y", *argv)
        assert ended.returncode == 0, ended.stderr
        report: dict[str, Any] = json.loads(ended.stdout)
        return report

    def members(self) -> list[dict[str, Any]]:
        """Rows of `gridctl ls --json`."""
        ended = self.gridctl("ls", "--json")
        assert ended.returncode == 0, ended.stderr
        rows: list[dict[str, Any]] = json.loads(ended.stdout)["nodes"]
        return rows

    def alive(self, node: Node) -> set[str]:
        """Names of the nodes that are alive as `node` sees it, itself included; nothing while it does not answer."""
        with suppress(RuntimeError):
            rows = node.http("GET", "/v1/nodes").json["nodes"]
            return {row["record"]["name"] for row in rows if row["state"] == "alive"}
        return set()

    def is_full_mesh(self) -> bool:
        """Whether every running node sees exactly the running ones."""
        running = [node for node in self.nodes.values() if node.running]
        return all(self.alive(node) == {one.name for one in running} for node in running)

    def sandboxes(self, node: Node | None = None) -> list[dict[str, Any]]:
        """`docker inspect` of the running sandboxes, of all nodes or of one."""
        labels = [f"{engine.GRID}={self.tag}"]
        if node:
            labels.append(f"{engine.NODE}={node.id}")
        return [row for row in engine.inspect(*engine.containers(*labels)) if engine.NODE in row["Config"]["Labels"]]

    def gridfile_for(self, node: Node, path: Path) -> str:
        """The path of a copy of the Gridfile that knows one node alone."""
        path.write_text(
            render_gridfile(replace(load_gridfile(self.gridfile), seeds=(Address("127.0.0.1", node.port),)))
        )
        path.chmod(0o600)
        return str(path)

    # -- inside -----------------------------------------------------------------------------------------------------

    def _takes_over(self, node: Node) -> bool:
        """Whether the node's container of an earlier run is there and of the image under test."""
        found = engine.containers(f"{engine.TEST}={engine.RUN}", f"{engine.NAME}={node.name}")
        if [row["Image"] for row in engine.inspect(*found)] == [self._image]:
            node.container = found[0]
            self.start(node)
            return True
        engine.remove_containers(found)
        return False

    def _create(self, node: Node, card: Path | None, env: Mapping[str, str], network: str | None) -> str:
        """Id of the node's started container."""
        variables = {"GRIDNODE_DATA_DIR": f"{node.directory}/data", "GRIDNODE_RUN_DIR": f"{node.directory}/run"}
        labels = {engine.TEST: engine.RUN, engine.NAME: node.name, engine.GRID: self.tag}
        container = (
            DockerContainer(self._image, env=variables | dict(env))
            .with_name(f"gridcontrol-test-{engine.RUN}-{secrets.token_hex(2)}-{node.name}")
            .with_volume_mapping(SOCKET, SOCKET, "rw")
            .with_volume_mapping(node.directory, str(node.directory), "rw")
            .with_kwargs(hostname=node.name, init=True, labels=labels, network=network or self.network.name)
        )
        container.ports[f"{LINK_PORT}/tcp"] = ("127.0.0.1",)  # type: ignore[assignment]
        if card:
            container.with_volume_mapping(card, CARD, "ro")
        try:
            return container.start().get_container_id()
        finally:
            container.get_docker_client().client.close()

    def _find_port(self, node: Node) -> None:
        """Where the host reaches its link now: the engine gives another port at every start."""
        mapped = docker("port", node.container, f"{LINK_PORT}/tcp", check=False).split()
        node.port = int(mapped[0].rpartition(":")[2]) if mapped else 0
        self._write_seeds()

    def _write_seeds(self) -> None:
        seeds = tuple(Address("127.0.0.1", node.port) for node in self.nodes.values() if node.port)
        self.gridfile.write_text(render_gridfile(replace(load_gridfile(self.gridfile), seeds=seeds)))

    def _open_network(self) -> Network:
        network = Network(docker_network_kw={"labels": {engine.TEST: engine.RUN}})
        network.name = f"gridcontrol-test-{engine.RUN}-{self.directory.name}"
        if network.name not in docker("network", "ls", "--format", "{{.Name}}").split():
            network.create()
        network._docker.client.close()  # it has no other way to let go of the engine
        return network
