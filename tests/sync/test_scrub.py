"""How rot is found, named, and mended."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from gridnode import messages
from gridnode.errors import BodyInvalid, ChunkMissing
from gridnode.messages import MAX_BAD, SCRUB_START, ScrubReport
from gridnode.model import ChunkHash, Root
from gridnode.sync import scrub as module
from gridnode.sync.chunk import chunk_hash
from gridnode.sync.scrub import Scrub
from gridnode.sync.store import DiskChunkStore
from tests.fakes.packs import rot
from tests.fakes.peers import until

CONTENTS = [b"%d" % number * 20 for number in range(300)]
ROOT = Root("ab" * 32)


class Place:
    """A store with CONTENTS, and a grid that has them too."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.store = DiskChunkStore(directory)
        for content in CONTENTS:
            self.store.put(chunk_hash(content), content)
        self.scrub = Scrub(self.store, self.fetch, lambda: [ROOT, ROOT])
        self.store.on_invalid = self.scrub.found_bad
        self.fetched: list[Root] = []
        self.away = False

    async def fetch(self, root: Root) -> None:
        self.fetched.append(root)
        if self.away:
            raise ChunkMissing("no linked peer has it")
        for content in CONTENTS:
            self.store.put(chunk_hash(content), content)

    async def report(self, body: bytes = b"") -> ScrubReport:
        return messages.decode(await self.scrub.answer(body), ScrubReport)

    async def ended(self) -> ScrubReport:
        return await self.once(lambda report: not report.running)

    async def once(self, holds: Callable[[ScrubReport], bool]) -> ScrubReport:
        async with asyncio.timeout(30):
            while True:
                report = await self.report()
                if holds(report):
                    return report
                await asyncio.sleep(0.001)


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    place = Place(tmp_path)
    job = asyncio.create_task(place.scrub.run())
    yield place
    job.cancel()
    await asyncio.wait({job})
    place.store.close()


def spoil(place: Place, *numbers: int) -> list[ChunkHash]:
    for number in numbers:
        rot(place.directory, chunk_hash(CONTENTS[number]))
    return [chunk_hash(CONTENTS[number]) for number in numbers]


async def test_sound_chunks(place: Place) -> None:
    assert await place.report() == ScrubReport()
    first = await place.report(SCRUB_START)
    assert (first.running, first.total) == (True, 300)
    done = await place.ended()
    assert done == ScrubReport(False, 300, 300, sum(map(len, CONTENTS)))
    assert place.fetched == []


async def test_bad_chunks_are_named_and_fetched_again(place: Place) -> None:
    bad = spoil(place, 3, 77, 299)
    await place.report(SCRUB_START)
    done = await place.ended()
    assert done.checked >= 300, "one that was fetched again lies behind the others, and is checked too"
    assert done.found == 3
    done = await place.once(lambda report: not report.left)
    assert {one.hash for one in done.bad} == set(bad)
    assert all(one.back and "damaged" in one.why for one in done.bad)
    assert ROOT in place.fetched
    await place.report(SCRUB_START)
    assert (await place.ended()).found == 0


async def test_what_nobody_has_stays_missing_and_is_tried_again(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_RETRY_FIRST", 0.001)
    place.away = True
    (bad,) = spoil(place, 5)
    with pytest.raises(Exception, match="damaged"):
        place.store.get(bad)
    await until(lambda: len(place.fetched) > 2)
    report = await place.report()
    assert (report.found, report.left, report.bad[0].back) == (1, 1, False)
    place.away = False
    await until(lambda: place.store.has(bad))


async def test_one_that_an_earlier_life_found_is_mended(tmp_path: Path) -> None:
    place = Place(tmp_path)
    (bad,) = spoil(place, 5)
    place.store.on_invalid = lambda chunk: None
    with pytest.raises(Exception, match="damaged"):
        place.store.get(bad)
    job = asyncio.create_task(place.scrub.run())
    await until(lambda: place.store.has(bad))
    job.cancel()
    await asyncio.wait({job})
    place.store.close()


async def test_a_second_start_joins_the_first(place: Place) -> None:
    await place.report(SCRUB_START)
    again = await place.report(SCRUB_START)
    assert again.total == 300
    assert (await place.ended()).checked == 300


async def test_an_answer_is_bounded(place: Place) -> None:
    place.away = True
    spoil(place, *range(MAX_BAD + 20))
    await place.report(SCRUB_START)
    done = await place.ended()
    assert (done.found, done.left, len(done.bad)) == (MAX_BAD + 20, MAX_BAD + 20, MAX_BAD)


@pytest.mark.parametrize("body", [b"x", b"\xff" * 1000])
async def test_garbage_is_refused(place: Place, body: bytes) -> None:
    with pytest.raises(BodyInvalid):
        await place.scrub.answer(body)


async def test_a_chunk_that_goes_meanwhile_is_not_bad(place: Place) -> None:
    place.store.delete(map(chunk_hash, CONTENTS[250:]))
    await place.report(SCRUB_START)
    assert (await place.ended()).found == 0
