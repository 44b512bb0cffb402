import contextlib
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridnode.errors import ManifestInvalid
from gridnode.model import Root
from gridnode.sync.chunk import MAX_CHUNK, Chunking, ChunkRef
from gridnode.sync.manifest import (
    MAX_SIZE,
    ChunkList,
    Directory,
    Entry,
    EntryKind,
    RootDirectory,
    check_name,
    check_target,
    decode_node,
    encode_node,
    name_bytes,
    name_text,
    root_hash,
)

HASH = bytes(range(32))
REF = [HASH, 5]
FILE = [b"a", "f", 5, ["c", 0, [REF]]]
CHUNKING = ["fastcdc-2020-nc2", 16384, 65536, 262144, "sha256"]


def pack(*node: Any) -> bytes:
    return msgspec.msgpack.encode(node)


def test_golden_node() -> None:
    node = RootDirectory(1, Chunking(), 5, 1, (Entry(b"a", EntryKind.FILE, 5, ChunkList(0, (ChunkRef(HASH, 5),))),))
    assert encode_node(node) == pack("r", 1, CHUNKING, 5, 1, [FILE])
    assert decode_node(encode_node(node)) == node


def test_a_node_names_its_children() -> None:
    long = Entry(b"long", EntryKind.FILE, 9, ChunkList(1, (ChunkRef(b"L" * 32, 9),)))
    short = Entry(b"short", EntryKind.EXECUTABLE, 5, ChunkList(0, (ChunkRef(HASH, 5),)))
    below = Entry(b"sub", EntryKind.DIRECTORY, 7, b"D" * 32)
    link = Entry(b"to", EntryKind.LINK, 3, b"sub")
    node = Directory((long, short, below, link))
    assert decode_node(encode_node(node)) == node
    assert node.nodes() == [b"L" * 32, b"D" * 32]
    assert node.chunks() == [ChunkRef(HASH, 5)]
    assert ChunkList(1, long.ref.refs).nodes() == [b"L" * 32]
    assert ChunkList(0, short.ref.refs).chunks() == [ChunkRef(HASH, 5)]


def entry(name: bytes = b"a", kind: str = "f", size: int = 5, ref: Any = ("c", 0, [REF])) -> list[Any]:
    return [name, kind, size, ref]


BAD_NAMES = [b"", b".", b"..", b"a/b", b"/", b"a\0", b"n" * 256]
BAD_ENTRIES = [
    *(entry(name) for name in BAD_NAMES),
    entry(kind="p"),
    entry(size=4),
    entry(size=-1),
    entry(kind="d"),
    entry(kind="l"),
    entry(kind="f", ref=HASH),
    entry(kind="d", ref=HASH[:31]),
    entry(kind="d", ref=HASH, size=MAX_SIZE + 1),
    entry(kind="l", ref=b"abc", size=4),
    entry(kind="l", ref=b"", size=0),
    entry(kind="l", ref=b"/abc", size=4),
    entry(kind="l", ref=b"../" * 33 + b"a", size=100),
    entry(kind="l", ref=b"a" * 1025, size=1025),
    entry(ref=("c", 0, [[HASH[:31], 5]])),
    entry(ref=("c", 0, [[HASH, 5, 0]])),
    entry(ref=("c", 0, [REF] * 9), size=45),
    entry(ref=("c", 0, [[HASH, MAX_CHUNK + 1]]), size=MAX_CHUNK + 1),
    entry(ref=("c", 0, [[HASH, 0]]), size=0),
    entry(ref=("c", 1, []), size=0),
    entry(ref=("c", 5, [REF])),
    entry(ref=("c", -1, [REF])),
    entry(ref=("x", 0, [REF])),
    [*entry(), 0],
    [],
]


@pytest.mark.parametrize("bad", BAD_ENTRIES)
def test_a_bad_entry_is_refused(bad: list[Any]) -> None:
    with pytest.raises(ManifestInvalid):
        decode_node(pack("d", [bad]))
    with pytest.raises(ManifestInvalid):
        decode_node(pack("r", 1, CHUNKING, 5, 1, [bad]))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00",
        pack(),
        pack("q"),
        pack("d"),
        pack("d", [FILE, FILE]),
        pack("d", [entry(b"b"), entry(b"a")]),
        pack("d", [], 0),
        pack("d", []) + b"\x00",
        b"\xdc\x00\x02" + pack("d", [])[1:],
        pack("c", 0, []),
        pack("c", 0, [REF] * 129),
        pack("c", 5, [REF]),
        pack("r", 2, CHUNKING, 0, 0, []),
        pack("r", 1, [*CHUNKING[:4], "md5"], 0, 0, []),
        pack("r", 1, ["", *CHUNKING[1:]], 0, 0, []),
        pack("r", 1, ["x", 9, 8, 7, "sha256"], 0, 0, []),
        pack("r", 1, ["x", 1, 8, MAX_CHUNK + 1, "sha256"], 0, 0, []),
        pack("r", 1, CHUNKING, -1, 0, []),
        pack("r", 1, CHUNKING, 0, MAX_SIZE + 1, []),
        pack("r", 1, CHUNKING, 0, 0),
        pack("d", [entry(b"%08d" % n) for n in range(80_000)]),
        b"\x92" * 100_000,
    ],
)
def test_a_bad_node_is_refused(content: bytes) -> None:
    with pytest.raises(ManifestInvalid):
        decode_node(content)


def test_a_directory_too_large_for_a_node_is_not_made() -> None:
    entries = tuple(Entry(b"%08d" % n, EntryKind.DIRECTORY, 0, HASH) for n in range(90_000))
    with pytest.raises(ManifestInvalid, match="at most"):
        encode_node(Directory(entries))


@given(st.binary(max_size=300))
def test_garbage_is_refused(content: bytes) -> None:
    with pytest.raises(ManifestInvalid):
        decode_node(content)


@given(st.integers(0, 10_000), st.binary(min_size=1, max_size=4))
def test_a_damaged_node_is_refused_or_another_canonical_node(at: int, patch: bytes) -> None:
    whole = pack("r", 1, CHUNKING, 5, 1, [FILE, entry(b"b", "d", 0, HASH), entry(b"c", "l", 1, b"a")])
    at %= len(whole)
    content = whole[:at] + patch + whole[at + len(patch) :]
    with contextlib.suppress(ManifestInvalid):
        assert encode_node(decode_node(content)) == content


@pytest.mark.parametrize("name", BAD_NAMES)
def test_bad_names(name: bytes) -> None:
    with pytest.raises(ManifestInvalid):
        check_name(name)


@given(st.binary(max_size=300))
def test_every_name_on_disk_has_a_text_and_back(name: bytes) -> None:
    assert name_bytes(name_text(name)) == name


def test_text_that_is_no_name_is_refused() -> None:
    with pytest.raises(ManifestInvalid):
        name_bytes("\ud800")


@pytest.mark.parametrize(
    ("target", "depth"),
    [(b"a", 0), (b"a/b/", 0), (b"./a//b", 0), (b"..", 1), (b"../../a", 2), (b".././../a", 2), (b"...", 0), (b"..a", 0)],
)
def test_targets_within_the_tree(target: bytes, depth: int) -> None:
    check_target(target, depth)


@pytest.mark.parametrize(
    ("target", "depth"),
    [
        (b"", 9),
        (b"/", 9),
        (b"/etc/passwd", 9),
        (b"..", 0),
        (b"../..", 1),
        (b"./../x", 0),
        (b"a/..", 9),
        (b"../a/../..", 9),
        (b"a\0", 9),
        (b"a" * 1025, 9),
    ],
)
def test_targets_that_may_leave_the_tree(target: bytes, depth: int) -> None:
    with pytest.raises(ManifestInvalid):
        check_target(target, depth)


@pytest.mark.parametrize("root", ["", "ab", "../" * 21 + "a", "g" * 64, "A" * 64, "0" * 63 + "\n", "\u0661" * 64])
def test_what_is_no_root(root: str) -> None:
    with pytest.raises(ManifestInvalid):
        root_hash(Root(root))


def test_a_root() -> None:
    assert root_hash(Root(HASH.hex())) == HASH
