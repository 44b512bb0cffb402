"""How nodes find each other, join and leave."""

from gridnode.gridfile import parse_card
from gridnode.model import Address
from integration import engine
from integration.conftest import PATIENCE, SIZE, Opened, is_active
from integration.grid import LINK_PORT, Grid, until
from integration.node import Node


def test_three_nodes_find_each_other_by_multicast_alone(opened: Opened, grid: Grid) -> None:
    cards = [parse_card((node.directory / "Card").read_text(), node.name) for node in grid.nodes.values()]
    assert [card.seeds for card in cards] == [()] * SIZE
    assert grid.is_full_mesh()
    print(f"full mesh {opened.found_in:.1f} s after the last node had started")
    assert opened.found_in < 10


def test_every_node_is_listed_with_its_own_name_id_and_version(grid: Grid) -> None:
    members = grid.members()
    assert sorted(member["name"] for member in members) == sorted(grid.nodes)
    assert {member["id"] for member in members} == {node.id for node in grid.nodes.values()}
    assert len({member["version"] for member in members}) == 1


def test_ls_is_a_table_for_people(grid: Grid) -> None:
    ended = grid.gridctl("ls")
    assert ended.returncode == 0
    lines = ended.stdout.splitlines()
    assert lines[0].split()[:4] == ["NAME", "ID", "ADDRESS", "STATE"]
    assert [line.split()[0] for line in lines[1:]] == sorted(grid.nodes)
    assert all(" alive " in line and " active " in line for line in lines[1:])


def test_a_node_that_joins_by_a_seed_alone_catches_up_serves_and_leaves(grid: Grid, node: Node, opened: Opened) -> None:
    card = grid.card("late", seeds=[Address(node.address, LINK_PORT)])
    late = grid.add("late", card, {"GRIDNODE_MDNS": "false"})
    until(lambda: _serves(grid, "late", opened.root), PATIENCE, "the late node serves the release")
    until(grid.is_full_mesh, PATIENCE, "a full mesh of four")
    called = grid.gridctl("invoke", "echo", "-d", "[1, 2]", "--node", "late")
    assert (called.returncode, called.stdout.strip()) == (0, "[1,2]")
    assert len(grid.sandboxes(late)) == 2

    grid.stop(late)
    assert late.exit_code == 0
    assert len(grid.sandboxes(late)) == 2, "they wait for its next life"
    assert _state(grid, "late") == "left"
    assert sorted(grid.alive(node)) == ["node-1", "node-2", "node-3"]


def test_a_node_that_stops_and_starts_keeps_its_id_and_its_release(grid: Grid, opened: Opened) -> None:
    node = grid.nodes["node-2"]
    before = {row["Id"] for row in grid.sandboxes(node)}
    grid.restart(node)
    until(lambda: _serves(grid, "node-2", opened.root), PATIENCE, "node-2 serves again")
    assert [member["name"] for member in grid.members()].count("node-2") == 1
    after = {row["Id"] for row in grid.sandboxes(node)}
    assert after == before


def test_the_link_listens_and_the_api_does_not(grid: Grid, node: Node) -> None:
    """Of a node's two ports, the network reaches the authenticated one alone."""
    ask = "import socket, sys\nfor port in sys.argv[2:]: print(socket.socket().connect_ex((sys.argv[1], int(port))))"
    other = grid.nodes["node-2"].container
    assert engine.docker(
        "exec", other, "/usr/bin/python3", "-c", ask, node.address, str(LINK_PORT), "10000"
    ).split() == ["0", "111"]


def _serves(grid: Grid, name: str, root: str) -> bool:
    return any(row["name"] == name and row["state"] == "alive" and is_active(row, root) for row in grid.members())


def _state(grid: Grid, name: str) -> str:
    return next(str(row["state"]) for row in grid.members() if row["name"] == name)
