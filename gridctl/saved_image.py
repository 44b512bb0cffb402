"""A container image as `docker save` writes it, or an OCI layout in a tar: read once, checked, cut into chunks."""

import contextlib
import gzip
import hashlib
import io
import os
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any, Final, NamedTuple, cast

import zstandard

from gridctl.image_layout import MAX_JSON, Layout, find_layout, plain_path
from gridnode.errors import ImageInvalid, ManifestInvalid
from gridnode.model import ChunkHash
from gridnode.sync.chunk import Chunking, ChunkRef, chunk_hash
from gridnode.sync.cut import cut, cut_stream
from gridnode.sync.image import Layer, config_source, diff_ids, layer_source, manifest_id
from gridnode.sync.tree import Manifest, Source, build

__all__ = ["MAX_SIZE", "SavedImage", "open_saved", "scratch"]

MAX_SIZE: Final = 32 * 1000**3
"""Bytes of an image, uncompressed."""
_MAX_MEMBERS: Final = 10_000
_MAX_HOPS: Final = 8
_SPARE: Final = 512 * 1024**2
"""Bytes of the temporary directory's disk that stay free."""
_PIECE: Final = 1024 * 1024
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_BROKEN = (tarfile.TarError, zlib.error, EOFError, gzip.BadGzipFile, zstandard.ZstdError, UnicodeError, ValueError)

Progress = Callable[[int, int], None]
"""Bytes read so far, bytes in all."""


class Region(NamedTuple):
    """Bytes of an open file."""

    file: IO[bytes]
    offset: int
    size: int


class SavedImage:
    """The image, whose chunks are read again when asked for. id, manifest: as in model.Image."""

    def __init__(self, layout: Layout, tree: Manifest, manifest: str, ingest: "_Ingest") -> None:
        self.id = layout.id
        self.tags = layout.tags
        self.manifest = manifest
        self.tree = tree
        self.layers = len(layout.layers)
        self.chunks = ingest.chunks | {name: len(content) for name, content in tree.nodes.items()}
        self._small = ingest.small | tree.nodes
        self._places = ingest.places

    @property
    def size(self) -> int:
        """Bytes of configuration and layers, uncompressed."""
        return self.tree.size

    def read_chunk(self, chunk: ChunkHash) -> bytes:
        """The bytes of one of `chunks`; ImageInvalid when the file changed meanwhile."""
        if chunk in self._small:
            return self._small[chunk]
        place = self._places[chunk]
        content = os.pread(place.file.fileno(), place.size, place.offset)
        if chunk_hash(content) != chunk:
            raise ImageInvalid("the archive changed while it was being sent", hint="push it again")
        return content


@contextlib.contextmanager
def open_saved(
    file: IO[bytes], limit: int = MAX_SIZE, on_progress: Progress = lambda done, total: None
) -> Iterator[SavedImage]:
    """The image in this file, which may be compressed; ImageInvalid when it is none, is damaged or passes `limit`."""
    with scratch() as spool:
        try:
            saved = _read(file, spool, min(limit, _room()), on_progress)
        except ManifestInvalid as exc:
            raise ImageInvalid(exc.message) from exc
        yield saved


def scratch() -> IO[bytes]:
    """A file that has no name and is gone when closed."""
    return tempfile.TemporaryFile(prefix="gridctl-image-")


def _room() -> int:
    """Bytes that temporary files may take."""
    return max(0, shutil.disk_usage(Path(tempfile.gettempdir())).free - _SPARE)


def _read(file: IO[bytes], spool: IO[bytes], limit: int, on_progress: Progress) -> SavedImage:
    with _unreadable():
        unpacking = _Unpacking(spool, limit)
        archive = _Archive(unpacking.plain(Region(file, 0, os.fstat(file.fileno()).st_size)))
        layout = find_layout(archive.read)
        wanted = diff_ids(layout.config)
        if len(wanted) != len(layout.layers):
            raise ImageInvalid(f"{len(layout.layers)} layers, but the configuration names {len(wanted)}")
        regions = [unpacking.plain(archive.region(path)) for path in layout.layers]
        ingest = _Ingest(sum(region.size for region in regions), on_progress)
        if ingest.total > limit:
            raise ImageInvalid(f"the image has {ingest.total} bytes, at most {limit} are taken", hint="--max-size")
        sources = [ingest.config(layout.config)]
        layers = dict(zip(wanted, regions, strict=True))
        sources += [ingest.layer(diff_id, region) for diff_id, region in layers.items()]
        sizes = [Layer(diff_id, layers[diff_id].size) for diff_id in wanted]
    return SavedImage(layout, build(sources), manifest_id(layout.config, sizes), ingest)


class _Archive:
    """The files of a tar, by path."""

    def __init__(self, region: Region) -> None:
        self._region = region
        self._members: dict[str, tarfile.TarInfo] = {}
        with tarfile.open(fileobj=_window(region), mode="r:") as archive:
            for count, member in enumerate(archive):
                path = plain_path(member.name)
                if count >= _MAX_MEMBERS or path in self._members:
                    raise ImageInvalid(f"the archive has {path[:80]!r} twice, or more than {_MAX_MEMBERS} files")
                if not (member.isreg() or member.isdir() or member.issym() or member.islnk()) or member.issparse():
                    raise ImageInvalid(f"{path[:80]!r} in the archive is no plain file")
                self._members[path] = member

    def region(self, path: str) -> Region:
        """Where a file is, links in the archive followed; ImageInvalid when there is none or it is cut off."""
        member = self._find(path)
        if member is None:
            raise ImageInvalid(f"the archive lacks {path[:80]!r}, which it names itself", hint="save the image again")
        if member.offset_data + member.size > self._region.size:
            raise ImageInvalid("the archive is cut off", hint="save the image again")
        return Region(self._region.file, self._region.offset + member.offset_data, member.size)

    def read(self, path: str) -> bytes | None:
        """A small file's bytes."""
        if self._find(path) is None:
            return None
        region = self.region(path)
        if region.size > MAX_JSON:
            raise ImageInvalid(f"{path[:80]!r} has more than {MAX_JSON} bytes")
        return os.pread(region.file.fileno(), region.size, region.offset)

    def _find(self, path: str) -> tarfile.TarInfo | None:
        for _ in range(_MAX_HOPS):
            member = self._members.get(path)
            if member is None or member.isreg():
                return member
            target = PurePosixPath(path).parent / member.linkname if member.issym() else member.linkname
            path = plain_path(os.path.normpath(target))
        return None


class _Unpacking:
    """Takes compression away, into a file of its own, for no more than `limit` bytes in all."""

    def __init__(self, spool: IO[bytes], limit: int) -> None:
        self._spool = spool
        self._limit = limit

    def plain(self, region: Region) -> Region:
        """The same bytes, uncompressed."""
        magic = os.pread(region.file.fileno(), min(4, region.size), region.offset)
        if magic.startswith(_GZIP):
            return self._unpacked(cast("IO[bytes]", gzip.GzipFile(fileobj=_window(region))))
        if magic.startswith(_ZSTD):
            reader = zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(
                _window(region), read_across_frames=True
            )
            return self._unpacked(cast("IO[bytes]", reader))
        return region

    def _unpacked(self, stream: IO[bytes]) -> Region:
        offset = self._spool.seek(0, io.SEEK_END)
        end = offset
        while piece := stream.read(_PIECE):
            end += len(piece)
            if end > self._limit:
                raise ImageInvalid(
                    f"unpacked, the image takes more than {self._limit} bytes",
                    hint="--max-size allows more; TMPDIR says where it is unpacked",
                )
            self._spool.write(piece)
        self._spool.flush()
        return Region(self._spool, offset, end - offset)


class _Ingest:
    """Cuts what is read, keeping where each chunk lies. total: bytes of layers."""

    def __init__(self, total: int, on_progress: Progress) -> None:
        self.total = total
        self.chunks: dict[ChunkHash, int] = {}
        self.small: dict[ChunkHash, bytes] = {}
        self.places: dict[ChunkHash, Region] = {}
        self._done = 0
        self._on_progress = on_progress

    def config(self, content: bytes) -> Source:
        refs = []
        for offset, length in cut(content):
            piece = content[offset : offset + length]
            refs.append(self._ref(piece))
            self.small[refs[-1].hash] = piece
        return config_source(refs)

    def layer(self, diff_id: str, region: Region) -> Source:
        """ImageInvalid when the layer is another than the configuration names."""
        digest = hashlib.sha256()
        refs: list[ChunkRef] = []
        offset = region.offset
        for piece in cut_stream(_Window(region), Chunking()) if region.size else ():
            digest.update(piece)
            refs.append(self._ref(piece))
            self.places.setdefault(refs[-1].hash, Region(region.file, offset, len(piece)))
            offset += len(piece)
            self._done += len(piece)
            self._on_progress(self._done, self.total)
        if digest.hexdigest() != diff_id:
            raise ImageInvalid(f"layer {diff_id[:12]} is damaged: it has another hash", hint="save the image again")
        return layer_source(diff_id, refs)

    def _ref(self, piece: bytes | memoryview) -> ChunkRef:
        ref = ChunkRef(chunk_hash(piece), len(piece))
        self.chunks[ref.hash] = ref.length
        return ref


class _Window(io.RawIOBase):
    """A region as a file."""

    def __init__(self, region: Region) -> None:
        self._region = region
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._region.size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer)[: max(0, self._region.size - self._at)]
        count = os.preadv(self._region.file.fileno(), [view], self._region.offset + self._at) if view else 0
        self._at += count
        return count


def _window(region: Region) -> IO[bytes]:
    return cast("IO[bytes]", io.BufferedReader(_Window(region), _PIECE))


@contextlib.contextmanager
def _unreadable() -> Iterator[None]:
    """ImageInvalid for what the libraries say of garbage, and for a disk that is full."""
    try:
        yield
    except _BROKEN as exc:
        hint = "make the file with `docker save IMAGE -o FILE`"
        raise ImageInvalid(f"no container image, or a damaged one: {exc}", hint=hint) from exc
    except OSError as exc:
        hint = "TMPDIR says where images are unpacked"
        raise ImageInvalid(f"cannot read the image: {exc.strerror or exc}", hint=hint) from exc
