"""Small container images as files, and an engine that holds them in memory."""

import gzip
import hashlib
import io
import json
import random
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from gridctl.saved_image import open_saved
from gridnode.model import Image

Squeeze = Callable[[bytes], bytes]


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def noise(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


def tar(files: Mapping[str, bytes | tarfile.TarInfo]) -> bytes:
    """A tar of files, and of members as they are."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, content in files.items():
            member = content if isinstance(content, tarfile.TarInfo) else tarfile.TarInfo(name)
            if isinstance(content, bytes):
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
            else:
                archive.addfile(member)
    return out.getvalue()


def layer(seed: int, size: int = 300_000) -> bytes:
    return tar({f"file-{seed}": noise(seed, size)})


def config(layers: list[bytes], **more: Any) -> bytes:
    rootfs = {"type": "layers", "diff_ids": [f"sha256:{digest(one)}" for one in layers]}
    return json.dumps({"architecture": "amd64", "os": "linux", "rootfs": rootfs, **more}).encode()


def docker_files(layers: list[bytes], name: str = "app:1", **more: Any) -> dict[str, bytes | tarfile.TarInfo]:
    """As `docker save` of an old engine."""
    about = config(layers, **more)
    paths = [f"{digest(one)}/layer.tar" for one in layers]
    manifest = [{"Config": f"{digest(about)}.json", "RepoTags": [name], "Layers": paths}]
    files: dict[str, bytes | tarfile.TarInfo] = dict(zip(paths, layers, strict=True))
    return files | {f"{digest(about)}.json": about, "manifest.json": json.dumps(manifest).encode()}


def oci_files(layers: list[bytes], squeeze: Squeeze = gzip.compress) -> dict[str, bytes | tarfile.TarInfo]:
    """As an OCI layout of compressed layers, with an attestation beside the image."""
    blobs = [squeeze(one) for one in layers]
    about = config(layers)
    manifest = {
        "schemaVersion": 2,
        "config": {"digest": f"sha256:{digest(about)}"},
        "layers": [{"digest": f"sha256:{digest(blob)}"} for blob in blobs],
    }
    raw = json.dumps(manifest).encode()
    index = {
        "manifests": [
            {"digest": f"sha256:{digest(raw)}", "annotations": {"io.containerd.image.name": "docker.io/library/app:1"}},
            {"digest": f"sha256:{'0' * 64}", "platform": {"os": "unknown", "architecture": "unknown"}},
        ]
    }
    files = {f"blobs/sha256/{digest(one)}": one for one in (*blobs, about, raw)}
    return {**files, "index.json": json.dumps(index).encode(), "oci-layout": b"{}"}


class ImageEngine:
    """An ImageEngine. ids: by name; busy: names that a container uses."""

    def __init__(self) -> None:
        self.ids: dict[str, str] = {}
        self.busy: set[str] = set()
        self.loads = 0
        self.removes = 0
        self.largest = 0

    def close(self) -> None: ...

    async def version(self) -> str:
        return "0, API 0"

    async def has(self, name: str) -> bool:
        return True

    async def holds(self, name: str, image: Image) -> bool:
        if image.id in self.ids.values():
            self.ids[name] = image.id
        return self.ids.get(name) == image.id

    async def load(self, parts: Iterator[bytes]) -> None:
        self.loads += 1
        with tempfile.TemporaryFile() as file:
            for part in parts:
                self.largest = max(self.largest, len(part))
                file.write(part)
            file.flush()
            with open_saved(file) as saved:
                self.ids[saved.tags[0]] = saved.id

    async def remove(self, name: str, image: Image) -> bool:
        self.removes += 1
        if name in self.busy:
            return False
        if self.ids.get(name) == image.id:
            del self.ids[name]
        return True
