import stat
from pathlib import Path

from gridnode.sandbox.runtime_files import lay_out
from gridnode.sandbox.spec import ENTRYPOINTS


def test_every_runtime_is_there_and_nobody_can_write_it(tmp_path: Path) -> None:
    directory = lay_out(tmp_path / "runtimes")
    assert {program[-1].rpartition("/")[2] for program in ENTRYPOINTS.values() if program} <= {
        path.name for path in directory.iterdir()
    }
    assert {stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()} == {0o444}
    assert stat.S_IMODE(directory.stat().st_mode) == 0o555


def test_it_is_made_once_and_named_by_its_content(tmp_path: Path) -> None:
    directory = lay_out(tmp_path / "runtimes")
    made = directory.stat().st_ino
    assert lay_out(tmp_path / "runtimes") == directory
    assert directory.stat().st_ino == made
    assert [path.name for path in directory.parent.iterdir()] == [directory.name]
    assert lay_out(tmp_path / "elsewhere").name == directory.name
