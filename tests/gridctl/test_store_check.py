import json
from collections.abc import Callable

import pytest

from gridctl import store_check as module
from gridctl.cli import run
from gridctl.render import Progress
from gridctl.store_check import NodeStore, as_fields, check_stores, lines, look_at_stores
from gridnode.errors import LinkClosed
from gridnode.messages import BadChunk, ScrubReport
from gridnode.model import ChunkHash, Member, MemberState, NodeId, NodeRecord
from tests.gridctl.conftest import RunningGrid

BAD = BadChunk(ChunkHash(b"\xab" * 32), "its checksum differs", False)
Answer = Callable[[bool], ScrubReport]


def member(name: str, state: MemberState = MemberState.ALIVE) -> Member:
    return Member(NodeRecord(NodeId(name), name, 1, 0, (), "1", 0), state, 0.0)


class Fake:
    """Nodes by name: what each answers, one report after the other; the last one again and again."""

    def __init__(self, **answers: list[ScrubReport | Exception]) -> None:
        self.answers = answers
        self.started: list[str] = []
        self.members = [member(name) for name in answers]

    async def nodes(self) -> list[Member]:
        return self.members

    async def scrub(self, node: NodeId, *, start: bool = False) -> ScrubReport:
        if start:
            self.started.append(node)
        answers = self.answers[node]
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POLL", 0.001)


RUNNING = ScrubReport(True, 5, 10, 500)
MISSING = ScrubReport(False, 10, 10, 1000, 1, 1, (BAD,))
MENDED = ScrubReport(False, 10, 10, 1000, 1, 0, (BadChunk(BAD.hash, BAD.why, True),))
SOUND = ScrubReport(False, 10, 10, 1000)


async def test_every_node_is_followed_until_what_was_bad_is_back() -> None:
    grid = Fake(b=[RUNNING, RUNNING, SOUND], a=[RUNNING, MISSING, LinkClosed("gone"), MISSING, MENDED])
    stores = await check_stores(grid, 60, Progress())
    assert sorted(grid.started) == ["a", "b"]
    assert [(store.name, store.report, store.is_sound) for store in stores] == [("a", MENDED, True), ("b", SOUND, True)]
    assert lines(stores[0]) == [
        "a: 10 chunks, 1.0 KB checked; 1 bad, 0 of them still missing",
        "  abababababababab fetched again: its checksum differs",
    ]
    assert lines(stores[1]) == ["b: 10 chunks, 1.0 KB checked"]


async def test_what_stays_missing_is_wrong() -> None:
    (store,) = await check_stores(Fake(a=[MISSING]), 0.05, Progress())
    assert not store.is_sound
    assert "not done within" in store.error
    assert as_fields(store)["missing"] == 1
    assert as_fields(store)["bad"] == [{"chunk": "ab" * 32, "why": "its checksum differs", "back": False}]
    assert lines(store)[1] == "  abababababababab missing: its checksum differs"


async def test_a_node_that_does_not_answer_is_wrong() -> None:
    grid = Fake(a=[LinkClosed("gone")], b=[RUNNING, LinkClosed("gone")], c=[SOUND])
    grid.members += [member("d", MemberState.DEAD), member("e", MemberState.LEFT)]
    stores = await check_stores(grid, 60, Progress())
    assert [(store.name, store.is_sound, store.error) for store in stores] == [
        ("a", False, "gone"),
        ("b", False, "gone"),
        ("c", True, ""),
        ("d", False, "dead"),
    ]
    assert lines(stores[0]) == ["a: gone"]


async def test_a_look_starts_nothing() -> None:
    grid = Fake(a=[ScrubReport()], b=[RUNNING])
    stores = await look_at_stores(grid)
    assert grid.started == []
    assert all(store.is_sound for store in stores)
    assert lines(stores[0]) == ["a: not checked since it started"]


def test_many_bad_chunks_are_cut_short() -> None:
    store = NodeStore(NodeId("a"), "a", ScrubReport(False, 10, 10, 1000, 7, 7, (BAD,)))
    assert lines(store)[-1] == "  and 6 more"


def test_over_a_real_grid(hello_grid: RunningGrid, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor", "--gridfile", str(hello_grid.gridfile), "--json"]) == 0
    first = json.loads(capsys.readouterr().out)
    assert first["ok"]
    assert run(["doctor", "--store", "--gridfile", str(hello_grid.gridfile), "--json"]) == 0
    fields = json.loads(capsys.readouterr().out)
    assert len(fields["stores"]) == len(hello_grid.ports)
    assert all(store["ok"] and not store["running"] for store in fields["stores"])
    assert run(["doctor", "--store", "--gridfile", str(hello_grid.gridfile)]) == 0
