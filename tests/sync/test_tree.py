import random
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gridnode.errors import ManifestInvalid
from gridnode.model import ChunkHash, Root
from gridnode.sync.chunk import Chunking, ChunkRef, chunk_hash
from gridnode.sync.manifest import ChunkList, Entry, EntryKind, RootDirectory, decode_node
from gridnode.sync.tree import Bounds, Manifest, Source, Walk, build, iter_chunks, iter_files

F, X, D, L = EntryKind.FILE, EntryKind.EXECUTABLE, EntryKind.DIRECTORY, EntryKind.LINK
REF = ChunkRef(chunk_hash(b"abc"), 3)
NO_NODE = b"\xff" * 32


def refs(count: int, seed: int = 1) -> tuple[ChunkRef, ...]:
    made = random.Random(seed)
    return tuple(ChunkRef(ChunkHash(made.randbytes(32)), made.randint(1, 9)) for _ in range(count))


def read(tree: Manifest) -> dict[str, tuple[EntryKind, Any]]:
    get = tree.nodes.__getitem__
    found: dict[str, tuple[EntryKind, Any]] = {}
    for path, entry in iter_files(tree.root, get):
        content = tuple(iter_chunks(entry.ref, get)) if isinstance(entry.ref, ChunkList) else entry.ref
        found[path] = (entry.kind, None if entry.kind is D else content)
    return found


def test_what_was_built_is_read_back_in_order() -> None:
    tree = build(
        [
            Source(("tasks", "req.py"), F, (REF,)),
            Source(("bin", "run"), X, (REF, REF)),
            Source(("empty",), D),
            Source(("bin", "again"), L, target="../tasks/req.py"),
            Source(("caf\udce9",), F),
        ]
    )
    assert list(read(tree).items()) == [
        ("bin", (D, None)),
        ("bin/again", (L, b"../tasks/req.py")),
        ("bin/run", (X, (REF, REF))),
        ("caf\udce9", (F, ())),
        ("empty", (D, None)),
        ("tasks", (D, None)),
        ("tasks/req.py", (F, (REF,))),
    ]
    assert (tree.size, tree.files) == (9, 3)


def test_golden_root() -> None:
    link = Source(("l",), L, target="tasks")
    tree = build([Source(("tasks", "req.py"), F, (REF,)), Source(("long",), F, refs(300)), link])
    assert tree.root == "4b82dba943d34e19577867d5cc0e598a8c176d4e866c8a32c5619b101f0d71bc"


def test_the_order_of_sources_does_not_matter() -> None:
    sources = [Source((f"d{n % 3}", f"f{n}"), F, refs(n, n)) for n in range(20)]
    shuffled = random.Random(1).sample(sources, len(sources))
    assert build(sources) == build(shuffled)


NAMES = st.sampled_from(["a", "b", "c", "A", "\udcff", "\u00e9"])
PATHS = st.lists(NAMES, min_size=1, max_size=4).map(tuple)


@given(st.dictionaries(PATHS, st.tuples(st.sampled_from([F, X]), st.integers(0, 400)), max_size=12))
def test_any_tree_round_trips(files: dict[tuple[str, ...], tuple[EntryKind, int]]) -> None:
    files = {path: what for path, what in files.items() if not any(path[:n] in files for n in range(len(path)))}
    tree = build(Source(path, kind, refs(count, count)) for path, (kind, count) in files.items())
    found = {path: what for path, what in read(tree).items() if what[0] is not D}
    assert found == {"/".join(path): (kind, refs(count, count)) for path, (kind, count) in files.items()}
    walk = Walk(tree.root)
    while walk.wanted:
        for name in list(walk.wanted):
            walk.feed(name, tree.nodes[name])
    assert walk.seen == tree.nodes.keys()
    assert walk.chunks == {ref.hash: ref.length for _, count in files.values() for ref in refs(count, count)}


def test_a_rename_costs_the_nodes_above_it() -> None:
    files = [Source((f"d{n}", "f"), F, refs(3, n)) for n in range(50)]
    before = build(files)
    after = build([*files[:-1], Source(("d49", "g"), F, refs(3, 49))])
    assert len(after.nodes.keys() - before.nodes.keys()) == 2


def test_an_edit_of_a_long_file_costs_a_few_nodes() -> None:
    long = refs(20_000)
    before = build([Source(("f",), F, long)])
    after = build([Source(("f",), F, (*long[:9000], REF, *long[9001:]))])
    new = after.nodes.keys() - before.nodes.keys()
    assert len(new) <= 5
    assert sum(len(after.nodes[name]) for name in new) < 25_000
    assert len(before.nodes) > 200


@settings(max_examples=20)
@given(st.integers(0, 40_000))
def test_a_file_of_one_repeated_chunk_still_packs(count: int) -> None:
    repeated = ChunkRef(ChunkHash(bytes(32)), 4)
    tree = build([Source(("zeros",), F, (repeated,) * count)])
    assert sum(ref.length for ref in read(tree)["zeros"][1]) == 4 * count


@pytest.mark.parametrize(
    "sources",
    [
        [Source((), F)],
        [Source(("",), F)],
        [Source(("..", "a"), F)],
        [Source(("a/b",), F)],
        [Source(("n" * 256,), F)],
        [Source(("\ud800",), F)],
        [Source(("a",), F), Source(("a",), F)],
        [Source(("a",), F), Source(("a", "b"), F)],
        [Source(("a", "b"), F), Source(("a",), F)],
        [Source(("a",), F), Source(("a",), D)],
        [Source(("a",), L, target="/etc/passwd")],
        [Source(("a",), L, target="../a")],
        [Source(("d", "a"), L, target="../../a")],
        [Source(("a",) * 34, F)],
        [Source(("n" * 200,) * 20, F)],
    ],
)
def test_what_cannot_be_in_a_tree(sources: list[Source]) -> None:
    with pytest.raises(ManifestInvalid):
        build(sources)


def test_the_deepest_tree_is_read_back() -> None:
    tree = build([Source(("a",) * 33, F), Source((*("a",) * 32, "d"), D)])
    assert len(read(tree)) == 34


@pytest.mark.parametrize("bounds", [Bounds(entries=2), Bounds(total=5), Bounds(depth=0), Bounds(path=2)])
def test_bounds(bounds: Bounds) -> None:
    sources = [Source(("a",), F, (REF,)), Source(("b", "c"), F, (REF,)), Source(("d",), D)]
    tree = build(sources)
    with pytest.raises(ManifestInvalid):
        build(sources, bounds=bounds)
    with pytest.raises(ManifestInvalid):
        list(iter_files(tree.root, tree.nodes.__getitem__, bounds))


def hostile(*entries: list[Any], size: int = 0, files: int = 0, nodes: dict[bytes, bytes] | None = None) -> Manifest:
    """A tree that `build` would not make."""
    top = msgspec.msgpack.encode(["r", 1, Chunking(), size, files, list(entries)])
    found = {ChunkHash(name): node for name, node in (nodes or {}).items()} | {chunk_hash(top): top}
    return Manifest(Root(chunk_hash(top).hex()), found, size, files)


def node(*content: Any) -> tuple[bytes, bytes]:
    packed = msgspec.msgpack.encode(content)
    return chunk_hash(packed), packed


def test_false_totals_are_refused() -> None:
    for size, files in [(1, 0), (0, 1)]:
        with pytest.raises(ManifestInvalid):
            read(hostile(size=size, files=files))


def test_a_false_directory_size_is_refused() -> None:
    name, content = node("d", [])
    with pytest.raises(ManifestInvalid):
        read(hostile([b"a", "d", 1, name], nodes={name: content}))


def test_a_link_out_of_the_tree_from_below_is_refused() -> None:
    name, content = node("d", [[b"l", "l", 7, b"../../a"]])
    with pytest.raises(ManifestInvalid):
        read(hostile([b"a", "d", 0, name], nodes={name: content}))


def test_a_node_of_the_wrong_kind_is_refused() -> None:
    name, content = node("c", 0, [list(REF)])
    with pytest.raises(ManifestInvalid, match="should be a Directory"):
        read(hostile([b"a", "d", 0, name], nodes={name: content}))


@pytest.mark.parametrize(("level", "length"), [(2, 3), (1, 4)])
def test_a_chunk_list_that_is_not_what_its_parent_states_is_refused(level: int, length: int) -> None:
    name, content = node("c", 0, [list(REF)])
    entry = [b"a", "f", length, ["c", level, [[name, length]]]]
    with pytest.raises(ManifestInvalid):
        read(hostile(entry, size=length, files=1, nodes={name: content}))


def test_a_small_tree_that_unfolds_into_billions_is_refused() -> None:
    nodes: dict[bytes, bytes] = {}
    name, nodes_content = node("d", [])
    nodes[name] = nodes_content
    for _ in range(30):
        below = name
        name, content = node("d", [[b"a", "d", 0, below], [b"b", "d", 0, below]])
        nodes[name] = content
    with pytest.raises(ManifestInvalid, match="out of bounds"):
        read(hostile([b"a", "d", 0, name], nodes=nodes))


def test_a_walk_starts_at_a_root_and_meets_no_other() -> None:
    name, content = node("d", [])
    with pytest.raises(ManifestInvalid):
        Walk(Root(name.hex())).feed(ChunkHash(name), content)
    inner = build([])
    inner_root = ChunkHash(bytes.fromhex(inner.root))
    outer = hostile([b"a", "d", 0, inner_root], nodes={inner_root: inner.nodes[inner_root]})
    walk = Walk(outer.root)
    walk.feed(next(iter(walk.wanted)), outer.nodes[ChunkHash(bytes.fromhex(outer.root))])
    with pytest.raises(ManifestInvalid):
        walk.feed(inner_root, inner.nodes[inner_root])


def test_a_walk_is_bounded_and_passes_over_what_it_did_not_want() -> None:
    tree = build([Source((name,), F, refs(3)) for name in "abc"])
    top = ChunkHash(bytes.fromhex(tree.root))
    walk = Walk(tree.root)
    walk.feed(ChunkHash(NO_NODE), b"whatever")
    assert list(walk.wanted) == [top]
    for bounds in (Bounds(entries=2), Bounds(chunks=2)):
        with pytest.raises(ManifestInvalid):
            Walk(tree.root, bounds).feed(top, tree.nodes[top])


def test_the_root_says_how_it_was_cut() -> None:
    tree = build([], Chunking(min_size=1, avg_size=2, max_size=3))
    top = decode_node(tree.nodes[ChunkHash(bytes.fromhex(tree.root))])
    assert isinstance(top, RootDirectory)
    assert top.chunking.max_size == 3
    assert Entry(b"a", F, 0, ChunkList(0, ())) not in top.entries


def test_a_tree_that_states_terabytes_is_refused_before_a_byte_is_fetched() -> None:
    content = ["c", 1, [[REF.hash, 1 << 47]]]
    top = msgspec.msgpack.encode(["r", 1, Chunking(), 1 << 47, 1, [[b"a", "f", 1 << 47, content]]])
    name = chunk_hash(top)
    with pytest.raises(ManifestInvalid, match="out of bounds"):
        list(iter_files(Root(name.hex()), {name: top}.__getitem__))
    with pytest.raises(ManifestInvalid, match="impossible total"):
        decode_node(msgspec.msgpack.encode(["r", 1, Chunking(), 1 << 60, 1, []]))


def test_a_million_entries_are_refused_as_soon_as_there_are_too_many() -> None:
    """In directories of 60,000 names, 2 MB each."""
    entries = [[b"%07d" % number, "l", 1, b"x"] for number in range(60_000)]
    below = [msgspec.msgpack.encode(["d", [*entries, [b"x%d" % number, "l", 1, b"x"]]]) for number in range(2)]
    rows = [[b"%02d" % number, "d", 0, chunk_hash(below[number % 2])] for number in range(17)]
    top = msgspec.msgpack.encode(["r", 1, Chunking(), 0, 0, rows])
    walk = Walk(Root(chunk_hash(top).hex()))
    walk.feed(chunk_hash(top), top)
    walk.feed(chunk_hash(below[0]), below[0])
    with pytest.raises(ManifestInvalid, match="more than"):
        walk.feed(chunk_hash(below[1]), below[1])
