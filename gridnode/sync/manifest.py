"""Manifest nodes: the Merkle tree's wire form, version 1, and its strict decoder. Trees are made and read in tree.py.

Every node is one msgpack array whose first item names its kind, stored and sent as a chunk under its own hash:

    ["r", version, chunking, size, files, entries]    the root directory; its hash is the Root
    ["d", entries]                                    any other directory
    ["c", level, refs]                                part of a long file's chunk list

    chunking = [algorithm, min, avg, max, hash]       entries = [[name, kind, size, ref], ...] sorted by name, bytewise
    refs = [[hash, length], ...]                      ref: f, x → a chunk list · d → hash of its node · l → the target

Names and targets are bytes. size: bytes; a directory's is the sum of what is below, a link's its target's length.
Refs at level 0 name chunks; above, chunk list nodes one level down, and `length` is the sum of what is below.
"""

import enum

import msgspec

from gridnode.errors import ManifestInvalid
from gridnode.model import ChunkHash, Root
from gridnode.sync.chunk import HASH_SIZE, MAX_CHUNK, Chunking, ChunkRef

VERSION = 1
MAX_NAME = 255
MAX_TARGET = 1024
MAX_DEPTH = 32
MAX_LEVEL = 4
MAX_INLINE_REFS = 8
MAX_LIST_REFS = 128
MAX_SIZE = 1 << 48


class EntryKind(enum.StrEnum):
    FILE = "f"
    EXECUTABLE = "x"
    DIRECTORY = "d"
    LINK = "l"


class ChunkList(msgspec.Struct, frozen=True, array_like=True, tag="c"):
    """What a file, or a part of one, is made of."""

    level: int
    refs: tuple[ChunkRef, ...]

    @property
    def size(self) -> int:
        """Bytes of content."""
        return sum(ref.length for ref in self.refs)

    def nodes(self) -> list[ChunkHash]:
        """The tree nodes it points at."""
        return [ref.hash for ref in self.refs] if self.level else []

    def chunks(self) -> list[ChunkRef]:
        """The chunks of file content it points at."""
        return [] if self.level else list(self.refs)


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """One name in a directory."""

    name: bytes
    kind: EntryKind
    size: int
    ref: ChunkList | bytes


class Directory(msgspec.Struct, frozen=True, array_like=True, tag="d"):
    """Any directory but the top one."""

    entries: tuple[Entry, ...]

    def nodes(self) -> list[ChunkHash]:
        """The tree nodes it points at: directories, and parts of long chunk lists."""
        return _nodes(self.entries)

    def chunks(self) -> list[ChunkRef]:
        """The chunks of file content it points at."""
        return _chunks(self.entries)


class RootDirectory(msgspec.Struct, frozen=True, array_like=True, tag="r"):
    """The top directory. size: bytes of all files; files: how many, executables included."""

    version: int
    chunking: Chunking
    size: int
    files: int
    entries: tuple[Entry, ...]

    def nodes(self) -> list[ChunkHash]:
        """The tree nodes it points at: directories, and parts of long chunk lists."""
        return _nodes(self.entries)

    def chunks(self) -> list[ChunkRef]:
        """The chunks of file content it points at."""
        return _chunks(self.entries)


Node = RootDirectory | Directory | ChunkList


_decode = msgspec.msgpack.Decoder(Node).decode
_encode = msgspec.msgpack.Encoder().encode


def encode_node(node: Node) -> bytes:
    """The node's canonical bytes; ManifestInvalid when they would not decode again."""
    content = _encode(node)
    if len(content) > MAX_CHUNK:
        raise ManifestInvalid(f"a directory's entries take {len(content)} bytes, at most {MAX_CHUNK} allowed")
    _check_node(node)
    return content


def decode_node(content: bytes) -> Node:
    """The node in `content`; ManifestInvalid unless it is well formed, within bounds, and canonical byte for byte."""
    if len(content) > MAX_CHUNK:
        raise ManifestInvalid(f"tree node of {len(content)} bytes, at most {MAX_CHUNK} allowed")
    try:
        node: Node = _decode(content)
    except (msgspec.MsgspecError, ValueError, RecursionError) as exc:
        raise ManifestInvalid(f"malformed tree node: {exc}") from exc
    _check_node(node)
    if _encode(node) != content:
        raise ManifestInvalid("tree node is not in canonical form")
    return node


def root_hash(root: Root) -> ChunkHash:
    """The hash a Root spells; ManifestInvalid unless it is 64 lower case hex digits."""
    if len(root) != 2 * HASH_SIZE or not set(root) <= set("0123456789abcdef"):
        raise ManifestInvalid(f"not a manifest root: {root[:80]!r}")
    return ChunkHash(bytes.fromhex(root))


def name_bytes(name: str) -> bytes:
    """A name as it is on disk; text that is no UTF-8 there is spelled with surrogate escapes."""
    try:
        return name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as exc:
        raise ManifestInvalid(f"name that no file system holds: {name!r}") from exc


def name_text(name: bytes) -> str:
    """The inverse of `name_bytes`, for every name."""
    return name.decode("utf-8", "surrogateescape")


def check_name(name: bytes) -> None:
    """ManifestInvalid unless `name` can be one entry of a directory and nothing else."""
    if not 0 < len(name) <= MAX_NAME:
        raise ManifestInvalid(f"name of {len(name)} bytes, 1 to {MAX_NAME} allowed: {name_text(name[:80])!r}")
    if name in (b".", b"..") or b"/" in name or b"\0" in name:
        raise ManifestInvalid(f"forbidden name {name_text(name)!r}")


def check_target(target: bytes, depth: int) -> None:
    """ManifestInvalid unless a link `depth` directories below the root stays in the tree.

    `..` is allowed only in front: after a name it would count from wherever another link led.
    """
    shown = repr(name_text(target[:80]))
    if not 0 < len(target) <= MAX_TARGET or b"\0" in target:
        raise ManifestInvalid(f"symbolic link with a malformed target {shown}")
    if target.startswith(b"/"):
        raise ManifestInvalid(f"symbolic link to the absolute path {shown}")
    parts = [part for part in target.split(b"/") if part not in (b"", b".")]
    ups = next((at for at, part in enumerate(parts) if part != b".."), len(parts))
    if ups > depth:
        raise ManifestInvalid(f"symbolic link out of the tree, to {shown}")
    if b".." in parts[ups:]:
        raise ManifestInvalid(f"symbolic link whose target {shown} has '..' after a name")


def _nodes(entries: tuple[Entry, ...]) -> list[ChunkHash]:
    found: list[ChunkHash] = []
    for entry in entries:
        if isinstance(entry.ref, ChunkList):
            found += entry.ref.nodes()
        elif entry.kind is EntryKind.DIRECTORY:
            found.append(ChunkHash(entry.ref))
    return found


def _chunks(entries: tuple[Entry, ...]) -> list[ChunkRef]:
    return [ref for entry in entries if isinstance(entry.ref, ChunkList) for ref in entry.ref.chunks()]


def _check_node(node: Node) -> None:
    match node:
        case ChunkList():
            _check_list(node, MAX_LIST_REFS)
            if not node.refs:
                raise ManifestInvalid("empty chunk list node")
        case RootDirectory():
            _check_root(node)
            _check_entries(node.entries)
        case Directory():
            _check_entries(node.entries)


def _check_root(node: RootDirectory) -> None:
    if node.version != VERSION:
        raise ManifestInvalid(f"manifest of version {node.version}, this release of gridcontrol knows {VERSION}")
    chunking = node.chunking
    if chunking.hash != "sha256" or not 0 < len(chunking.algorithm) <= 64:
        raise ManifestInvalid(f"manifest with unknown hash {chunking.hash[:64]!r}")
    if not 0 < chunking.min_size <= chunking.avg_size <= chunking.max_size <= MAX_CHUNK:
        raise ManifestInvalid("manifest with impossible chunk sizes")
    if not (0 <= node.size <= MAX_SIZE and 0 <= node.files <= MAX_SIZE):
        raise ManifestInvalid("manifest with an impossible total")


def _check_entries(entries: tuple[Entry, ...]) -> None:
    previous = b""
    for entry in entries:
        check_name(entry.name)
        if entry.name <= previous:
            raise ManifestInvalid(f"entry {name_text(entry.name)!r} is out of order or there twice")
        previous = entry.name
        if not _is_sound(entry):
            raise ManifestInvalid(f"entry {name_text(entry.name)!r} contradicts itself")


def _is_sound(entry: Entry) -> bool:
    """Whether kind, size and ref agree."""
    if not 0 <= entry.size <= MAX_SIZE:
        return False
    if isinstance(entry.ref, ChunkList):
        _check_list(entry.ref, MAX_INLINE_REFS)
        return entry.kind in (EntryKind.FILE, EntryKind.EXECUTABLE) and entry.ref.size == entry.size
    if entry.kind is EntryKind.LINK:
        check_target(entry.ref, MAX_DEPTH)
        return entry.size == len(entry.ref)
    return entry.kind is EntryKind.DIRECTORY and len(entry.ref) == HASH_SIZE


def _check_list(chunks: ChunkList, most: int) -> None:
    if not 0 <= chunks.level <= MAX_LEVEL or len(chunks.refs) > most or (chunks.level and not chunks.refs):
        raise ManifestInvalid(f"chunk list of {len(chunks.refs)} at level {chunks.level}")
    longest = MAX_SIZE if chunks.level else MAX_CHUNK
    for ref in chunks.refs:
        if len(ref.hash) != HASH_SIZE or not 0 < ref.length <= longest:
            raise ManifestInvalid(f"chunk list names a chunk of {ref.length} bytes")
