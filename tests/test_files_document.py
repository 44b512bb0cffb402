"""Directories of files in the ledger."""

from contextlib import suppress

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from gridnode.errors import LedgerError
from gridnode.files_document import FILES, open_files, sign_files
from gridnode.ledger import Document, sign_document
from gridnode.model import FileSet, Root

KEY = b"k" * 32
SOUND = FileSet(Root("c" * 64), 10, 2, 1, "me@here")


def test_files_come_back_as_they_were_signed() -> None:
    assert open_files(sign_files(KEY, "geo", SOUND, 1)) == SOUND
    assert open_files(sign_files(KEY, "geo", None, 2)) is None
    assert open_files(sign_files(KEY, "geo", replace(SOUND, size=0, count=0), 3)) == replace(SOUND, size=0, count=0)


@pytest.mark.parametrize(
    "files",
    [
        replace(SOUND, root=Root("c" * 63)),
        replace(SOUND, root=Root("../" + "c" * 61)),
        replace(SOUND, size=-1),
        replace(SOUND, count=1 << 53),
        replace(SOUND, created=-1),
        replace(SOUND, by="x" * 256),
        replace(SOUND, by="a\x1b"),
    ],
)
def test_what_nobody_pushes(files: FileSet) -> None:
    with pytest.raises(LedgerError):
        sign_files(KEY, "geo", files, 1)


@pytest.mark.parametrize("name", ["Geo", "a/b", "..", ".a", "a" * 65, "a\n"])
def test_names_that_cannot_be(name: str) -> None:
    with pytest.raises(LedgerError):
        sign_files(KEY, name, SOUND, 1)


def test_another_kind() -> None:
    with pytest.raises(LedgerError):
        open_files(Document("image", "geo", 1, b"", "0" * 64))


@given(
    st.binary(max_size=100) | st.recursive(st.integers(0, 1 << 60) | st.text(), st.lists).map(msgspec.msgpack.encode)
)
def test_garbage(body: bytes) -> None:
    with suppress(LedgerError):
        open_files(sign_document(KEY, FILES, "geo", 1, body))
