"""Saved images: whatever made them, the same tree; damaged and hostile ones are refused."""

import gzip
import json
import tarfile
import tempfile
from collections.abc import Callable
from typing import Any

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gridctl import saved_image
from gridctl.saved_image import SavedImage, open_saved
from gridnode.errors import ImageInvalid
from tests.fakes.images import config, digest, docker_files, layer, oci_files, tar

LAYERS = [layer(1), layer(2)]


def opened(content: bytes, limit: int = saved_image.MAX_SIZE) -> SavedImage:
    with tempfile.TemporaryFile() as file:
        file.write(content)
        file.flush()
        with open_saved(file, limit) as saved:
            for chunk, length in saved.chunks.items():
                assert len(saved.read_chunk(chunk)) == length
            return saved


def refused(content: bytes, limit: int = saved_image.MAX_SIZE) -> ImageInvalid:
    with pytest.raises(ImageInvalid) as caught:
        opened(content, limit)
    return caught.value


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


def test_an_image_of_docker_save() -> None:
    saved = opened(tar(docker_files(LAYERS)))
    assert saved.id == digest(config(LAYERS))
    assert (saved.tags, saved.layers) == (["app:1"], 2)
    assert saved.size == len(config(LAYERS)) + sum(map(len, LAYERS))


@pytest.mark.parametrize("squeeze", [gzip.compress, zstandard.compress, bytes], ids=["gzip", "zstd", "plain"])
def test_compression_and_format_change_nothing(squeeze: Callable[[bytes], bytes]) -> None:
    plain = opened(tar(docker_files(LAYERS)))
    for content in (tar(oci_files(LAYERS, squeeze)), squeeze(tar(docker_files(LAYERS)))):
        saved = opened(content)
        assert (saved.id, saved.manifest, saved.tree.root) == (plain.id, plain.manifest, plain.tree.root)
        assert saved.chunks == plain.chunks


def test_images_share_what_they_have_in_common() -> None:
    first, second = opened(tar(docker_files(LAYERS))), opened(tar(docker_files([LAYERS[0], layer(3)])))
    new = sum(length for chunk, length in second.chunks.items() if chunk not in first.chunks)
    assert len(LAYERS[1]) <= new < len(LAYERS[1]) * 1.1


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_one_layer_twice_may_be_a_link(kind: bytes) -> None:
    files = docker_files([LAYERS[0], LAYERS[0]])
    path = f"{digest(LAYERS[0])}/layer.tar"
    target = f"../{path}" if kind == tarfile.SYMTYPE else path
    files["other/layer.tar"] = link("other/layer.tar", target, kind)
    manifest = json.loads(bytes(files["manifest.json"]))  # type: ignore[arg-type]
    manifest[0]["Layers"][1] = "other/layer.tar"
    files["manifest.json"] = json.dumps(manifest).encode()
    assert opened(tar(files)).layers == 2


def changed(**fields: Any) -> bytes:
    """The archive with other fields in its manifest.json."""
    files = docker_files(LAYERS)
    manifest = json.loads(bytes(files["manifest.json"]))  # type: ignore[arg-type]
    manifest[0] |= fields
    return tar(files | {"manifest.json": json.dumps(manifest).encode()})


def with_file(name: str, member: bytes | tarfile.TarInfo) -> bytes:
    return tar(docker_files(LAYERS) | {name: member})


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (changed(Layers=["../../etc/passwd", "x"]), "leads out"),
        (changed(Layers=["/etc/passwd", "x"]), "leads out"),
        (changed(Config="../../etc/passwd"), "leads out"),
        (changed(Layers=["nowhere/layer.tar", "nowhere"]), "lacks"),
        (changed(Config="nowhere.json"), "lacks"),
        (changed(Layers=[]), "0 layers"),
        (changed(Layers=[f"{digest(one)}/layer.tar" for one in reversed(LAYERS)]), "damaged"),
        (changed(Layers=3), "malformed"),
        (with_file("../evil", b"x"), "leads out"),
        (with_file("/evil", b"x"), "leads out"),
        (with_file("fifo", link("fifo", "", tarfile.FIFOTYPE)), "no plain file"),
        (with_file("device", link("device", "", tarfile.CHRTYPE)), "no plain file"),
        (tar({"manifest.json": b"[]"}), "0 images"),
        (tar({"manifest.json": b"{"}), "malformed"),
        (tar({"manifest.json": b"[" * 100_000}), "malformed"),
        (tar({"index.json": b'{"manifests": []}'}), "0 images"),
        (tar({"index.json": b'{"manifests": [{"digest": "md5:0"}]}'}), "unknown digest"),
        (tar({"else": b"x"}), "no container image"),
        (b"", "no container image"),
        (b"garbage" * 1000, "no container image"),
        (gzip.compress(b"garbage" * 1000)[:-9], "no container image"),
        (tar(docker_files([b"x" * 600]))[:1500], "unexpected end"),
    ],
)
def test_what_is_no_image_is_refused(content: bytes, why: str) -> None:
    assert why in refused(content).message


def test_links_that_lead_out_or_round() -> None:
    for target in ("../../etc/passwd", "/etc/passwd", "loop"):
        files = docker_files([LAYERS[0]])
        path = f"{digest(LAYERS[0])}/layer.tar"
        files[path] = link(path, target if target != "loop" else "layer.tar")
        refused(tar(files))


@pytest.mark.parametrize("files", [docker_files(LAYERS), oci_files(LAYERS)], ids=["docker", "oci"])
def test_a_flipped_bit_is_found(files: dict[str, bytes | tarfile.TarInfo]) -> None:
    for name, content in files.items():
        if isinstance(content, bytes) and len(content) > 1000:
            damaged = bytearray(content)
            damaged[len(damaged) // 2] ^= 1
            refused(tar(files | {name: bytes(damaged)}))


def test_a_bomb_is_stopped_at_the_limit() -> None:
    bomb = gzip.compress(bytes(50_000_000))
    assert "more than 1000000 bytes" in refused(bomb, 1_000_000).message
    assert "more than 1000000 bytes" in refused(tar(oci_files([bytes(50_000_000)])), 1_000_000).message
    assert "at most 100000" in refused(tar(docker_files(LAYERS)), 100_000).message


def test_a_file_that_changes_meanwhile() -> None:
    with tempfile.TemporaryFile() as file:
        file.write(tar(docker_files(LAYERS)))
        file.flush()
        with open_saved(file) as saved:
            file.seek(0)
            file.write(bytes(1_000_000))
            file.flush()
            chunk = next(chunk for chunk in saved.chunks if saved.chunks[chunk] > 100_000)
            with pytest.raises(ImageInvalid, match="changed"):
                saved.read_chunk(chunk)


@given(st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_garbage_is_an_image_or_is_refused(drawn: st.DataObject) -> None:
    files = docker_files([b"small layer"]) if drawn.draw(st.booleans()) else oci_files([b"small layer"])
    raw = bytearray(tar(files))
    for _ in range(drawn.draw(st.integers(1, 8))):
        raw[drawn.draw(st.integers(0, len(raw) - 1))] = drawn.draw(st.integers(0, 255))
    content = bytes(raw[: drawn.draw(st.integers(0, len(raw)))])
    try:
        saved = opened(content)
    except ImageInvalid:
        return
    assert saved.id == digest(config([b"small layer"]))


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20) | st.just("../x") | st.just("sha256:" + "0" * 64),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["Config", "Layers", "RepoTags", "manifests", "digest", "config", "layers", "mediaType"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(_json, st.sampled_from(["manifest.json", "index.json"]))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_json_is_refused(value: Any, name: str) -> None:
    refused(tar({name: json.dumps(value).encode()}))
