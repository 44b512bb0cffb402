"""The images adapter against an engine that answers as told; integration/test_images.py has the real one."""

import asyncio
import json
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from gridnode.errors import EngineUnavailable, SandboxError, SyncError
from gridnode.model import Image, Root
from gridnode.sandbox.docker_images import DockerImages
from tests.fakes.peers import until

IMAGE = Image("a" * 64, "b" * 64, Root("c" * 64), 1, 0)
BY_ID = f"sha256:{IMAGE.id}"
GONE = (404, {"message": "No such image"})


class Engine:
    """Speaks just enough HTTP. answers: by method and path; asked: what was; loaded: bytes of the last load."""

    def __init__(self, directory: Path) -> None:
        self.path = str(directory / "engine.sock")
        self.answers: dict[str, tuple[int, Any]] = {"GET /version": (200, {"ApiVersion": "1.41"})}
        self.asked: list[str] = []
        self.loaded = b""
        self.away = False

    def has(self, name: str, id: str, tags: list[str]) -> None:
        self.answers[f"GET /v1.41/images/{name}/json"] = (200, {"Id": id, "RepoTags": tags})

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while not self.away and (head := await reader.readuntil(b"\r\n\r\n")):
                method, target = head.split(b" ")[:2]
                asked = f"{method.decode()} {target.decode().partition('?')[0]}".replace("%3A", ":")
                self.asked.append(asked)
                if b"chunked" in head.lower():
                    self.loaded = await self._body(reader)
                status, body = self.answers.get(asked, GONE)
                raw = body if isinstance(body, bytes) else json.dumps(body).encode()
                writer.write(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n" % (status, len(raw)) + raw)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _body(self, reader: asyncio.StreamReader) -> bytes:
        body = b""
        while size := int(await reader.readline(), 16):
            body += (await reader.readexactly(size + 2))[:-2]
        await reader.readline()
        return body


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    directory = Path(tempfile.mkdtemp(prefix="grid-", dir="/tmp"))
    engine = Engine(directory)
    server = await asyncio.start_unix_server(engine.serve, engine.path)
    yield engine
    server.close()
    shutil.rmtree(directory)


@pytest.fixture
async def images(engine: Engine) -> AsyncIterator[DockerImages]:
    images = DockerImages(f"unix://{engine.path}", timeout=5)
    yield images
    await asyncio.to_thread(images.close)


async def test_what_it_is_and_whether_it_has_an_image(engine: Engine, images: DockerImages) -> None:
    engine.answers["GET /v1.41/version"] = (200, {"Version": "20.10.24", "ApiVersion": "1.41"})
    engine.has("app:1", "sha256:x", ["app:1"])
    assert await images.version() == "20.10.24, API 1.41"
    assert [await images.has("app:1"), await images.has("app:2")] == [True, False]


@pytest.mark.parametrize("digest", [IMAGE.id, IMAGE.manifest], ids=["classic", "containerd"])
async def test_it_holds_what_has_the_id(engine: Engine, images: DockerImages, digest: str) -> None:
    assert not await images.holds("app:1", IMAGE)
    engine.has("app:1", f"sha256:{digest}", ["app:1"])
    assert await images.holds("app:1", IMAGE)


async def test_an_image_of_another_name_gets_this_one_too(engine: Engine, images: DockerImages) -> None:
    engine.has("app:1", "sha256:" + "f" * 64, ["app:1"])
    assert not await images.holds("app:1", IMAGE)
    engine.has(BY_ID, BY_ID, ["other:1"])
    engine.answers[f"POST /v1.41/images/{BY_ID}/tag"] = (201, b"")
    assert await images.holds("app:1", IMAGE)
    assert engine.asked[-1] == f"POST /v1.41/images/{BY_ID}/tag"


async def test_an_archive_is_streamed(engine: Engine, images: DockerImages) -> None:
    engine.answers["POST /v1.41/images/load"] = (200, b'{"stream":"Loaded image: app:1"}\r\n')
    await images.load(iter([b"abc", b"", b"d" * 100_000]))
    assert engine.loaded == b"abc" + b"d" * 100_000


@pytest.mark.parametrize(
    "answer",
    [
        (200, b'{"stream":"Loading"}\r\n{"errorDetail":{"message":"bad"},"error":"invalid diffID"}\r\n'),
        (500, {"message": "invalid diffID"}),
    ],
)
async def test_an_archive_that_is_refused(engine: Engine, images: DockerImages, answer: tuple[int, Any]) -> None:
    engine.answers["POST /v1.41/images/load"] = answer
    with pytest.raises(SandboxError, match="invalid diffID"):
        await images.load(iter([b"abc"]))


async def test_garbage_in_the_answer_is_passed_over(engine: Engine, images: DockerImages) -> None:
    engine.answers["POST /v1.41/images/load"] = (200, b'garbage\r\n[1]\r\n"error"\r\n\xff\r\n')
    await images.load(iter([b"abc"]))


async def test_what_the_archive_raises_comes_through(engine: Engine, images: DockerImages) -> None:
    def parts() -> Iterator[bytes]:
        yield b"abc"
        raise SyncError("chunk gone")

    with pytest.raises(SyncError, match="chunk gone"):
        await images.load(parts())


async def test_a_load_that_is_given_up_ends(engine: Engine, images: DockerImages) -> None:
    given = 0

    def parts() -> Iterator[bytes]:
        nonlocal given
        while True:
            given += 1
            yield b"x" * 1000

    job = asyncio.create_task(images.load(parts()))
    await until(lambda: given > 3)
    job.cancel()
    await asyncio.wait({job})
    await until(lambda: engine.asked)
    before = -1

    def stands() -> bool:
        nonlocal before
        before, last = given, before
        return before == last

    await until(stands)


async def test_an_engine_that_hangs_up(engine: Engine, images: DockerImages) -> None:
    engine.away = True
    with pytest.raises(EngineUnavailable):
        await images.holds("app:1", IMAGE)
    engine.away = False
    assert not await images.holds("app:1", IMAGE)


async def test_a_name_is_taken_away(engine: Engine, images: DockerImages) -> None:
    engine.has("app:1", BY_ID, ["app:1"])
    engine.answers["DELETE /v1.41/images/app:1"] = (200, [{"Untagged": "app:1"}])
    assert await images.remove("app:1", IMAGE)
    assert engine.asked[-1] == "DELETE /v1.41/images/app:1"


@pytest.mark.parametrize(("answer", "gone"), [((409, {"message": "in use"}), False), (GONE, True)])
async def test_an_image_in_use_stays(engine: Engine, images: DockerImages, answer: tuple[int, Any], gone: bool) -> None:
    engine.has("app:1", BY_ID, ["app:1"])
    engine.answers["DELETE /v1.41/images/app:1"] = answer
    assert await images.remove("app:1", IMAGE) is gone


async def test_what_is_not_ours_is_left_alone(engine: Engine, images: DockerImages) -> None:
    engine.has("app:1", "sha256:" + "f" * 64, ["app:1"])
    engine.has(BY_ID, BY_ID, ["theirs:1"])
    assert await images.remove("app:1", IMAGE)
    assert not [asked for asked in engine.asked if asked.startswith("DELETE")]
    engine.has(BY_ID, BY_ID, [])
    engine.answers[f"DELETE /v1.41/images/{BY_ID}"] = (200, [])
    assert await images.remove("app:1", IMAGE)
    assert engine.asked[-1] == f"DELETE /v1.41/images/{BY_ID}"
