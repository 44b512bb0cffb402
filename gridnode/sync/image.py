"""Container images as trees of chunks, and the archive that a container engine loads them from.

An image's tree holds `config` and `layers/<diff id>`, each layer an uncompressed tar: that way images share what they
have in common whatever built them. The archive is an OCI layout and a `docker save` at once, byte for byte the same
everywhere, so that it is known beforehand under which id an engine will have the image.
"""

import hashlib
import re
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

import msgspec

from gridnode.errors import ManifestInvalid
from gridnode.model import ChunkHash, Image
from gridnode.sync.chunk import ChunkRef
from gridnode.sync.manifest import ChunkList, Entry, EntryKind
from gridnode.sync.tree import Bounds, Get, Source, iter_chunks, iter_files

__all__ = [
    "CONFIG",
    "Layer",
    "archive",
    "config_source",
    "diff_ids",
    "layer_source",
    "manifest_id",
]

CONFIG: Final = "config"
_LAYERS: Final = "layers"
MAX_CONFIG: Final = 4 * 1024 * 1024
MAX_LAYERS: Final = 256
_BOUNDS: Final = Bounds(entries=MAX_LAYERS + 2, depth=1)
_BLOCK: Final = 512
_DIGEST: Final = re.compile(r"sha256:([0-9a-f]{64})")
_OCI: Final = "application/vnd.oci.image"


class Layer(NamedTuple):
    """diff_id: SHA-256 of the uncompressed tar, hex; size: its bytes."""

    diff_id: str
    size: int


class _RootFs(msgspec.Struct):
    type: str
    diff_ids: list[str]


class _Config(msgspec.Struct):
    rootfs: _RootFs


_decode_config = msgspec.json.Decoder(_Config).decode


def diff_ids(config: bytes) -> list[str]:
    """The layers that an image's configuration names, lowest first, in hex; ManifestInvalid."""
    if len(config) > MAX_CONFIG:
        raise ManifestInvalid(f"the image's configuration has more than {MAX_CONFIG} bytes")
    try:
        rootfs = _decode_config(config).rootfs
    except (msgspec.MsgspecError, RecursionError, ValueError) as exc:
        raise ManifestInvalid(f"the image's configuration is malformed: {exc}") from exc
    found = [_DIGEST.fullmatch(text) for text in rootfs.diff_ids]
    if rootfs.type != "layers" or not 0 < len(found) <= MAX_LAYERS or None in found:
        raise ManifestInvalid(f"the image's configuration does not name 1 to {MAX_LAYERS} layers")
    return [match[1] for match in found if match]


def config_source(refs: Iterable[ChunkRef]) -> Source:
    """The tree's entry for the configuration."""
    return Source((CONFIG,), EntryKind.FILE, tuple(refs))


def layer_source(diff_id: str, refs: Iterable[ChunkRef]) -> Source:
    """The tree's entry for a layer."""
    return Source((_LAYERS, diff_id), EntryKind.FILE, tuple(refs))


def manifest_id(config: bytes, layers: Sequence[Layer]) -> str:
    """SHA-256 of the image's OCI manifest in the archive, hex: its id where the engine keeps images in containerd."""
    return hashlib.sha256(_manifest(config, layers)).hexdigest()


def archive(name: str, image: Image, get: Get) -> Iterator[bytes]:
    """The archive piece by piece, none larger than a chunk; ManifestInvalid when the tree is not that image's."""
    files = _files(image, get)
    config = _read(files[CONFIG], get)
    layers = [Layer(one, _layer(files, one).size) for one in diff_ids(config)]
    manifest = _manifest(config, layers)
    if hashlib.sha256(config).hexdigest() != image.id or hashlib.sha256(manifest).hexdigest() != image.manifest:
        raise ManifestInvalid(f"the tree of image {name} holds another image than its document says")
    for path, content in _metadata(name, image, layers, manifest).items():
        yield from _packed(path, len(content), [content])
    yield from _packed(_blob(image.id), len(config), [config])
    for layer in dict.fromkeys(layers):
        yield from _packed(_blob(layer.diff_id), layer.size, _content(_layer(files, layer.diff_id), get))
    yield bytes(2 * _BLOCK)


def _files(image: Image, get: Get) -> dict[str, Entry]:
    """The tree's files; ManifestInvalid without a configuration."""
    files = {path: entry for path, entry in iter_files(image.root, get, _BOUNDS) if isinstance(entry.ref, ChunkList)}
    if CONFIG not in files or files[CONFIG].size > MAX_CONFIG:
        raise ManifestInvalid("the tree of an image has no configuration")
    return files


def _layer(files: Mapping[str, Entry], diff_id: str) -> Entry:
    entry = files.get(f"{_LAYERS}/{diff_id}")
    if entry is None:
        raise ManifestInvalid(f"the tree of an image lacks its layer {diff_id[:12]}")
    return entry


def _content(entry: Entry, get: Get) -> Iterator[bytes]:
    if isinstance(entry.ref, ChunkList):
        for ref in iter_chunks(entry.ref, get):
            chunk = get(ChunkHash(ref.hash))
            if len(chunk) != ref.length:
                raise ManifestInvalid(f"chunk {ref.hash.hex()} has {len(chunk)} bytes, {ref.length} stated")
            yield chunk


def _read(entry: Entry, get: Get) -> bytes:
    return b"".join(_content(entry, get))


def _packed(path: str, size: int, content: Iterator[bytes] | Sequence[bytes]) -> Iterator[bytes]:
    """One file of a tar."""
    header = tarfile.TarInfo(path)
    header.size, header.mode = size, 0o444
    yield header.tobuf(tarfile.GNU_FORMAT)
    yield from content
    yield bytes(-size % _BLOCK)


def _blob(digest: str) -> str:
    return f"blobs/sha256/{digest}"


def _manifest(config: bytes, layers: Sequence[Layer]) -> bytes:
    """The OCI manifest."""
    about = {
        "mediaType": f"{_OCI}.config.v1+json",
        "digest": f"sha256:{hashlib.sha256(config).hexdigest()}",
        "size": len(config),
    }
    rows = [
        {"mediaType": f"{_OCI}.layer.v1.tar", "digest": f"sha256:{layer.diff_id}", "size": layer.size}
        for layer in layers
    ]
    manifest = {"schemaVersion": 2, "mediaType": f"{_OCI}.manifest.v1+json", "config": about, "layers": rows}
    return msgspec.json.encode(manifest)


def _metadata(name: str, image: Image, layers: Sequence[Layer], manifest: bytes) -> dict[str, bytes]:
    """Every file but configuration and layers, by path."""
    annotations = {"io.containerd.image.name": _qualified(name), "org.opencontainers.image.ref.name": name}
    described = {
        "mediaType": f"{_OCI}.manifest.v1+json",
        "digest": f"sha256:{image.manifest}",
        "size": len(manifest),
        "annotations": annotations,
    }
    saved = {"Config": _blob(image.id), "RepoTags": [name], "Layers": [_blob(layer.diff_id) for layer in layers]}
    index = {"schemaVersion": 2, "mediaType": f"{_OCI}.index.v1+json", "manifests": [described]}
    return {
        "oci-layout": b'{"imageLayoutVersion":"1.0.0"}',
        "index.json": msgspec.json.encode(index),
        "manifest.json": msgspec.json.encode([saved]),
        _blob(image.manifest): manifest,
    }


def _qualified(name: str) -> str:
    """With the registry that a short name stands for, as containerd wants it."""
    first, slash, _ = name.partition("/")
    if slash and (first == "localhost" or "." in first or ":" in first):
        return name
    return f"docker.io/{name}" if slash else f"docker.io/library/{name}"
