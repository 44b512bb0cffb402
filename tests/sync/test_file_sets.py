"""Directories of the ledger on their way to a node's disk, and off it."""

import asyncio
from collections.abc import AsyncIterator, Set
from pathlib import Path
from typing import Any

import pytest

from gridnode import messages
from gridnode.errors import ChunkMissing, SyncError
from gridnode.files_document import sign_files
from gridnode.ledger import Document, sign_document
from gridnode.model import FileSet, ImageState, ImageStatus, Root
from gridnode.sync import wanted as module
from gridnode.sync.file_sets import FileLimits, FileSets
from gridnode.wire import Frame, Kind
from tests.fakes.peers import until

KEY = b"k" * 32
A, B, C = (Root(letter * 64) for letter in "abc")
ASKED = Frame(Kind.CALL, 1)


class Disk:
    """A TreeDisk that remembers."""

    def __init__(self) -> None:
        self.roots: set[Root] = set()
        self.error: SyncError | None = None

    def has(self, root: Root) -> bool:
        return root in self.roots

    def path(self, root: Root) -> Path:
        return Path("/files") / root

    def lay_out(self, root: Root) -> Path:
        if self.error:
            raise self.error
        self.roots.add(root)
        return self.path(root)

    def keep(self, roots: Set[Root]) -> None:
        self.roots &= roots


class Place:
    """One node's files. Fetching ends once `open` is set."""

    def __init__(self) -> None:
        self.disk = Disk()
        self.open = asyncio.Event()
        self.open.set()
        self.errors: list[Exception] = []
        self.fetched: list[Root] = []
        self.free = 1 << 40
        self.used: set[Path] = set()
        self.arrived: list[str] = []
        self.documents: dict[str, Document] = {}
        self.sequence = 0
        self.sets = self.make()
        self.job: asyncio.Task[None] | None = None

    def make(self, patience: float = 5.0) -> FileSets:
        limits = FileLimits(1000, patience)
        free, used = (lambda: self.free), (lambda: self.used)
        self.sets = FileSets(self.disk, self.fetch, free, used, self.arrived.append, lambda: None, limits)
        return self.sets

    def fetch(self, progress: Any) -> Any:
        place = self

        class Fetching:
            async def run(self, root: Root) -> None:
                place.fetched.append(root)
                progress(1, 2)
                await place.open.wait()
                if place.errors:
                    raise place.errors.pop()

        return Fetching()

    def put(self, name: str, root: Root | None, size: int = 10) -> None:
        self.sequence += 1
        files = FileSet(root, size, 1, 0) if root else None
        self.documents[name] = sign_files(KEY, name, files, self.sequence)
        self.sets.follow(list(self.documents.values()))

    def run(self) -> None:
        self.job = asyncio.create_task(self.sets.run())

    async def stop(self) -> None:
        if self.job:
            self.job.cancel()
            await asyncio.wait({self.job})

    async def states(self) -> dict[str, ImageState]:
        return {one.name: one.state for one in messages.decode(await self.sets.here(ASKED), list[ImageStatus])}


@pytest.fixture
async def place(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Place]:
    monkeypatch.setattr(module, "_RETRY", 0.01)
    place = Place()
    yield place
    await place.stop()


async def test_what_the_ledger_names_arrives(place: Place) -> None:
    place.run()
    place.put("geo", A)
    await place.sets.ready(["geo"])
    assert (place.sets.directory("geo"), place.arrived, place.fetched) == (Path("/files") / A, ["geo"], [A])
    assert await place.states() == {"geo": ImageState.PRESENT}
    assert place.sets.roots == [A, A]


async def test_a_newer_version_takes_over_and_the_old_one_stays_while_it_is_read(place: Place) -> None:
    place.run()
    place.put("geo", A)
    await place.sets.ready(["geo"])
    place.used = {Path("/files") / A}
    place.put("geo", B)
    await place.sets.ready(["geo"])
    assert place.sets.directory("geo").name == B
    assert place.disk.roots == {A, B}
    place.used = set()
    place.put("other", C)
    await until(lambda: place.disk.roots == {B, C}, "what nothing reads is removed")


async def test_an_earlier_life_s_directory_serves_at_once(place: Place) -> None:
    place.disk.roots = {A}
    place.put("geo", A)
    assert place.sets.directory("geo").name == A
    assert await place.states() == {"geo": ImageState.PRESENT}
    place.run()
    await place.sets.ready(["geo"])
    assert (place.fetched, place.arrived) == ([], [])


async def test_until_a_newer_version_is_there_the_old_one_serves(place: Place) -> None:
    place.run()
    place.put("geo", A)
    await place.sets.ready(["geo"])
    place.open.clear()
    place.put("geo", B)
    await until(lambda: place.fetched == [A, B], "it is fetched")
    assert place.sets.directory("geo").name == A
    assert await place.states() == {"geo": ImageState.FETCHING}
    place.put("geo", C)
    await until(lambda: place.fetched == [A, B, C], "what nobody wants any more is given up")
    place.open.set()
    await place.sets.ready(["geo"])
    assert place.sets.directory("geo").name == C


async def test_removed_files_go_once_no_instance_reads_them(place: Place) -> None:
    place.run()
    place.put("geo", A)
    await place.sets.ready(["geo"])
    place.used = {Path("/files") / A}
    place.put("geo", None)
    await until(lambda: not place.sets._wanted._news.is_set(), "it has looked")
    assert await place.states() == {}
    assert place.disk.roots == {A}
    assert place.sets.directory("geo").name == A, "an instance that starts again finds them still"
    place.used = set()
    place.put("other", B)
    await until(lambda: place.disk.roots == {B}, "they are gone")
    with pytest.raises(SyncError, match="not on this node"):
        place.sets.directory("geo")


async def test_what_fails_is_said_and_tried_again(place: Place) -> None:
    place.errors = [ChunkMissing("nobody has it")]
    place.put("geo", A)
    place.run()
    with pytest.raises(SyncError, match="nobody has it"):
        await place.sets.ready(["geo"])
    await until(lambda: place.sets._is_present("geo"), "the next try")


async def test_a_disk_that_is_full(place: Place) -> None:
    place.free = 1000 + 2 * 10 - 1
    place.put("geo", A)
    place.run()
    with pytest.raises(SyncError, match="1019 bytes are free on the disk, 1020 are needed"):
        await place.sets.ready(["geo"])
    assert place.fetched == []
    place.free += 1
    await until(lambda: place.sets._is_present("geo"), "there is room now")


async def test_files_that_the_grid_does_not_have(place: Place) -> None:
    with pytest.raises(SyncError, match="no files geo") as refused:
        await place.sets.ready(["geo"])
    assert refused.value.hint == "gridctl files push DIRECTORY geo"
    await place.sets.ready([])


async def test_patience_ends(place: Place) -> None:
    place.make(patience=0.01)
    place.open.clear()
    place.put("geo", A)
    place.run()
    with pytest.raises(SyncError, match="still on their way"):
        await place.sets.ready(["geo"])


async def test_a_document_of_a_later_version_hinders_no_other(place: Place) -> None:
    place.run()
    place.documents["odd"] = sign_document(KEY, "files", "odd", 1, b"\xc1")
    place.put("geo", A)
    await place.sets.ready(["geo"])
