from pathlib import Path

import pytest

from gridctl import Grid
from gridctl.new import load_gridfile, write_private
from gridctl.share import share_text
from gridnode.errors import Forbidden, GridError, LinkClosed, UsageError
from gridnode.wire import Op
from tests.gridctl.conftest import RunningGrid


@pytest.fixture
def path(hello_grid: RunningGrid) -> Path:
    """The socket of a node of the grid."""
    return hello_grid.gridfile.parent / "run" / "client.sock"


async def test_the_socket_of_a_node_needs_no_gridfile(path: Path) -> None:
    for address in (str(path), f"unix:{path}"):
        async with Grid.connect(addresses=[address]) as grid:
            assert await grid.invoke("echo", 1) == 1
            assert len(await grid.nodes()) >= 1
            async with grid.subscribe("local.*") as events:
                assert await grid.publish("local.x", 5) >= 1
                assert (await events.next()).payload == 5


async def test_it_lets_in_calls_and_events_only(path: Path) -> None:
    async with Grid.connect(addresses=[str(path)]) as grid:
        with pytest.raises(Forbidden, match="calls and events only"):
            await grid.release()
        for op in (Op.LEDGER_GET, Op.LEDGER_PUT, Op.LOGS, Op.PROCESSES, Op.CHUNKS_GET, Op.CHUNKS_PUT, Op.GOSSIP):
            with pytest.raises(Forbidden):
                await grid._link.request(op)


async def test_it_is_the_default_where_no_gridfile_is_about(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="no Gridfile"):
        await Grid.connect()
    monkeypatch.setattr("gridctl.connecting.SOCKET", path)
    async with Grid.connect() as grid:
        assert await grid.invoke("echo", 1) == 1
    (tmp_path / "Gridfile").write_text("not one")
    with pytest.raises(GridError, match="Gridfile"):
        await Grid.connect()


async def test_what_is_no_place(path: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="by itself"):
        await Grid.connect(addresses=[str(path), "127.0.0.1:1"])
    with pytest.raises(LinkClosed, match="none"):
        await Grid.connect(addresses=[str(tmp_path / "none")])
    for links in (0, 17):
        with pytest.raises(UsageError):
            Grid.connect(links=links)


@pytest.mark.parametrize(("days", "said"), [(6, 1), (8, 0)])
async def test_a_user_is_told_once_that_the_gridfile_is_about_to_end(
    hello_grid: RunningGrid, tmp_path: Path, caplog: pytest.LogCaptureFixture, days: int, said: int
) -> None:
    gridfile = tmp_path / "Gridfile"
    write_private(gridfile, share_text(load_gridfile(hello_grid.gridfile), "alice", days * 86_400))
    async with Grid.connect(gridfile) as grid:
        grid._links.spread()
        assert [result async for result in grid.map("echo", range(40))] == list(range(40))
    told = [record.getMessage() for record in caplog.records if record.name == "gridctl"]
    assert len(told) == said
    assert all("this Gridfile ends in 5d" in text for text in told)
