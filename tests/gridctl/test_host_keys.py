import tomllib
from pathlib import Path

import pytest

from gridctl.host_keys import pinned
from gridctl.new import new_gridfile
from gridnode.errors import GridfileInvalid
from gridnode.gridfile import parse_gridfile, render_gridfile

KEY = "ssh-ed25519 " + "A" * 68
OTHER = "ssh-ed25519 " + "B" * 68
TEXT = "grid_name = 'g' # mine\nservers = ['a', 'b:2222']\n"


def test_the_first_key_begins_a_table_and_the_rest_stays() -> None:
    text = pinned(TEXT, "a", KEY)
    assert text.startswith(TEXT)
    assert parse_gridfile(text).host_keys == {"a": KEY}


@pytest.mark.parametrize("end", ["", "\n", "\n\n[settings]\nlocal_deploys = true\n", "\nallow_weak_password = false"])
def test_more_keys_join_it(end: str) -> None:
    text = pinned(pinned(TEXT + end.lstrip("\n"), "a", KEY), "b:2222", OTHER)
    text = pinned(text, "[fe80::1]:22", KEY)
    assert parse_gridfile(text).host_keys == {"a": KEY, "b:2222": OTHER, "[fe80::1]:22": KEY}
    assert text.count("[host_keys]") == 1
    before = tomllib.loads(TEXT + end.lstrip("\n"))
    assert {name: value for name, value in tomllib.loads(text).items() if name != "host_keys"} == before


def test_tables_after_it_stay_what_they_are() -> None:
    text = pinned(f"{TEXT}[host_keys]\n'a' = '{KEY}'\n[settings]\nlocal_deploys = true", "b:2222", OTHER)
    assert parse_gridfile(text).local_deploys
    assert parse_gridfile(text).host_keys == {"a": KEY, "b:2222": OTHER}


def test_a_header_without_a_newline() -> None:
    assert parse_gridfile(pinned(TEXT + "[host_keys]", "a", KEY)).host_keys == {"a": KEY}


@pytest.mark.parametrize("table", [f"host_keys = {{ a = '{KEY}' }}\n", f"host_keys.a = '{KEY}'\n"])
def test_a_table_in_another_form_is_refused(table: str) -> None:
    with pytest.raises(GridfileInvalid):
        pinned(TEXT + table, "b:2222", OTHER)


def test_a_whole_gridfile_keeps_its_keys(tmp_path: Path) -> None:
    made = new_gridfile(tmp_path, servers=["root@a"])
    parsed = parse_gridfile(pinned(made.path.read_text(), "a", KEY))
    assert parse_gridfile(render_gridfile(parsed)) == parsed
    assert parsed.host_keys == {"a": KEY}


@pytest.mark.parametrize("key", ["", "ssh-ed25519", "ssh-ed25519 AAAA", KEY + " comment", "x\n" + KEY])
def test_what_is_no_host_key_is_refused(key: str) -> None:
    with pytest.raises(GridfileInvalid):
        parse_gridfile(f"{TEXT}[host_keys]\na = {key!r}\n".replace("\\n", "\\n"))


@pytest.mark.parametrize("image", ["-v", "a b", "x\n", "$(id)", "é"])
def test_what_is_no_image_is_refused(image: str) -> None:
    import json

    with pytest.raises(GridfileInvalid, match="image"):
        parse_gridfile(f"{TEXT}image = {json.dumps(image)}\n")
