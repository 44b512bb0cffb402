"""JSON on one line, whatever comes."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridnode.errors import BodyInvalid
from gridnode.json_line import json_line

VALUES = st.recursive(st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(), st.lists, max_leaves=10)


@given(VALUES, st.sampled_from([None, 1, "\r\n"]))
def test_the_value_stays(value: object, indent: int | str | None) -> None:
    text = json.dumps(value, indent=indent)
    line = json_line(text.encode("utf-8", "surrogatepass"))
    assert b"\n" not in line
    assert b"\r" not in line
    assert json.loads(line) == value


@given(st.binary(max_size=50))
def test_garbage_is_refused_or_is_json(body: bytes) -> None:
    try:
        line = json_line(body)
    except BodyInvalid:
        return
    json.loads(line.decode())
    assert b"\n" not in line


@pytest.mark.parametrize("body", [b"{", b"1 2", b"1\n\ndata: 2", b'"\xff"', b"[" * 100_000, b"\xed\xa0\x80"])
def test_what_is_no_json(body: bytes) -> None:
    with pytest.raises(BodyInvalid):
        json_line(body)


def test_nothing_is_null() -> None:
    assert json_line(b"") == b"null"
