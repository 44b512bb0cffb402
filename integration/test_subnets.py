"""Nodes on networks that multicast does not join: one grid all the same."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pytest

from gridnode.model import Address
from integration import project, subnets
from integration.conftest import PATIENCE
from integration.engine import docker, inspect
from integration.grid import LINK_PORT, Grid, until
from integration.node import Node

UNICAST = {"GRIDNODE_MDNS": "false"}


@dataclass
class Site:
    """Networks `near` and `far` with a router between; `lodge`, behind another that hides what is in it from `near`."""

    grid: Grid
    near: str
    far: str
    lodge: str
    router: str
    nat: str

    def add(self, name: str, network: str, *seeds: Node, dht: bool = True) -> Node:
        card = self.grid.card(name, [Address(seed.address, LINK_PORT) for seed in seeds])
        node = self.grid.add(name, card, UNICAST | {"GRIDNODE_DHT": str(dht).lower()}, network)
        self.wire(node, network)
        return node

    def wire(self, node: Node, network: str) -> None:
        """Its routes to the other networks."""
        others = {self.near: [self.far], self.far: [self.near], self.lodge: [self.near, self.far]}[network]
        gateway = subnets.address(self.nat if network == self.lodge else self.router, network)
        for other in others:
            subnets.route(node.container, subnets.subnet(other), gateway)


@pytest.fixture(scope="module")
def site(nothing_left: None) -> Iterator[Site]:
    with ExitStack() as stack:
        near, far, lodge = (stack.enter_context(subnets.network(name)) for name in ("near", "far", "lodge"))
        router = stack.enter_context(subnets.router(near, far))
        nat = stack.enter_context(subnets.router(lodge, near))
        subnets.route(nat, subnets.subnet(far), subnets.address(router, near))
        subnets.hide(nat, near)
        subnets.hide(nat, far)
        grid = Grid(0, "subnets")
        stack.callback(grid.close)
        yield Site(grid, near, far, lodge, router, nat)


@pytest.fixture(scope="module")
def seed(site: Site) -> Node:
    """Known to all, and linked to nobody: its DHT alone answers."""
    node = site.add("seed", site.near)
    subnets.without_tcp(node.container, LINK_PORT)
    return node


@pytest.fixture(scope="module")
def pair(site: Site, seed: Node) -> tuple[Node, Node]:
    one = site.add("one", site.near, seed)
    two = site.add("two", site.far, seed)
    until(lambda: sees(site, two, one) and sees(site, one, two), PATIENCE, "they find each other")
    linked = max(logged(one, "member"), logged(two, "member")) - logged(two, "starting")
    print(f"linked {linked.total_seconds():.2f} s after the last node had started")
    assert linked.total_seconds() < PATIENCE / 3
    return one, two


def logged(node: Node, event: str) -> datetime:
    """When it first said so."""
    rows = (json.loads(line) for line in node.logs().splitlines())
    return next(datetime.fromisoformat(row["timestamp"]) for row in rows if row["event"] == event)


def sees(site: Site, node: Node, other: Node) -> bool:
    return other.name in site.grid.alive(node)


def hosts(node: Node, other: Node) -> set[str]:
    """Where `other` says it listens, as `node` knows it."""
    rows = node.http("GET", "/v1/nodes").json["nodes"]
    return {one["host"] for row in rows if row["record"]["name"] == other.name for one in row["record"]["addresses"]}


def test_two_nodes_find_each_other_by_the_dht_alone(site: Site, seed: Node, pair: tuple[Node, Node]) -> None:
    one, two = pair
    assert site.grid.alive(seed) == {"seed"}
    assert site.grid.alive(one) == site.grid.alive(two) == {"one", "two"}


def test_with_every_seed_down_a_node_comes_back_by_what_it_remembers(
    site: Site, seed: Node, pair: tuple[Node, Node]
) -> None:
    one, two = pair
    peers = two.directory / "data" / "peers"
    until(lambda: peers.exists() and one.id in peers.read_text(), PATIENCE, "it is written down")
    site.grid.kill(seed)
    site.grid.kill(two)
    until(lambda: not sees(site, one, two), PATIENCE, "it is gone")
    site.grid.start(two)
    site.wire(two, site.far)
    until(lambda: sees(site, two, one) and sees(site, one, two), PATIENCE, "it is back")


def test_a_node_that_gets_another_address_stays_a_member(site: Site, pair: tuple[Node, Node]) -> None:
    one, two = pair
    before = subnets.address(two.container, site.far)
    docker("network", "disconnect", site.far, two.container)
    until(lambda: not sees(site, one, two), PATIENCE, "it is gone")
    after = before.rpartition(".")[0] + ".77"
    docker("network", "connect", "--ip", after, site.far, two.container)
    site.wire(two, site.far)
    until(lambda: sees(site, two, one) and sees(site, one, two), PATIENCE, "it is back")
    until(lambda: hosts(one, two) == {after}, PATIENCE, "its peer knows the new address")


def test_a_node_behind_nat_is_a_full_member(site: Site, pair: tuple[Node, Node], tmp_path: Path) -> None:
    """It dials out, nobody reaches it, and calls run there."""
    one, two = pair
    hidden = site.add("hidden", site.lodge, one)
    nodes = (one, two, hidden)
    until(lambda: all(site.grid.alive(node) == {"one", "two", "hidden"} for node in nodes), PATIENCE, "a full mesh")
    (row,) = inspect(hidden.container)
    inside = row["NetworkSettings"]["Networks"][site.lodge]["IPAddress"]
    ask = "import socket, sys; s = socket.socket(); s.settimeout(1); print(s.connect_ex((sys.argv[1], 7400)))"
    assert docker("exec", two.container, "/usr/bin/python3", "-c", ask, inside).strip() != "0"
    until(lambda: subnets.address(site.nat, site.near) in hosts(one, hidden), PATIENCE, "it learns how others see it")

    site.grid.deploy(project.write(tmp_path / "project"))
    called = two.http("POST", "/v1/invoke/echo?node=hidden", json.dumps([1, 2]).encode())
    assert (called.status, called.json) == (200, [1, 2])
    assert called.headers["Grid-Node"] in (hidden.name, hidden.id)
