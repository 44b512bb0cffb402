"""What the average chunk size costs and saves: bytes that an edit sends, chunks, tree and index bytes, CPU."""

import random
import statistics
import sysconfig
import time
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from benchmarks._table import Measure, Report, parser
from gridnode.model import ChunkHash
from gridnode.sync.chunk import Chunking, ChunkRef, chunk_hash, encode
from gridnode.sync.cut import cut
from gridnode.sync.manifest import EntryKind
from gridnode.sync.pack import OVERHEAD
from gridnode.sync.tree import Manifest, Source, build

KB = 1024
MB = 1024 * KB
AVERAGES = (8 * KB, 16 * KB, 32 * KB, 64 * KB, 128 * KB, 256 * KB)
INDEX_ROW = 110
"""Bytes of the index a chunk, both of its B-trees, as seen in a store of a million."""
Files = dict[str, bytes]


class Cost(NamedTuple):
    """Of one corpus. chunks, stored: at first; tree: bytes of all its nodes; sent, nodes: what the edit makes new."""

    chunks: int
    stored: int
    tree: int
    sent: int
    nodes: int
    cpu: float


def site_packages(limit: int) -> Files:
    """Files of this interpreter's packages, in order, until there are `limit` bytes."""
    top = Path(sysconfig.get_path("purelib"))
    found: Files = {}
    size = 0
    for path in sorted(top.rglob("*")):
        if path.is_file() and not path.is_symlink() and "__pycache__" not in path.parts:
            content = path.read_bytes()
            size += len(content)
            if size > limit:
                break
            found[str(path.relative_to(top))] = content
    return found


def edited_files(files: Files, chance: random.Random) -> Files:
    """A line is put into one file in fifty, wherever it may be: what an update of some packages does."""
    after = dict(files)
    for path in chance.sample(sorted(files), max(1, len(files) // 50)):
        after[path] = spliced(files[path], 1, chance)
    return after


def spliced(content: bytes, edits: int, chance: random.Random) -> bytes:
    """With so many insertions of up to 100 bytes."""
    places = sorted(chance.randrange(len(content) + 1) for _ in range(edits))
    parts, last = [], 0
    for place in places:
        parts += [content[last:place], chance.randbytes(chance.randrange(1, 100))]
        last = place
    return b"".join([*parts, content[last:]])


def corpora(limit: int) -> Iterator[tuple[str, Files, Files]]:
    """(name, before, after)."""
    chance = random.Random(1)
    packages = site_packages(limit)
    yield "packages, 1 file in 50 edited", packages, edited_files(packages, chance)
    blob = chance.randbytes(limit // 2)
    yield f"one file of {len(blob) // MB} MB, 100 edits", {"blob": blob}, {"blob": spliced(blob, 100, chance)}
    layer = b"".join(packages.values())
    yield f"a layer of {len(layer) // MB} MB, 100 edits", {"layer": layer}, {"layer": spliced(layer, 100, chance)}


def chunked(files: Files, chunking: Chunking, sizes: dict[ChunkHash, int]) -> Manifest:
    """The tree; `sizes` gains the encoded bytes of every chunk that is new to it."""
    sources = []
    for path, content in files.items():
        view, refs = memoryview(content), []
        for offset, length in cut(content, chunking) if len(content) > chunking.min_size else [(0, len(content))]:
            piece = view[offset : offset + length]
            name = chunk_hash(piece)
            if length and name not in sizes:
                sizes[name] = len(encode(bytes(piece)).payload)
            if length:
                refs.append(ChunkRef(name, length))
        sources.append(Source(tuple(path.split("/")), EntryKind.FILE, tuple(refs)))
    return build(sources, chunking)


def cost(before: Files, after: Files, average: int, rounds: int) -> Cost:
    chunking = Chunking(min_size=average // 4, avg_size=average, max_size=average * 4)
    seconds = []
    for _ in range(rounds):
        sizes: dict[ChunkHash, int] = {}
        started = time.process_time()
        first = chunked(before, chunking, sizes)
        seconds.append(time.process_time() - started)
    chunks, stored = len(sizes), sum(sizes.values())
    second = chunked(after, chunking, sizes)
    nodes = sum(len(node) for name, node in second.nodes.items() if name not in first.nodes)
    tree = sum(map(len, first.nodes.values()))
    return Cost(chunks, stored, tree, sum(sizes.values()) - stored, nodes, statistics.median(seconds))


def run(arguments: Namespace) -> Report:
    report = Report("chunks")
    for name, before, after in corpora(arguments.size * MB):
        size = sum(map(len, before.values()))
        for average in AVERAGES:
            found = cost(before, after, average, arguments.rounds)
            if average == Chunking().avg_size:
                report.measures.append(Measure(f"{name}: sent", (found.sent + found.nodes) / 1000, "KB"))
            report.details.append(
                {
                    "corpus": name,
                    "average KiB": average // KB,
                    "chunks": found.chunks,
                    "stored %": 100 * found.stored / size,
                    "edit sends KB": found.sent / 1000,
                    "and tree KB": found.nodes / 1000,
                    "tree, index, headers %": 100 * (found.tree + found.chunks * (OVERHEAD + INDEX_ROW)) / size,
                    "CPU s": found.cpu,
                }
            )
    report.notes.append("sends: compressed bytes of new chunks; min and max are a quarter and four times the average")
    return report


if __name__ == "__main__":
    options = parser(__doc__, rounds=1)
    options.add_argument("--size", type=int, default=160, metavar="MB", help="of each corpus, about")
    arguments = options.parse_args()
    run(arguments).print(arguments.json)
