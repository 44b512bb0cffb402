import os
import stat
from pathlib import Path

import pytest

from gridnode.errors import CardInvalid
from gridnode.files import KEY_SIZE, node_key, write_durably


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_key_is_made_once(tmp_path: Path) -> None:
    key = node_key(tmp_path / "key")
    assert len(key) == KEY_SIZE
    assert node_key(tmp_path / "key") == key
    assert node_key(tmp_path / "other") != key
    assert mode(tmp_path / "key") == 0o600


@pytest.mark.parametrize("content", [b"", b"x" * 31, b"x" * 33])
def test_a_damaged_key_is_said_and_kept(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "key"
    path.write_bytes(content)
    with pytest.raises(CardInvalid, match="damaged"):
        node_key(path)
    assert path.read_bytes() == content


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_durably(path, b"old" * 1000)
    write_durably(path, b"new", 0o640)
    assert path.read_bytes() == b"new"
    assert mode(path) == 0o640
    assert os.listdir(tmp_path) == ["file"]


def test_a_write_that_fails_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_durably(path, b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_durably(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_what_a_crash_left_aside_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / ".file.new").write_bytes(b"half a file")
    write_durably(tmp_path / "file", b"new")
    assert os.listdir(tmp_path) == ["file"]
