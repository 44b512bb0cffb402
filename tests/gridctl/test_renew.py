"""Cards of a running grid: shown, and renewed while calls run."""

import asyncio
import json
import time
from dataclasses import replace
from pathlib import Path

import pytest

from gridctl import Grid
from gridctl.cli import run
from gridctl.new import load_gridfile
from gridctl.render import Progress
from gridctl.renew import expiries, renew_due
from gridctl.share import share_text
from gridnode.gridfile import Server
from gridnode.identity import DAY
from gridnode.model import Member, MemberState, NodeId, NodeRecord
from tests.gridctl.conftest import RunningGrid


def cards(grid: RunningGrid, capsys: pytest.CaptureFixture[str]) -> dict[str, int]:
    capsys.readouterr()
    assert run(["status", "--gridfile", str(grid.gridfile), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["gridfile_until"] is None
    return {row["name"]: row["until"] for row in shown["cards"]}


def test_a_card_is_renewed_by_name_and_others_stay(hello_grid: RunningGrid, capsys: pytest.CaptureFixture[str]) -> None:
    before = cards(hello_grid, capsys)
    assert set(before) == {"node-1", "node-2"}
    argv = ["renew", "--gridfile", str(hello_grid.gridfile), "--json"]
    assert run(argv) == 0
    assert json.loads(capsys.readouterr().out)["renewed"] == [], "none is due"
    assert run([*argv, "node-1", "--within", "400d", "--ttl", "500d"]) == 0
    assert json.loads(capsys.readouterr().out)["renewed"] == ["node-1"]
    deadline = time.monotonic() + 10
    while (after := cards(hello_grid, capsys))["node-1"] == before["node-1"]:
        assert time.monotonic() < deadline
    assert after["node-1"] - time.time() == pytest.approx(500 * DAY, abs=60)
    assert after["node-2"] == before["node-2"]
    assert run(["audit", "--gridfile", str(hello_grid.gridfile)]) == 0
    assert "renewal" in capsys.readouterr().out


async def test_no_call_fails_while_cards_are_renewed(hello_grid: RunningGrid) -> None:
    gridfile = load_gridfile(hello_grid.gridfile)
    async with Grid.connect(gridfile) as grid:
        going, failed, done = True, [], 0

        async def call() -> None:
            nonlocal done
            while going:
                try:
                    await grid.invoke("echo", done)
                    done += 1
                except Exception as exc:
                    failed.append(exc)

        callers = [asyncio.create_task(call()) for _ in range(8)]
        for ttl in (600, 700, 800):
            made = await grid.renew_cards(["node-1", "node-2"], time.time() + 10_000 * DAY, ttl * DAY)
            assert (sorted(made.nodes), made.failed) == (["node-1", "node-2"], {})
            wanted, had = time.time() + (ttl - 1) * DAY, done
            ends: list[int] = []
            while len(ends) < 2 or min(ends) < wanted or done < had + 200:
                ends = [row.record.until for row in await grid.nodes()]
        going = False
        await asyncio.gather(*callers)
        assert failed == []
        assert {row.state for row in await grid.nodes()} == {MemberState.ALIVE}


async def test_a_deploy_renews_in_passing_what_is_due_of_the_gridfiles_servers(
    hello_grid: RunningGrid, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gridfile = replace(load_gridfile(hello_grid.gridfile), servers=(Server("node-1"), Server("gone")))
    async with Grid.connect(gridfile) as grid:

        async def told() -> dict[str, int]:
            return {row.record.name: row.record.until for row in await grid.nodes()}

        before = await told()
        await renew_due(grid, gridfile, Progress())
        assert await told() == before
        monkeypatch.setattr("gridctl.renew.RENEW_WITHIN", 10_000 * DAY)
        monkeypatch.setattr("gridctl.renew.CARD_TTL", 2000 * DAY)
        await renew_due(grid, gridfile, Progress())
        assert "renewed the cards of node-1" in capsys.readouterr().err
        deadline = time.monotonic() + 10
        while (after := await told())["node-1"] == before["node-1"]:
            assert time.monotonic() < deadline
        assert after["node-2"] == before["node-2"]


def test_one_that_cannot_be_renewed_holds_up_no_other(
    hello_grid: RunningGrid, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    issuer, bad = Grid.issuer, {"node-1"}

    async def shown(grid: Grid, node: NodeId) -> str:
        names = {row.record.id: row.record.name for row in await grid.nodes()}
        return "garbage" if names[node] in bad else await issuer(grid, node)

    monkeypatch.setattr(Grid, "issuer", shown)
    argv = ["renew", "node-1", "node-2", "--within", "9000d", "--gridfile", str(hello_grid.gridfile), "--json"]
    assert run(argv) == 3
    told = capsys.readouterr()
    assert json.loads(told.out)["renewed"] == ["node-2"]
    assert "the card of node-1 could not be renewed" in told.err
    bad.add("node-2")
    assert run(argv) == 4


def test_a_user_sees_until_when_and_renews_nothing(
    hello_grid: RunningGrid, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "Gridfile"
    path.touch(mode=0o600)
    path.write_text(share_text(load_gridfile(hello_grid.gridfile), "alice", DAY))
    assert run(["status", "--gridfile", str(path)]) == 0
    told = capsys.readouterr()
    assert "node-1" in told.out
    assert "this Gridfile is good until" in told.err
    assert run(["renew", "node-1", "--gridfile", str(path)]) == 1
    assert "operator's Gridfile" in capsys.readouterr().err


def test_the_first_to_end_comes_first() -> None:
    ends = {"late": 9000 * 86_400, "old": 0, "soon": 86_400, "past": 10}
    records = [NodeRecord(NodeId("ab" * 20), name, 1, 1, (), "1", 0, until=end) for name, end in ends.items()]
    rows = expiries(Member(record, MemberState.ALIVE, 0.0) for record in records)
    assert [row.name for row in rows] == ["past", "soon", "late", "old"]
