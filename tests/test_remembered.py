import json
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridnode import remembered
from gridnode.model import Address, NodeId, NodeRecord, Sighting
from gridnode.remembered import KEPT, MAX_PEERS, RememberedPeers

NOW = 1_800_000_000.0


def record(number: int, *addresses: Address) -> NodeRecord:
    given = addresses or (Address(f"10.0.0.{number}", 7400),)
    return NodeRecord(NodeId(f"{number:040x}"), f"node-{number}", 1, 0, given, "1", 1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "peers"


def kept(path: Path, *linked: NodeRecord, now: float = NOW) -> None:
    peers = RememberedPeers(path, now)
    peers.remember(linked, now)
    if peers.changed:
        peers.save()


def test_the_next_life_knows_the_peers_of_this_one(path: Path) -> None:
    assert RememberedPeers(path, NOW).sightings() == []
    kept(path, record(1), record(2, Address("10.0.0.2", 7400), Address("fd00::2", 7401)))
    assert set(RememberedPeers(path, NOW).sightings()) == {
        Sighting(Address("10.0.0.1", 7400), record(1).id),
        Sighting(Address("10.0.0.2", 7400), record(2).id),
        Sighting(Address("fd00::2", 7401), record(2).id),
    }
    assert path.stat().st_mode & 0o777 == 0o600


def test_who_is_forgotten_is_gone_from_disk(path: Path) -> None:
    kept(path, record(1), record(2))
    peers = RememberedPeers(path, NOW)
    peers.forget(record(3).id)
    assert not peers.changed
    peers.forget(record(1).id)
    assert peers.changed
    peers.save()
    assert [one.node for one in RememberedPeers(path, NOW).sightings()] == [record(2).id]


def test_those_not_linked_now_stay_for_a_month(path: Path) -> None:
    kept(path, record(1))
    kept(path, record(2), now=NOW + KEPT - 3600)
    assert len(RememberedPeers(path, NOW + KEPT - 3600).sightings()) == 2
    assert [one.node for one in RememberedPeers(path, NOW + KEPT + 1).sightings()] == [record(2).id]


def test_only_the_newest_and_only_so_many(path: Path) -> None:
    kept(path, *(record(number) for number in range(MAX_PEERS)))
    kept(path, record(9999, *(Address(f"10.0.1.{n}", 7400) for n in range(64))), now=NOW + 7200)
    found = RememberedPeers(path, NOW + 7200).sightings()
    assert len({one.node for one in found}) == MAX_PEERS
    assert sum(one.node == record(9999).id for one in found) == remembered.MAX_ADDRESSES


def test_what_has_not_changed_is_not_written_again(path: Path) -> None:
    peers = RememberedPeers(path, NOW)
    peers.remember([record(1)], NOW)
    peers.save()
    assert not peers.changed
    peers.remember([record(1)], NOW + 1)
    assert not peers.changed
    peers.remember([record(1, Address("10.9.9.9", 7400))], NOW + 2)
    assert peers.changed


def test_a_node_alone_writes_nothing(path: Path) -> None:
    kept(path)
    assert not path.exists()


def test_a_disk_that_refuses_ends_nothing() -> None:
    kept(Path("/proc/no-such-directory/peers"), record(1))


DAMAGED = [b"", b"{", b"[]", b"\x80\x04\x95", b'{"version":1,"peers":[{"node":5}]}', b"[" * 100_000, bytes(2 << 20)]


@pytest.mark.parametrize("content", DAMAGED, ids=lambda content: ascii(content[:8]))
def test_a_damaged_file_is_nothing_and_is_replaced(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    assert RememberedPeers(path, NOW).sightings() == []
    kept(path, record(1))
    assert json.loads(path.read_bytes())["version"] == 1


@given(
    st.recursive(
        st.none() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_any_json_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, content: object) -> None:
    path = tmp_path_factory.getbasetemp() / "any"
    try:
        path.write_bytes(msgspec.json.encode({"version": 1, "peers": content}))
    except (UnicodeEncodeError, OverflowError):
        return
    RememberedPeers(path, NOW)
