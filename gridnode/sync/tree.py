"""Trees of manifest nodes: build one from a project's entries, discover one breadth first, read one back."""

from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

from gridnode.errors import ManifestInvalid, SyncError
from gridnode.model import ChunkHash, Root
from gridnode.sync.chunk import Chunking, ChunkRef, chunk_hash
from gridnode.sync.manifest import (
    MAX_DEPTH,
    MAX_INLINE_REFS,
    MAX_LIST_REFS,
    VERSION,
    ChunkList,
    Directory,
    Entry,
    EntryKind,
    Node,
    RootDirectory,
    check_name,
    check_target,
    decode_node,
    encode_node,
    name_bytes,
    name_text,
    root_hash,
)

MIN_LIST_REFS = 32
"""A chunk list node holds at least so many, so that every level is that much shorter than the one below."""
_LIST_MASK = 31

Get = Callable[[ChunkHash], bytes]
"""A chunk's verified bytes by its hash, such as ChunkStore.get."""
NodeT = TypeVar("NodeT", RootDirectory, Directory, ChunkList)


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a tree may hold at most. path, total: bytes; depth: directories above an entry."""

    entries: int = 100_000
    depth: int = MAX_DEPTH
    path: int = 3072
    total: int = 64 * 1024**3
    chunks: int = 2_000_000


DEFAULT_BOUNDS = Bounds()


class Source(NamedTuple):
    """One entry to build a tree from. Directories need naming only when empty."""

    path: tuple[str, ...]
    kind: EntryKind
    refs: tuple[ChunkRef, ...] = ()
    target: str = ""


@dataclass(frozen=True, slots=True)
class Manifest:
    """A whole tree. size: bytes of all files; files: how many."""

    root: Root
    nodes: dict[ChunkHash, bytes]
    size: int
    files: int


def build(sources: Iterable[Source], chunking: Chunking | None = None, bounds: Bounds = DEFAULT_BOUNDS) -> Manifest:
    """The tree of `sources`, in any order; ManifestInvalid names the entry that cannot be in one."""
    top: _Names = {}
    size = files = 0
    for count, source in enumerate(sources, 1):
        _place(top, source, bounds)
        if source.kind in (EntryKind.FILE, EntryKind.EXECUTABLE):
            files += 1
            size += sum(ref.length for ref in source.refs)
        if count > bounds.entries or size > bounds.total:
            raise ManifestInvalid(f"more than {bounds.entries} entries or {bounds.total} bytes")
    nodes: dict[ChunkHash, bytes] = {}
    entries = _entries(top, nodes)
    root = _keep(RootDirectory(VERSION, chunking or Chunking(), size, files, entries), nodes)
    return Manifest(Root(root.hex()), nodes, size, files)


_Names = dict[bytes, "Source | _Names"]


def _place(top: _Names, source: Source, bounds: Bounds) -> None:
    shown = "/".join(source.path)
    names = [name_bytes(part) for part in source.path]
    _check_place(names, bounds)
    if source.kind is EntryKind.LINK:
        check_target(name_bytes(source.target), len(names) - 1)
    here = top
    for name in names[:-1]:
        below = here.setdefault(name, {})
        if isinstance(below, Source):
            raise ManifestInvalid(f"{shown} is below something that is no directory")
        here = below
    if source.kind is EntryKind.DIRECTORY:
        if isinstance(here.setdefault(names[-1], {}), Source):
            raise ManifestInvalid(f"{shown} is there twice")
    elif here.setdefault(names[-1], source) is not source:
        raise ManifestInvalid(f"{shown} is there twice")


def _check_place(names: list[bytes], bounds: Bounds) -> None:
    for name in names:
        check_name(name)
    path = b"/".join(names)
    if not 1 <= len(names) <= bounds.depth + 1 or len(path) > bounds.path:
        raise ManifestInvalid(f"more than {bounds.depth} directories or {bounds.path} bytes deep: {name_text(path)!r}")


def _keep(node: Node, nodes: dict[ChunkHash, bytes]) -> ChunkHash:
    content = encode_node(node)
    name = chunk_hash(content)
    nodes[name] = content
    return name


def _entries(names: _Names, nodes: dict[ChunkHash, bytes]) -> tuple[Entry, ...]:
    return tuple(_entry(name, names[name], nodes) for name in sorted(names))


def _entry(name: bytes, what: "Source | _Names", nodes: dict[ChunkHash, bytes]) -> Entry:
    if isinstance(what, dict):
        entries = _entries(what, nodes)
        size = sum(entry.size for entry in entries if entry.kind is not EntryKind.LINK)
        return Entry(name, EntryKind.DIRECTORY, size, _keep(Directory(entries), nodes))
    if what.kind is EntryKind.LINK:
        target = name_bytes(what.target)
        return Entry(name, EntryKind.LINK, len(target), target)
    content = _pack(list(what.refs), nodes)
    return Entry(name, what.kind, content.size, content)


def _pack(refs: list[ChunkRef], nodes: dict[ChunkHash, bytes]) -> ChunkList:
    level = 0
    while len(refs) > MAX_INLINE_REFS:
        lists = [ChunkList(level, tuple(group)) for group in _groups(refs)]
        refs = [ChunkRef(_keep(node, nodes), node.size) for node in lists]
        level += 1
    return ChunkList(level, tuple(refs))


def _groups(refs: list[ChunkRef]) -> Iterator[list[ChunkRef]]:
    """Cut by content, so that an edit changes the group it is in and not all that follow."""
    group: list[ChunkRef] = []
    for ref in refs:
        group.append(ref)
        ends = len(group) >= MIN_LIST_REFS and ref.hash[-1] & _LIST_MASK == 0
        if ends or len(group) == MAX_LIST_REFS:
            yield group
            group = []
    if group:
        yield group


@dataclass(slots=True)
class Walk:
    """Breadth-first discovery of a tree, of which at first only the root is known.

    `wanted` are the nodes to fetch next, in order; `feed` each when it is there; `chunks` are those of
    file content found so far, with their lengths. The tree is known once nothing is wanted.
    """

    root: Root
    bounds: Bounds = DEFAULT_BOUNDS
    top: RootDirectory | None = None
    chunks: dict[ChunkHash, int] = field(default_factory=dict)
    seen: set[ChunkHash] = field(default_factory=set)
    wanted: dict[ChunkHash, None] = field(default_factory=dict)
    entries: int = 0

    def __post_init__(self) -> None:
        self.wanted[root_hash(self.root)] = None

    def feed(self, name: ChunkHash, content: bytes) -> None:
        """Take a wanted node's verified bytes (others are passed over); ManifestInvalid when a rule or bound breaks."""
        if name not in self.wanted:
            return
        node = decode_node(content)
        if isinstance(node, RootDirectory) == bool(self.seen):
            raise ManifestInvalid("a tree's first node, and no other, is its root")
        if isinstance(node, RootDirectory):
            self.top = node
        del self.wanted[name]
        self.seen.add(name)
        self.entries += 0 if isinstance(node, ChunkList) else len(node.entries)
        self.wanted |= dict.fromkeys(below for below in node.nodes() if below not in self.seen)
        self.chunks.update(node.chunks())
        if self.entries > self.bounds.entries or len(self.chunks) > self.bounds.chunks:
            raise ManifestInvalid(f"more than {self.bounds.entries} entries or {self.bounds.chunks} chunks")


def iter_files(root: Root, get: Get, bounds: Bounds = DEFAULT_BOUNDS) -> Iterator[tuple[str, Entry]]:
    """(path, entry) of everything in the tree, a directory before what it holds; ManifestInvalid as soon as seen."""
    top = _load(get, root_hash(root), RootDirectory)
    reading = _Reading(get, bounds)
    size = yield from reading.walk(top.entries, b"", 0)
    if (size, reading.files) != (top.size, top.files):
        raise ManifestInvalid(f"manifest states {top.files} files of {top.size} bytes, has {reading.files} of {size}")


def iter_chunks(content: ChunkList, get: Get) -> Iterator[ChunkRef]:
    """A file's chunks in order."""
    if content.level == 0:
        yield from content.refs
        return
    for ref in content.refs:
        node = _load(get, ref.hash, ChunkList)
        if node.level != content.level - 1 or node.size != ref.length:
            raise ManifestInvalid("chunk list node is not what its parent states")
        yield from iter_chunks(node, get)


def reachable(roots: Iterable[Root], get: Get) -> set[ChunkHash]:
    """Every tree node and chunk that these trees hold, as far as their nodes are here."""
    waiting = [root_hash(root) for root in roots]
    found = set(waiting)
    while waiting:
        try:
            node = decode_node(get(waiting.pop()))
        except SyncError:
            continue
        found.update(ref.hash for ref in node.chunks())
        waiting += [below for below in node.nodes() if below not in found]
        found.update(node.nodes())
    return found


def _load(get: Get, name: ChunkHash, kind: type[NodeT]) -> NodeT:
    node = decode_node(get(name))
    if not isinstance(node, kind):
        raise ManifestInvalid(f"node {name.hex()} is a {type(node).__name__}, should be a {kind.__name__}")
    return node


@dataclass(slots=True)
class _Reading:
    get: Get
    bounds: Bounds
    entries: int = 0
    files: int = 0
    size: int = 0

    def walk(self, entries: tuple[Entry, ...], above: bytes, depth: int) -> Generator[tuple[str, Entry], None, int]:
        """Yields what is below, returns its size in bytes."""
        total = 0
        for entry in entries:
            path = above + entry.name
            self._count(entry, path, depth)
            yield name_text(path), entry
            if entry.kind is EntryKind.DIRECTORY and isinstance(entry.ref, bytes):
                below = _load(self.get, ChunkHash(entry.ref), Directory)
                found = yield from self.walk(below.entries, path + b"/", depth + 1)
                if found != entry.size:
                    raise ManifestInvalid(f"directory {name_text(path)!r} holds {found} bytes, states {entry.size}")
            total += 0 if entry.kind is EntryKind.LINK else entry.size
        return total

    def _count(self, entry: Entry, path: bytes, depth: int) -> None:
        self.entries += 1
        if isinstance(entry.ref, ChunkList):
            self.files += 1
            self.size += entry.size
        elif entry.kind is EntryKind.LINK:
            check_target(entry.ref, depth)
        if depth > self.bounds.depth or len(path) > self.bounds.path:
            raise ManifestInvalid(f"tree too deep at {name_text(path[:255])!r}")
        if self.entries > self.bounds.entries or self.size > self.bounds.total:
            raise ManifestInvalid(f"tree out of bounds at {name_text(path[:255])!r}")
