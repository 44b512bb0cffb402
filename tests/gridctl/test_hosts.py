"""Host keys of servers that are dialled more than once before the Gridfile is read again."""

from pathlib import Path

import pytest

from gridctl.hosts import _pin
from gridctl.new import load_gridfile, new_gridfile
from gridnode.errors import HostKeyChanged, UsageError
from gridnode.gridfile import Server

SERVER = Server("10.0.0.1", "root")
KEY = "ssh-ed25519 " + "A" * 68
OTHER = "ssh-ed25519 " + "B" * 68


def test_a_key_is_written_once_and_another_is_refused(tmp_path: Path) -> None:
    path = new_gridfile(tmp_path, "g").path
    pin = _pin(path)
    pin(SERVER, KEY)
    text = path.read_text()
    pin(SERVER, KEY)
    assert path.read_text() == text
    assert load_gridfile(path).host_keys == {"10.0.0.1": KEY}
    with pytest.raises(HostKeyChanged):
        pin(SERVER, OTHER)
    assert path.read_text() == text


def test_a_gridfile_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be written"):
        _pin(tmp_path / "none")(SERVER, KEY)
