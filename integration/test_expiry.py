"""Cards that end while calls run: the one that is renewed in time loses no call, the other is let in no more."""

import asyncio
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from gridctl.client import Grid as Client
from gridctl.new import card_text, load_gridfile
from gridnode.errors import GridError
from gridnode.model import Address
from integration import project
from integration.conftest import PATIENCE
from integration.grid import Grid, until
from integration.node import Node

SECONDS = 25.0
"""For which the cards of two nodes are good."""


@pytest.fixture(scope="module")
def grid(nothing_left: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Grid]:
    """A node that lasts, and two whose cards end soon."""
    grid = Grid(1, name="expiry")
    try:
        until(grid.is_full_mesh, PATIENCE, "it has started")
        grid.deploy(project.write(tmp_path_factory.mktemp("project") / "base"))
        yield grid
    finally:
        grid.close()


def short_lived(grid: Grid, name: str) -> Node:
    seeds = [Address(grid.nodes["node-1"].address, 7400)]
    return grid.add(name, card_text(load_gridfile(grid.gridfile), name, SECONDS, seeds=seeds))


def ends(grid: Grid) -> dict[str, int]:
    """By name, when each card ends."""
    return {row["name"]: row["until"] for row in json.loads(grid.gridctl("status", "--json").stdout)["cards"]}


async def call_on(client: Client, node: str, stop: float) -> tuple[int, list[GridError]]:
    """Call it on that node again and again: how many came back, and what else came."""
    done, errors = 0, []
    while time.time() < stop:
        try:
            assert await client.invoke("echo", done, node=node) == done
            done += 1
        except GridError as exc:
            errors.append(exc)
            await asyncio.sleep(0.05)
    return done, errors


def test_a_renewed_card_outlives_its_end_without_a_failed_call(grid: Grid) -> None:
    renewed, lost = short_lived(grid, "renewed"), short_lived(grid, "lost")
    until(grid.is_full_mesh, SECONDS / 2, "a full mesh")
    until(
        lambda: json.loads(grid.gridctl("invoke", "echo", "-d", "1", "--node", "lost").stdout or "0"), 10, "it serves"
    )
    end = max(ends(grid)[name] for name in ("renewed", "lost"))
    assert time.time() < end - 3, "too slow a machine for cards of so few seconds"
    warned = grid.gridctl("status").stderr
    assert "the card of lost ends in" in warned

    async def use() -> dict[str, tuple[int, list[GridError]]]:
        first = replace(load_gridfile(grid.gridfile), seeds=(Address("127.0.0.1", grid.nodes["node-1"].port),))
        async with Client.connect(first, links=1) as client:
            names = ("renewed", "lost")
            calls = [asyncio.create_task(call_on(client, name, end + 6)) for name in names]
            made = await asyncio.to_thread(grid.gridctl, "renew", "renewed", "--ttl", "1h")
            assert made.returncode == 0, made.stderr
            return dict(zip(names, await asyncio.gather(*calls), strict=True))

    outcome = asyncio.run(use())
    print({name: (done, [error.code for error in errors[:3]]) for name, (done, errors) in outcome.items()})
    assert outcome["renewed"][0] > 100
    assert outcome["renewed"][1] == []
    assert outcome["lost"][0] > 10
    assert outcome["lost"][1], "its links have ended with its card"
    first = grid.nodes["node-1"]
    until(lambda: grid.alive(first) == {"node-1", "renewed"}, 10, "only the renewed one is left")
    assert lost.running
    assert "this node's card was renewed" in renewed.logs()


def test_it_remembers_over_a_restart(grid: Grid) -> None:
    node = grid.nodes["renewed"]
    before = ends(grid)["renewed"]
    grid.restart(node)
    until(lambda: grid.alive(grid.nodes["node-1"]) == {"node-1", "renewed"}, 30, "it is back with a card that ended")
    assert ends(grid)["renewed"] == before > time.time() + 3000


def test_nothing_secret_is_in_the_renewal(grid: Grid, tmp_path: Path) -> None:
    assert grid.gridctl("backup", str(tmp_path / "b")).returncode == 0
    card = (grid.nodes["renewed"].directory / "Card").read_text()
    key = next(line for line in card.partition("issuer_key")[2].splitlines() if len(line) > 40)
    held = (tmp_path / "b").read_bytes()
    assert b"renewal" in held
    assert key.encode() not in held
