"""What a deploy would change, worked out from manifests."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from gridctl.plan import Difference, Plan, compare, fetch_tree, plan_fields, plan_lines
from gridctl.project import Project, scan
from gridctl.sample import copy_sample
from gridnode.errors import ChunkInvalid, ChunkMissing, ManifestInvalid
from gridnode.messages import ChunkPart
from gridnode.model import ChunkHash, Release, Root
from gridnode.sync.chunk import chunk_hash, encode
from gridnode.sync.tree import iter_files


class Node:
    """A node's chunks; at_once: how many fit a reply."""

    def __init__(self, chunks: dict[ChunkHash, bytes], at_once: int = 64) -> None:
        self.chunks = chunks
        self.at_once = at_once
        self.asked: list[ChunkHash] = []

    async def get_chunks(self, hashes: Sequence[ChunkHash]) -> list[ChunkPart]:
        assert len(hashes) <= 64
        self.asked += hashes
        held = [name for name in hashes if name in self.chunks][: self.at_once]
        packed = [(name, encode(self.chunks[name])) for name in held]
        return [ChunkPart(name, one.codec, one.length, one.payload) for name, one in packed]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    copy_sample("hello", tmp_path / "hello")
    for number in range(70):
        place = tmp_path / "hello" / "lib" / str(number)
        place.mkdir(parents=True)
        (place / "x.txt").write_text(str(number))
    return scan(tmp_path / "hello")


@pytest.mark.parametrize("at_once", [1, 64])
async def test_a_tree_is_fetched_whole(project: Project, at_once: int) -> None:
    nodes: dict[ChunkHash, bytes] = {}
    await fetch_tree(Node(project.manifest.nodes, at_once), project.manifest.root, nodes)
    assert nodes == project.manifest.nodes
    assert len(list(iter_files(project.manifest.root, nodes.__getitem__))) > 140


async def test_what_is_known_is_not_fetched(project: Project) -> None:
    node = Node({})
    await fetch_tree(node, project.manifest.root, dict(project.manifest.nodes))
    assert node.asked == []


async def test_a_node_that_lacks_a_part_is_an_error_with_advice(project: Project) -> None:
    chunks = dict(project.manifest.nodes)
    del chunks[next(name for name in chunks if name.hex() != project.manifest.root)]
    with pytest.raises(ChunkMissing) as caught:
        await fetch_tree(Node(chunks), project.manifest.root, {})
    assert "gridctl ls" in str(caught.value.hint)


async def test_a_node_that_lies_is_found_out(project: Project) -> None:
    with pytest.raises(ChunkInvalid):
        await fetch_tree(Node(dict.fromkeys(project.manifest.nodes, b"other")), project.manifest.root, {})


async def test_garbage_in_place_of_a_directory_is_refused() -> None:
    content = b"\x93no tree"
    name = chunk_hash(content)
    with pytest.raises(ManifestInvalid):
        await fetch_tree(Node({name: content}), Root(name.hex()), {})


def test_compare() -> None:
    found = compare({"a": 1, "b": 2, "c": 3}, {"b": 2, "c": 4, "d": 5})
    assert found == Difference(("d",), ("c",), ("a",))
    assert found
    assert not compare({"a": 1}, {"a": 1})


def plan(project: Project, name: str = "hello", files: Difference | None = None) -> Plan:
    current = Release(name, project.manifest.root, 3, 0, 0, 0, project.tasks)
    return Plan(project, current, files or Difference(), Difference(), {}, 1000)


def test_nothing_would_change(project: Project) -> None:
    assert list(plan_lines(plan(project))) == ["nothing would change"]
    assert plan_fields(plan(project))["changes"] is False


def test_another_project_is_a_change(project: Project) -> None:
    assert next(iter(plan_lines(plan(project, "shop")))) == "project shop → hello"


def test_long_lists_are_cut_and_names_cannot_steer_a_terminal(project: Project) -> None:
    files = Difference(added=("a\x1b[2J", *(f"f{number}" for number in range(99))), removed=("gone",))
    lines = list(plan_lines(plan(project, files=files)))
    assert lines[0] == "+ file a\\x1b[2J"
    assert lines[50:] == [
        "+ 50 more files",
        "- file gone",
        "against release 3: files 100 added, 0 changed, 1 removed; at most 1.0 KB to send",
    ]
    assert len(plan_fields(plan(project, files=files))["files"]["added"]) == 100
