"""Images of the ledger on their way into an engine, and out of it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gridnode import messages
from gridnode.errors import EngineUnavailable, GridError, SyncError
from gridnode.image_document import sign_image
from gridnode.ledger import Document
from gridnode.model import Image, ImageState, ImageStatus, Root
from gridnode.sync import wanted as module
from gridnode.sync.chunk import encode
from gridnode.sync.images import ImageLimits, Images
from gridnode.sync.store import DiskChunkStore
from gridnode.wire import Frame, Kind
from tests.fakes.images import ImageEngine, docker_files, layer
from tests.fakes.peers import until
from tests.sync.test_image import Held

KEY = b"k" * 32
PRESENT, FAILED, FETCHING, REMOVING = (
    ImageState.PRESENT,
    ImageState.FAILED,
    ImageState.FETCHING,
    ImageState.REMOVING,
)


def write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


class Place:
    """One node's images. Fetching puts the chunks into the store, once `open` is set."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.engine = ImageEngine()
        self.store = DiskChunkStore(directory)
        self.open = asyncio.Event()
        self.open.set()
        self.errors: list[GridError] = []
        self.fetched: list[Root] = []
        self.free = 1 << 40
        self.used: set[str] = set()
        self.changes = 0
        self.sequence = 0
        self.documents: dict[str, Document] = {}
        self.known: dict[Root, Held] = {}
        self.job: asyncio.Task[None] | None = None
        self.images = self.make()

    def make(self, **limits: Any) -> Images:
        self.images = Images(
            self.engine,
            self.store,
            self.fetch,
            self.directory / "images",
            write,
            lambda: self.free,
            lambda: self.used,
            self.changed,
            ImageLimits(**{"patience": 5.0, **limits}),
        )
        return self.images

    def changed(self) -> None:
        self.changes += 1

    def run(self) -> None:
        self.job = asyncio.create_task(self.images.run())

    async def stop(self) -> None:
        if self.job:
            self.job.cancel()
            await asyncio.wait({self.job})

    def fetch(self, progress: Callable[[int, int], None]) -> Any:
        place = self

        class Fetching:
            async def run(self, root: Root) -> None:
                place.fetched.append(root)
                progress(1, 2)
                await place.open.wait()
                if place.errors:
                    raise place.errors.pop(0)
                chunks = place.known[root].chunks
                await asyncio.to_thread(
                    place.store.put_batch, [(chunk, encode(content)) for chunk, content in chunks.items()]
                )

        return Fetching()

    def push(self, name: str, held: Held | None) -> None:
        """What the ledger does with a new document; None removes the image."""
        self.sequence += 1
        if held:
            self.known[held.image.root] = held
        self.documents[name] = sign_image(KEY, name, held.image if held else None, self.sequence)
        self.images.follow(self.documents.values())

    async def statuses(self) -> dict[str, ImageStatus]:
        body = await self.images.here(Frame(Kind.CALL, 1))
        return {status.name: status for status in messages.decode(body, list[ImageStatus])}

    async def becomes(self, name: str, state: ImageState | None) -> ImageStatus | None:
        found: list[ImageStatus | None] = []

        def there() -> bool:
            found[:] = [self.images._wanted.status.get(name)]
            return (found[0].state if found[0] else None) is state

        await until(there, f"{name} {state}")
        return found[0]


@pytest.fixture(scope="module")
def first() -> Held:
    return Held(docker_files([layer(1, 40_000)]))


@pytest.fixture(scope="module")
def second() -> Held:
    return Held(docker_files([layer(1, 40_000), layer(2, 40_000)]))


@pytest.fixture
async def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Place]:
    monkeypatch.setattr(module, "_RETRY", 0.02)
    monkeypatch.setattr(module, "_LOOK_EVERY", 0.05)
    place = Place(tmp_path)
    yield place
    await place.stop()
    place.store.close()


async def test_an_image_is_fetched_loaded_and_told_of(place: Place, first: Held) -> None:
    place.run()
    place.open.clear()
    place.push("app:1", first)
    fetching = await place.becomes("app:1", FETCHING)
    await until(lambda: place.fetched)
    assert fetching is not None
    assert (fetching.id, fetching.error) == (first.image.id, "")
    place.open.set()
    await place.becomes("app:1", PRESENT)
    assert place.engine.ids == {"app:1": first.image.id}
    assert place.images.roots == [first.image.root]
    assert (await place.statuses())["app:1"].have == first.image.size
    assert (place.engine.loads, place.engine.largest <= 256 * 1024) == (1, True)


async def test_nothing_is_fetched_that_the_engine_has(place: Place, first: Held) -> None:
    place.engine.ids["other:1"] = first.image.id
    place.run()
    place.push("app:1", first)
    await place.becomes("app:1", PRESENT)
    assert (place.fetched, place.engine.ids["app:1"]) == ([], first.image.id)
    place.push("app:1", None)
    await place.becomes("app:1", None)
    assert "app:1" in place.engine.ids, "it did not come this way, and is not ours to remove"


async def test_what_may_heal_is_tried_again(place: Place, first: Held) -> None:
    place.errors = [SyncError("no peer has it", hint="wait"), EngineUnavailable("down")]
    place.run()
    place.push("app:1", first)
    failed = await place.becomes("app:1", FAILED)
    assert failed is not None
    assert failed.error in ("no peer has it (wait)", "down")
    await place.becomes("app:1", PRESENT)
    assert len(place.fetched) == 3


async def test_an_image_there_is_no_room_for(place: Place, first: Held) -> None:
    place.free = first.image.size + 99
    place.make(reserve=100)
    place.run()
    place.push("app:1", first)
    failed = await place.becomes("app:1", FAILED)
    assert failed is not None
    assert "are free on the disk" in failed.error
    assert place.fetched == []
    place.free += 1
    await place.becomes("app:1", PRESENT)


async def test_an_image_that_is_too_large(place: Place, first: Held) -> None:
    place.make(max_size=1000)
    place.run()
    place.push("app:1", first)
    failed = await place.becomes("app:1", FAILED)
    assert failed is not None
    assert "more than this node takes" in failed.error
    with pytest.raises(SyncError, match="did not arrive"):
        await place.images.ready(["app:1"])


async def test_a_release_waits_for_its_images(place: Place, first: Held) -> None:
    place.open.clear()
    place.push("app:1", first)
    place.run()
    waiting = asyncio.create_task(place.images.ready(["docker.io/library/app:1", "unknown:1", "sha256:" + "0" * 64]))
    await until(lambda: place.fetched)
    assert not waiting.done()
    place.open.set()
    await waiting
    assert place.engine.ids == {"app:1": first.image.id}


async def test_a_release_waits_no_longer_than_its_patience(place: Place, first: Held) -> None:
    place.make(patience=0.05)
    place.open.clear()
    place.push("app:1", first)
    place.run()
    with pytest.raises(SyncError, match="still on its way"):
        await place.images.ready(["app:1"])


async def test_an_image_that_left_the_engine_is_brought_again(place: Place, first: Held) -> None:
    place.run()
    place.push("app:1", first)
    await place.becomes("app:1", PRESENT)
    place.engine.ids.clear()
    await place.images.ready(["app:1"])
    assert place.engine.ids == {"app:1": first.image.id}
    place.engine.ids.clear()
    await until(lambda: place.engine.ids, "also when no release asks")


async def test_another_image_of_the_name_replaces_one_that_is_fetched(place: Place, first: Held, second: Held) -> None:
    place.open.clear()
    place.run()
    place.push("app:1", first)
    await until(lambda: place.fetched)
    place.push("app:1", second)
    await until(lambda: second.image.root in place.fetched)
    place.open.set()
    await place.becomes("app:1", PRESENT)
    assert place.engine.ids == {"app:1": second.image.id}


async def test_a_removed_image_goes_once_nothing_uses_it(place: Place, first: Held) -> None:
    place.run()
    place.push("app:1", first)
    await place.becomes("app:1", PRESENT)
    place.used, place.engine.busy = {"app:1"}, {"app:1"}
    before = place.changes
    place.push("app:1", None)
    held = await place.becomes("app:1", REMOVING)
    assert (held and held.error, place.changes) == ("in use", before + 1)
    assert place.engine.removes == 0
    place.used = set()
    await until(lambda: place.engine.removes > 1)
    assert place.engine.ids
    place.engine.busy = set()
    await place.becomes("app:1", None)
    assert (place.engine.ids, place.images.roots) == ({}, [])


async def test_what_came_this_way_is_known_to_the_next_life(place: Place, first: Held) -> None:
    place.run()
    place.push("app:1", first)
    await place.becomes("app:1", PRESENT)
    await place.stop()
    place.make()
    place.documents["app:1"] = sign_image(KEY, "app:1", None, 9)
    place.images.follow(place.documents.values())
    place.run()
    await until(lambda: not place.engine.ids)


@pytest.mark.parametrize("content", [b"", b"garbage", b"\xc1", b"\x91" * 1000])
async def test_a_note_that_is_damaged_removes_nothing(place: Place, first: Held, content: bytes) -> None:
    place.engine.ids["app:1"] = first.image.id
    (place.directory / "images").write_bytes(content)
    place.make()
    place.run()
    place.push("app:1", None)
    place.push("other:1", first)
    await place.becomes("other:1", PRESENT)
    place.push("other:1", None)
    await place.becomes("other:1", None)
    assert place.engine.ids["app:1"] == first.image.id
    assert place.engine.removes == 0


async def test_an_engine_that_makes_another_image_of_it(
    place: Place, first: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def load(parts: Iterator[bytes]) -> None:
        place.engine.ids["app:1"] = "f" * 64

    monkeypatch.setattr(place.engine, "load", load)
    place.run()
    place.push("app:1", first)
    failed = await place.becomes("app:1", FAILED)
    assert failed is not None
    assert "another image" in failed.error


async def test_what_cannot_be_read_is_passed_over(place: Place, first: Held) -> None:
    place.run()
    place.documents["bad:1"] = Document("image", "bad:1", 1, b"\xc1", "a" * 64)
    place.push("app:1", first)
    await place.becomes("app:1", PRESENT)
    assert set(await place.statuses()) == {"app:1"}


async def test_a_bug_is_no_end(place: Place, first: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(name: str, image: Image) -> bool:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(place.engine, "holds", broken)
        place.run()
        place.push("app:1", first)
        failed = await place.becomes("app:1", FAILED)
    assert failed is not None
    assert "ZeroDivisionError" in failed.error
    await place.becomes("app:1", PRESENT)
