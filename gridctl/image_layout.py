"""What a saved image says of itself: which of the archive's files are its configuration and its layers."""

import hashlib
import re
from collections.abc import Callable
from typing import Any, Final, NamedTuple, TypeVar

import msgspec

from gridnode.errors import ImageInvalid

__all__ = ["MAX_JSON", "Layout", "Read", "find_layout", "plain_path"]

T = TypeVar("T")
MAX_JSON: Final = 4 * 1024 * 1024
"""Bytes of any file that is parsed."""
_MAX_PATH: Final = 1024
_DIGEST: Final = re.compile(r"sha256:([0-9a-f]{64})")
_NAMED: Final = re.compile(r"(?:.*/)?([0-9a-f]{64})(?:\.json)?")
_NAMES: Final = ("io.containerd.image.name", "org.opencontainers.image.ref.name")
_DEPTH: Final = 3

Read = Callable[[str], bytes | None]
"""A file of the archive by its path, MAX_JSON at most; None when there is none."""


class Layout(NamedTuple):
    """config: its bytes; layers: paths in the archive, lowest first; tags: references that the archive gives it."""

    config: bytes
    layers: list[str]
    tags: list[str]

    @property
    def id(self) -> str:
        """SHA-256 of the configuration, hex."""
        return hashlib.sha256(self.config).hexdigest()


class _Saved(msgspec.Struct, rename="pascal"):
    """One image in manifest.json, which `docker save` writes."""

    config: str
    layers: list[str]
    repo_tags: list[str] | None = None


class _Blob(msgspec.Struct, rename="camel"):
    digest: str
    media_type: str = ""
    annotations: dict[str, str] = {}
    platform: dict[str, Any] = {}


class _Index(msgspec.Struct):
    """Of an OCI layout."""

    manifests: list[_Blob]


class _Manifest(msgspec.Struct):
    config: _Blob
    layers: list[_Blob]


def find_layout(read: Read) -> Layout:
    """The one image of the archive; ImageInvalid says why it cannot be told."""
    saved = read("manifest.json")
    if saved is not None:
        return _docker_layout(_decode(saved, list[_Saved], "manifest.json"), read)
    index = read("index.json")
    if index is not None:
        return _oci_layout(index, read)
    raise ImageInvalid(
        "no container image: it has neither manifest.json nor index.json",
        hint="make the file with `docker save IMAGE -o FILE`",
    )


def plain_path(name: str) -> str:
    """A path of the archive without `./`; ImageInvalid for one that leads out of it."""
    path = name.removeprefix("./").rstrip("/")
    parts = path.split("/")
    if len(name) > _MAX_PATH or name.startswith("/") or "\0" in name or ".." in parts or (path and "" in parts):
        raise ImageInvalid(f"the archive names the path {name[:80]!r}, which leads out of it")
    return path


def _docker_layout(images: list[_Saved], read: Read) -> Layout:
    if len(images) != 1:
        raise ImageInvalid(f"the archive holds {len(images)} images, expected one", hint="`docker save` one at a time")
    image = images[0]
    layout = Layout(
        _needed(read, plain_path(image.config)), [plain_path(path) for path in image.layers], image.repo_tags or []
    )
    named = _NAMED.fullmatch(image.config)
    if named and named[1] != layout.id:
        raise ImageInvalid(f"the configuration {image.config[:80]} is damaged: it has the hash {layout.id[:12]}")
    return layout


def _oci_layout(index: bytes, read: Read) -> Layout:
    names: list[str] = []
    raw = index
    for _ in range(_DEPTH):
        blob = _only(_decode(raw, _Index, "index.json").manifests)
        names += [blob.annotations[key] for key in _NAMES if key in blob.annotations]
        raw = _blob(read, blob)
        if "index" not in blob.media_type and "list" not in blob.media_type:
            manifest = _decode(raw, _Manifest, blob.digest)
            layers = [_blob_path(layer) for layer in manifest.layers]
            return Layout(_blob(read, manifest.config), layers, names[:1])
    raise ImageInvalid("the archive's index.json is nested too deep")


def _only(blobs: list[_Blob]) -> _Blob:
    """The one image, attestations aside."""
    images = [blob for blob in blobs if blob.platform.get("os") != "unknown"]
    if len(images) != 1:
        platforms = ", ".join(sorted(str(blob.platform.get("architecture", "?"))[:20] for blob in images[:10]))
        hint = f"save one platform alone; it has {platforms}" if platforms else None
        raise ImageInvalid(f"the archive holds {len(images)} images, expected one", hint=hint)
    return images[0]


def _blob_path(blob: _Blob) -> str:
    found = _DIGEST.fullmatch(blob.digest)
    if found is None:
        raise ImageInvalid(f"unknown digest {blob.digest[:80]!r}")
    return f"blobs/sha256/{found[1]}"


def _blob(read: Read, blob: _Blob) -> bytes:
    path = _blob_path(blob)
    content = _needed(read, path)
    if hashlib.sha256(content).hexdigest() != path[-64:]:
        raise ImageInvalid(f"{path} is damaged: it does not have the hash it is named by")
    return content


def _needed(read: Read, path: str) -> bytes:
    content = read(path)
    if content is None:
        raise ImageInvalid(f"the archive lacks {path[:80]!r}, which it names itself", hint="save the image again")
    return content


def _decode(content: bytes, kind: type[T], what: str) -> T:
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.MsgspecError, RecursionError, ValueError) as exc:
        raise ImageInvalid(f"{what[:80]} is malformed: {exc}", hint="save the image again") from exc
