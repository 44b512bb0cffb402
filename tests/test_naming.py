"""Names that are made up, which hostnames are none, and who gives way."""

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from gridnode.model import NodeId, NodeRecord
from gridnode.naming import gives_way, is_name, made_name, says_nothing
from gridnode.own_name import MAX_CHANGES, OwnName

NODE, OTHER = NodeId("ab" * 20), NodeId("cd" * 20)
RECORD = NodeRecord(NODE, "web", 1, 0, (), "1", 1000)


@pytest.mark.parametrize(
    "hostname",
    [
        "",
        "(none)",
        "localhost",
        "localhost.localdomain",
        "LOCALHOST",
        "debian",
        "ubuntu.local",
        "0a1b2c3d4e5f",
        "f" * 64,
    ],
)
def test_hostnames_that_say_nothing(hostname: str) -> None:
    assert says_nothing(hostname)


@pytest.mark.parametrize(
    "hostname", ["web-1", "node-1", "ip-10-0-0-1", "db.example.org", "cafe", "debian-3", "deadbeef"]
)
def test_hostnames_that_do(hostname: str) -> None:
    assert not says_nothing(hostname)


@given(st.integers(0, (1 << 160) - 1), st.sets(st.text(max_size=5)))
def test_a_made_name_is_a_name_and_stays(number: int, taken: set[str]) -> None:
    node = NodeId(f"{number:040x}")
    name = made_name(node, taken)
    assert is_name(name)
    assert name == made_name(node, taken)
    assert not says_nothing(name)


def test_a_made_name_is_never_one_that_is_taken() -> None:
    taken: set[str] = set()
    for _ in range(200):
        name = made_name(NODE, taken)
        assert name not in taken
        taken.add(name)


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (replace(RECORD, id=OTHER, started=999), True),
        (replace(RECORD, id=OTHER, started=1001), False),
        (replace(RECORD, id=OTHER), False),
        (replace(RECORD, id=NodeId("00" * 20)), True),
        (replace(RECORD, id=OTHER, started=999, name="db"), False),
    ],
)
def test_who_gives_way(other: NodeRecord, expected: bool) -> None:
    assert gives_way(RECORD, other) is expected
    assert not (gives_way(RECORD, other) and gives_way(other, RECORD))


def test_a_name_that_is_given_stays(tmp_path: Path) -> None:
    name = OwnName(tmp_path / "name", NODE, "localhost", "localhost")
    assert name.text == "localhost"
    assert (
        name.compare(replace(RECORD, name="localhost"), [replace(RECORD, name="localhost", started=1)]) == "localhost"
    )
    assert not (tmp_path / "name").exists()


def test_a_host_of_some_name_gives_it(tmp_path: Path) -> None:
    assert OwnName(tmp_path / "name", NODE, "", "web").text == "web"
    assert not (tmp_path / "name").exists()
    assert OwnName(tmp_path / "name", NODE, "", "db").text == "db"


def test_a_made_name_is_kept_on_disk(tmp_path: Path) -> None:
    made = OwnName(tmp_path / "name", NODE, "", "localhost").text
    assert made == made_name(NODE)
    assert (tmp_path / "name").read_text() == f"{made}\n"
    (tmp_path / "name").write_text("chosen-before\n")
    assert OwnName(tmp_path / "name", NODE, "", "localhost").text == "chosen-before"


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"two words", b"x" * 65, b"../up", b"a\nb"])
def test_a_damaged_name_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "name").write_bytes(content)
    assert OwnName(tmp_path / "name", NODE, "", "debian").text == made_name(NODE)


def test_who_came_later_takes_another_name_and_keeps_it(tmp_path: Path) -> None:
    name = OwnName(tmp_path / "name", NODE, "", "web")
    assert name.compare(RECORD, []) == "web"
    first = replace(RECORD, id=OTHER, started=1)
    other = name.compare(RECORD, [first])
    assert other == made_name(NODE) != "web"
    assert OwnName(tmp_path / "name", NODE, "", "web").text == other


def test_a_peer_cannot_have_it_change_its_name_for_ever(tmp_path: Path) -> None:
    name = OwnName(tmp_path / "name", NODE, "", "web")
    names = [name.text]
    for _ in range(50):
        own = replace(RECORD, name=name.text)
        names.append(name.compare(own, [replace(own, id=OTHER, started=1)]))
    assert sum(before != after for before, after in pairwise(names)) == MAX_CHANGES


def test_a_disk_that_refuses_is_no_reason_to_stop(tmp_path: Path) -> None:
    assert OwnName(tmp_path / "missing" / "name", NODE, "", "localhost").text == made_name(NODE)
