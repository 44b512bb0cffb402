import asyncio
from pathlib import Path

import pytest

from gridctl.watch import changes
from gridnode.errors import UsageError


async def collected(directory: Path, wanted: set[str], write: list[str]) -> set[str]:
    """What is told until all that is wanted was; files are written again and again meanwhile."""
    told: set[str] = set()

    async def read() -> None:
        async for paths in changes(directory):
            told.update(paths)
            if wanted <= told:
                return

    reading = asyncio.create_task(read())
    async with asyncio.timeout(30):
        while not reading.done():
            for path in write:
                (directory / path).parent.mkdir(parents=True, exist_ok=True)
                (directory / path).write_text(str(len(told)))
            await asyncio.wait({reading}, timeout=0.1)
    reading.result()
    return told


async def test_changes_are_told_by_path_and_what_no_release_holds_is_not(tmp_path: Path) -> None:
    written = ["tasks/a.py", "new/deep/b.txt", ".git/index", "tasks/__pycache__/a.pyc", ".gridctl/dev/x", "tasks/c.pyc"]
    told = await collected(tmp_path, {"tasks/a.py", "new/deep/b.txt"}, written)
    assert not any(part in path for path in told for part in (".git", "__pycache__", ".pyc"))


async def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is gone"):
        await anext(changes(tmp_path / "gone"))
