"""Images as trees and archives."""

import io
import json
import tarfile
import tempfile

import pytest
from msgspec.structs import replace

from gridctl.saved_image import open_saved
from gridnode.errors import ChunkMissing, ManifestInvalid
from gridnode.model import ChunkHash, Image
from gridnode.sync.image import archive, diff_ids
from tests.fakes.images import config, digest, docker_files, layer, oci_files, tar

LAYERS = [layer(1), layer(2), b"x" * 100]


class Held:
    """The chunks of an image as a node holds them."""

    def __init__(self, files: dict[str, bytes | tarfile.TarInfo]) -> None:
        with tempfile.TemporaryFile() as file:
            file.write(tar(files))
            file.flush()
            with open_saved(file) as saved:
                self.chunks = {chunk: saved.read_chunk(chunk) for chunk in saved.chunks}
                self.image = Image(saved.id, saved.manifest, saved.tree.root, saved.size, 0)

    def get(self, chunk: ChunkHash) -> bytes:
        if chunk not in self.chunks:
            raise ChunkMissing(chunk.hex())
        return self.chunks[chunk]


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{}",
        b"[" * 100_000,
        b'{"rootfs": {"type": "layers", "diff_ids": []}}',
        b'{"rootfs": {"type": "other", "diff_ids": ["sha256:' + b"0" * 64 + b'"]}}',
        b'{"rootfs": {"type": "layers", "diff_ids": ["sha256:../../x"]}}',
        json.dumps({"rootfs": {"type": "layers", "diff_ids": ["sha256:" + "0" * 64] * 257}}).encode(),
        b" " * (4 * 1024 * 1024 + 1),
    ],
)
def test_configurations_that_name_no_layers(raw: bytes) -> None:
    with pytest.raises(ManifestInvalid):
        diff_ids(raw)


def test_the_archive_holds_the_image_for_every_kind_of_engine() -> None:
    held = Held(oci_files(LAYERS))
    parts = list(archive("team/app:1", held.image, held.get))
    assert max(map(len, parts)) <= 4 * 1024 * 1024
    with tarfile.open(fileobj=io.BytesIO(b"".join(parts))) as file:
        files = {member.name: (file.extractfile(member) or io.BytesIO()).read() for member in file}
    saved = json.loads(files["manifest.json"])[0]
    assert saved["RepoTags"] == ["team/app:1"]
    assert files[saved["Config"]] == config(LAYERS)
    assert [files[path] for path in saved["Layers"]] == LAYERS
    described = json.loads(files["index.json"])["manifests"][0]
    assert described["annotations"]["io.containerd.image.name"] == "docker.io/team/app:1"
    manifest = files["blobs/sha256/" + described["digest"].removeprefix("sha256:")]
    assert digest(manifest) == held.image.manifest
    rows = json.loads(manifest)["layers"]
    assert [(row["digest"], row["size"]) for row in rows] == [(f"sha256:{digest(one)}", len(one)) for one in LAYERS]


def test_one_layer_twice_is_there_once() -> None:
    held = Held(docker_files([LAYERS[0], LAYERS[0]]))
    content = b"".join(archive("app:1", held.image, held.get))
    assert content.count(LAYERS[0]) == 1
    assert content.count(f'blobs/sha256/{digest(LAYERS[0])}"'.encode()) == 2


def test_a_tree_of_another_image_is_refused() -> None:
    held, other = Held(docker_files(LAYERS)), Held(docker_files([layer(9)]))
    held.chunks |= other.chunks
    for image in (
        replace(held.image, id=other.image.id),
        replace(held.image, manifest=other.image.manifest),
        replace(held.image, root=other.image.root),
    ):
        with pytest.raises(ManifestInvalid):
            list(archive("app:1", image, held.get))


def test_a_chunk_that_is_gone_is_said() -> None:
    held = Held(docker_files(LAYERS))
    del held.chunks[next(chunk for chunk, content in held.chunks.items() if len(content) > 100_000)]
    with pytest.raises(ChunkMissing):
        list(archive("app:1", held.image, held.get))
