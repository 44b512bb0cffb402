import base64
import os
import stat
from pathlib import Path

import pytest

from gridctl.new import card_text, find_gridfile, load_gridfile, new_gridfile
from gridnode.errors import GridfileInvalid, UsageError, WeakSecret
from gridnode.gridfile import parse_card, parse_gridfile, parse_secret
from gridnode.model import Address


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_gridfile_is_private_complete_and_readable(tmp_path: Path) -> None:
    directory = tmp_path / "my grid!"
    directory.mkdir()
    made = new_gridfile(directory, servers=["root@10.0.0.1:2222"], seeds=["10.0.0.1:7401"])
    assert mode(made.path) == 0o600
    assert os.listdir(directory) == ["Gridfile"]
    gridfile = load_gridfile(made.path)
    assert gridfile == made.gridfile
    assert gridfile.warnings == ()
    assert gridfile.grid_name == "my-grid"
    assert parse_secret(gridfile.grid_password) is not None
    assert gridfile.ssh_key.startswith("-----BEGIN OPENSSH PRIVATE KEY-----\n")
    assert gridfile.ssh_key.endswith("-----END OPENSSH PRIVATE KEY-----\n")
    kind, blob, comment = gridfile.ssh_public_key.split()
    assert (kind, comment) == ("ssh-ed25519", "gridcontrol:my-grid")
    assert len(base64.b64decode(blob)) == 51
    assert gridfile.seeds == (Address("10.0.0.1", 7401),)


def test_it_reads_like_the_originals(tmp_path: Path) -> None:
    lines = new_gridfile(tmp_path, "g").path.read_text().splitlines()
    assert lines[1] == "# Gridfile Server Access ID Card"
    keys = [line.split(" ")[0] for line in lines if " = " in line]
    assert keys == ["grid_name", "grid_password", "servers", "ssh_key", "ssh_public_key"]
    assert "  'ubuntu@ip1'," in lines


def test_every_new_gridfile_is_another_grid(tmp_path: Path) -> None:
    first = new_gridfile(tmp_path).gridfile
    second = new_gridfile(tmp_path, force=True).gridfile
    assert first.grid_password != second.grid_password
    assert first.ssh_key != second.ssh_key


def test_an_existing_gridfile_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "Gridfile"
    path.write_text("mine")
    path.chmod(0o644)
    with pytest.raises(UsageError, match="is there already") as caught:
        new_gridfile(tmp_path)
    assert "--force" in str(caught.value.hint)
    assert path.read_text() == "mine"
    made = new_gridfile(tmp_path, force=True)
    assert made.backup == tmp_path / "Gridfile.bak"
    assert made.backup.read_text() == "mine"
    assert mode(made.backup) == mode(made.path) == 0o600
    again = new_gridfile(tmp_path, force=True)
    assert again.backup == tmp_path / "Gridfile.bak2"
    assert made.backup.read_text() == "mine"
    assert sorted(os.listdir(tmp_path)) == ["Gridfile", "Gridfile.bak", "Gridfile.bak2"]


def test_a_dangling_link_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "Gridfile").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError):
        new_gridfile(tmp_path)
    assert not (tmp_path / "elsewhere").exists()


def test_bad_arguments_are_usage_errors(tmp_path: Path) -> None:
    for arguments in ({"name": "a b"}, {"servers": ["a b"]}, {"seeds": ["u@h"]}):
        with pytest.raises(UsageError):
            new_gridfile(tmp_path, **arguments)
    with pytest.raises(UsageError, match="cannot be written"):
        new_gridfile(tmp_path / "missing")
    assert os.listdir(tmp_path) == []


def test_a_gridfile_others_can_read_warns(tmp_path: Path) -> None:
    path = new_gridfile(tmp_path).path
    path.chmod(0o640)
    assert load_gridfile(path).warnings == (
        f"{path}: other users of this machine can read the grid's secrets: chmod 600 {path}",
    )


def test_unreadable_gridfiles_are_named(tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes(b"a\n\xe9")
    for name, message in (("none", "No such file"), (".", "Is a directory"), ("latin", "line 2 is not UTF-8")):
        with pytest.raises(GridfileInvalid, match=message) as caught:
            load_gridfile(tmp_path / name)
        assert str(tmp_path / name) in caught.value.message


def test_the_gridfile_is_found_by_flag_variable_and_upward(tmp_path: Path) -> None:
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    with pytest.raises(UsageError, match="no Gridfile in"):
        find_gridfile(below, environ={})
    path = new_gridfile(tmp_path).path
    assert find_gridfile(below, environ={}) == path
    environ = {"GRIDCTL_GRIDFILE": "/by/variable"}
    assert find_gridfile(below, environ=environ) == Path("/by/variable")
    assert find_gridfile(below, "/by/flag", environ) == Path("/by/flag")


def test_cards(tmp_path: Path) -> None:
    gridfile = new_gridfile(tmp_path, servers=["root@10.0.0.1"]).gridfile
    card = parse_card(card_text(gridfile, "web1", labels={"zone": "a"}))
    assert card.labels == {"host": "web1", "zone": "a"}
    assert card.seeds == (Address("10.0.0.1", 7400),)
    assert parse_card(card_text(gridfile, "web1", seeds=())).seeds == ()
    assert card.issuer != parse_card(card_text(gridfile, "web1")).issuer
    for secret in (gridfile.grid_password, gridfile.ssh_key):
        assert secret not in card_text(gridfile, "web1")
    with pytest.raises(UsageError):
        card_text(gridfile, "web1", ttl=0)


def test_a_weak_password_mints_no_card() -> None:
    with pytest.raises(WeakSecret):
        card_text(parse_gridfile("grid_name='g'\nservers=[]\ngrid_password='password'"), "web1")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_gridfile_that_another_user_laid_above_is_not_taken(tmp_path: Path) -> None:
    gridfile = new_gridfile(tmp_path).path
    assert find_gridfile(tmp_path, environ={}) == gridfile
    os.chown(gridfile, 65534, 65534)
    with pytest.raises(UsageError, match="belongs to another user"):
        find_gridfile(tmp_path, environ={})
    assert find_gridfile(tmp_path, str(gridfile), environ={}) == gridfile
