"""Whom a name shuts out: a card's host, which a node's own name need not be."""

import json
import time
from dataclasses import replace

import msgspec
import pytest

from gridctl import Grid
from gridctl.cli import run
from gridctl.new import load_gridfile
from gridctl.revoke import is_a_cards
from gridnode.audit import AuditEntry, sign_audit
from gridnode.errors import CallTimeout, UsageError
from gridnode.gridfile import Server
from gridnode.identity import authority_of, mint_card
from gridnode.ledger import Document
from gridnode.model import NodeId
from gridnode.revocation import Revocation
from tests.gridctl.conftest import RunningGrid


async def test_a_server_and_a_node_whose_card_is_its_names_are_known(hello_grid: RunningGrid) -> None:
    gridfile = load_gridfile(hello_grid.gridfile)
    assert await is_a_cards(gridfile, "127.0.0.1")
    assert await is_a_cards(gridfile, "node-1")
    assert not await is_a_cards(gridfile, "nowhere")


@pytest.mark.parametrize(("servers", "named"), [(("10.0.0.9",), "10.0.0.9"), (("10.0.0.8",), "another")])
async def test_the_name_of_a_node_whose_card_is_anothers_is_refused(
    hello_grid: RunningGrid, monkeypatch: pytest.MonkeyPatch, servers: tuple[str, ...], named: str
) -> None:
    gridfile = replace(load_gridfile(hello_grid.gridfile), servers=tuple(map(Server, servers)))
    issuer = mint_card(authority_of(gridfile), "10.0.0.9", time.time(), 3600, b"e" * 32).issuer

    async def shown(grid: Grid, node: NodeId) -> str:
        return issuer

    monkeypatch.setattr(Grid, "issuer", shown)
    with pytest.raises(UsageError, match=f"was made for {named}"):
        await is_a_cards(gridfile, "node-1")


@pytest.mark.parametrize("answer", ["garbage", CallTimeout("silent")], ids=repr)
async def test_a_node_that_says_nothing_sound_holds_no_revocation_up(
    hello_grid: RunningGrid, monkeypatch: pytest.MonkeyPatch, answer: str | Exception
) -> None:
    async def shown(grid: Grid, node: NodeId) -> str:
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(Grid, "issuer", shown)
    assert await is_a_cards(load_gridfile(hello_grid.gridfile), "node-1")


def test_a_name_that_nobody_has_is_said(hello_grid: RunningGrid, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["revoke", "nowhere", "-y", "--gridfile", str(hello_grid.gridfile)]) == 0
    assert "no node within reach is called nowhere" in capsys.readouterr().err
    assert run(["audit", "--gridfile", str(hello_grid.gridfile), "--json"]) == 0
    newest = json.loads(capsys.readouterr().out)["entries"][0]
    assert (newest["kind"], newest["subject"]) == ("revocation", "nowhere")
    assert run(["revoke", "--gridfile", str(hello_grid.gridfile)]) == 2


async def test_every_node_is_told_who_did_it(hello_grid: RunningGrid) -> None:
    gridfile = load_gridfile(hello_grid.gridfile)
    async with Grid.connect(gridfile, links=1) as grid:
        change = await grid.put_revocation(Revocation(int(time.time()), "nobody at all"))
        assert [document.kind for document in change] == ["revocation", "audit"]
        await grid.tell(change)
        await grid.put_revocation(Revocation(int(time.time()), "nobody else"))
        audited = await grid.audit()
        entry = sign_audit(authority_of(gridfile).deploy_key, replace_name(audited[0][1], change[0]), audited[0][0])
        await grid.tell([change[0], entry])
        assert await grid.audit() == audited, "a node that knows of a later change keeps its entry"


def replace_name(entry: AuditEntry, document: Document) -> AuditEntry:
    return msgspec.structs.replace(entry, kind=document.kind, name=document.name, number=document.sequence)
