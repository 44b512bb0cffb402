"""Which server a node is on."""

import pytest

from gridctl.server_log import stranger
from gridctl.whereabouts import server_of, servers_of
from gridnode.errors import NodeNotFound
from gridnode.gridfile import Gridfile, Server
from gridnode.model import Address, Member, MemberState, NodeId, NodeRecord

A, B = Server("10.0.0.1", "root"), Server("b.invalid", "ops", 2222)
GRIDFILE = Gridfile(grid_name="g", servers=(A, B), grid_password="")


def record(name: str, *hosts: str, node: str = "a") -> NodeRecord:
    return NodeRecord(NodeId(node * 40), name, 1, 1, tuple(Address(host, 7400) for host in hosts), "1", 0)


@pytest.mark.parametrize(
    ("node", "server"),
    [
        (record("web-1", "10.0.0.1"), A),
        (record("web-1", "172.17.0.1", "10.0.0.1"), A),
        (record("web-1", "10.0.0.2"), B),
        (record("b.invalid"), B),
        (record("b.invalid:2222", "192.168.0.1"), B),
        (record("web-1", "10.0.0.3"), None),
        (record("web-1", "10.0.0.1", "10.0.0.2"), None),
        (record("web-1"), None),
    ],
)
def test_by_its_name_or_where_it_listens(node: NodeRecord, server: Server | None) -> None:
    assert server_of([A, B], node, {B: {"10.0.0.2"}}) == server


def test_the_only_server_is_meant_where_nothing_else_is_known() -> None:
    assert server_of([A], stranger("web-1", "no answer").record, {}) == A
    assert server_of([A], record("web-1", "10.0.0.3"), {}) is None


MEMBERS = [
    Member(record("web-1", "10.0.0.1"), MemberState.ALIVE, 0.0),
    Member(record("web-3", "10.0.0.3", node="b"), MemberState.DEAD, 0.0),
]


async def test_by_whatever_they_are_called() -> None:
    assert await servers_of(GRIDFILE, MEMBERS, ["web-1", "ops@b.invalid:2222", "aaaa", "10.0.0.1"]) == [A, B]
    assert await servers_of(GRIDFILE, [], ["b.invalid"]) == [B]


@pytest.mark.parametrize(
    ("members", "name", "why"),
    [
        (MEMBERS, "web-2", "no node is called web-2"),
        (MEMBERS, "web-3", "which server the node web-3 runs on cannot be told"),
        ([], "web-1", "no node of the grid answers"),
    ],
)
async def test_what_cannot_be_told(members: list[Member], name: str, why: str) -> None:
    with pytest.raises(NodeNotFound, match=why):
        await servers_of(GRIDFILE, members, [name])
