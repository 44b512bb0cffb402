"""Another SSH key in a Gridfile's text: nothing else of it changes."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridctl.new import new_gridfile, new_key_pair
from gridctl.ssh_key import KeyPair, with_key
from gridnode.errors import GridfileInvalid
from gridnode.gridfile import parse_gridfile

PAIR = KeyPair(*new_key_pair("g"))
NONE = "grid_name = 'g' # mine\nservers = ['a', 'b:2222']\n"


def test_a_new_gridfile_gets_another_key(tmp_path: Path) -> None:
    text = new_gridfile(tmp_path, "g", servers=["root@a"]).path.read_text()
    old, changed = parse_gridfile(text), with_key(text, PAIR)
    assert parse_gridfile(changed).ssh_key == PAIR.private
    assert parse_gridfile(changed).ssh_public_key == PAIR.public
    assert with_key(changed, KeyPair(old.ssh_key, old.ssh_public_key)) == text


@pytest.mark.parametrize(
    "line",
    [
        "",
        'ssh_key = """\nold\n""" # one\nssh_public_key = \'ssh-ed25519 AAAA\' # two\n',
        "ssh_public_key = ''\n",
        "'ssh_key'   =   ''\n",
        "# ssh_key = 'of long ago'\n",
    ],
)
@pytest.mark.parametrize("end", ["", "[settings]\nlocal_deploys = true", "\n[host_keys]\n"])
def test_however_it_is_written(line: str, end: str) -> None:
    parsed = parse_gridfile(with_key(NONE + line + end, PAIR))
    assert (parsed.ssh_key, parsed.ssh_public_key) == (PAIR.private, PAIR.public)
    assert "# mine" in with_key(NONE + line + end, PAIR)
    assert parsed.local_deploys == parse_gridfile(NONE + line + end).local_deploys


def test_a_key_that_ends_the_string_changes_nothing_else() -> None:
    evil = KeyPair("x\n'''\nservers = ['evil']\nx = '''\n", PAIR.public)
    assert parse_gridfile(with_key(NONE, evil)).servers == parse_gridfile(NONE).servers


@given(st.text(max_size=200), st.text(max_size=60))
def test_any_key_is_in_it_as_it_is_or_refused(private: str, public: str) -> None:
    try:
        parsed = parse_gridfile(with_key(NONE, KeyPair(private, public)))
    except GridfileInvalid:
        return
    assert parsed.ssh_key.strip() == private.strip()
    assert parsed.servers == parse_gridfile(NONE).servers


def test_a_private_key_is_not_in_a_repr() -> None:
    assert "PRIVATE" not in repr(PAIR)
    assert PAIR.public in repr(PAIR)
