import os
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gridnode.errors import Forbidden, LinkClosed, SettingsInvalid
from gridnode.link import LinkLimits
from gridnode.link.client import dial_local
from gridnode.link.local import by_permission, listening_locally
from gridnode.link.protocol import Link
from gridnode.model import Role
from gridnode.wire import Op
from tests.fakes.peers import End


@pytest.fixture
def private(tmp_path: Path) -> Path:
    directory = tmp_path / "p"
    directory.mkdir(mode=0o700)
    return directory


@pytest.fixture
def end() -> End:
    return End()


@pytest.fixture
async def path(tmp_path: Path, private: Path, end: End) -> AsyncIterator[Path]:
    """A socket that is listened on."""
    path = tmp_path / "client.sock"
    async with listening_locally(path, private, None, lambda: Link(end, LinkLimits(), by_permission)):
        yield path


def names(directory: Path) -> list[str]:
    return sorted(os.listdir(directory))


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def test_a_call_over_it_has_the_role_of_its_permission(path: Path, end: End) -> None:
    link = await dial_local(path, End(), LinkLimits())
    await link.wait_open()
    assert await link.request(Op.INVOKE, b"1", name="echo") == b"1"
    assert [one.peer.role for one in end.links if one.peer] == [Role.LOCAL]
    link.close()
    await link.wait_closed()


async def test_only_its_owner_may_open_it(path: Path) -> None:
    assert mode(path) == 0o600


async def test_its_group_may_when_one_is_named(tmp_path: Path, private: Path, end: End) -> None:
    path = tmp_path / "client.sock"
    group = os.getgid()
    async with listening_locally(path, private, group, lambda: Link(end, LinkLimits(), by_permission)):
        assert (mode(path), path.stat().st_gid) == (0o660, group)


async def test_it_is_gone_with_its_node(tmp_path: Path, private: Path, end: End) -> None:
    path = tmp_path / "client.sock"
    async with listening_locally(path, private, None, lambda: Link(end, LinkLimits(), by_permission)):
        assert path.is_socket()
    assert names(tmp_path) == ["p"]
    assert names(private) == []


async def test_what_an_earlier_life_left_is_replaced(tmp_path: Path, private: Path, path: Path, end: End) -> None:
    later = End()
    async with listening_locally(path, private, None, lambda: Link(later, LinkLimits(), by_permission)):
        link = await dial_local(path, End(), LinkLimits())
        await link.wait_open()
        link.close()
        await link.wait_closed()
    assert (len(later.links), len(end.links)) == (1, 0)


async def test_a_node_that_goes_leaves_the_socket_of_another(tmp_path: Path, private: Path, end: End) -> None:
    path, later = tmp_path / "client.sock", End()
    first = listening_locally(path, private, None, lambda: Link(end, LinkLimits(), by_permission))
    await first.__aenter__()
    async with listening_locally(path, private, None, lambda: Link(later, LinkLimits(), by_permission)):
        await first.__aexit__(None, None, None)
        assert names(tmp_path) == ["client.sock", "p"]


async def test_no_other_file_is_replaced(tmp_path: Path, private: Path, end: End) -> None:
    path = tmp_path / "client.sock"
    path.write_text("precious")
    with pytest.raises(SettingsInvalid, match="no socket"):
        async with listening_locally(path, private, None, lambda: Link(end, LinkLimits(), by_permission)):
            pass
    assert path.read_text() == "precious"


async def test_a_path_that_is_too_long_is_said(tmp_path: Path, end: End) -> None:
    private = tmp_path / ("x" * 100)
    private.mkdir()
    with pytest.raises(SettingsInvalid, match="107 bytes"):
        async with listening_locally(tmp_path / "c", private, None, lambda: Link(end, LinkLimits(), by_permission)):
            pass


async def test_nobody_there_is_an_error_with_the_path(tmp_path: Path) -> None:
    with pytest.raises(LinkClosed, match=r"nothing\.sock"):
        await dial_local(tmp_path / "nothing.sock", End(), LinkLimits())


async def test_a_socket_that_we_may_not_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(*arguments: object) -> object:
        raise PermissionError(13, "Permission denied")

    class Loop:
        create_unix_connection = staticmethod(refuse)

    monkeypatch.setattr("asyncio.get_running_loop", lambda: Loop)
    with pytest.raises(Forbidden) as caught:
        await dial_local(tmp_path / "s", End(), LinkLimits())
    monkeypatch.undo()
    assert "GRIDNODE_CLIENT_GROUP" in (caught.value.hint or "")
