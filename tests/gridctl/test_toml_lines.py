import re
import tomllib
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridctl.toml_lines import Path, key_lines, value_spans

TEXT = (
    r'''# a comment with [tasks.fake] and key = 1
top = 1   # [x]
"quo.ted" . 'li#teral'.bare = "a # b"

[defaults]
arr = [ "]", '[', # ] }
  { inner = [1, 2], other = "}" },
  1979-05-27 07:32:00,
]
text = """
[tasks.fake]
fake = "x" \""" ""
""""
raw = '''
    + """'''
fake = 1
'''''"""
    + r"""
after = 1979-05-27 07:32:00 # date

  [ tasks . "a.b" ]
inline = { x = 1, y.z = { w = "}" }, "k\u0065y" = [ ] }
empty = ""
env.A = '' # e
env.B = {}
[[many]]
k = 1
[[many]]
k = 2
[tasks.req.env]
LAST=0"""
)


def test_every_way_to_write_a_key() -> None:
    assert key_lines(TEXT) == {
        ("top",): 2,
        ("quo.ted",): 3,
        ("quo.ted", "li#teral"): 3,
        ("quo.ted", "li#teral", "bare"): 3,
        ("defaults",): 5,
        ("defaults", "arr"): 6,
        ("defaults", "arr", "inner"): 7,
        ("defaults", "arr", "other"): 7,
        ("defaults", "text"): 10,
        ("defaults", "raw"): 14,
        ("defaults", "after"): 17,
        ("tasks",): 19,
        ("tasks", "a.b"): 19,
        ("tasks", "a.b", "inline"): 20,
        ("tasks", "a.b", "inline", "x"): 20,
        ("tasks", "a.b", "inline", "y"): 20,
        ("tasks", "a.b", "inline", "y", "z"): 20,
        ("tasks", "a.b", "inline", "y", "z", "w"): 20,
        ("tasks", "a.b", "inline", "key"): 20,
        ("tasks", "a.b", "empty"): 21,
        ("tasks", "a.b", "env"): 22,
        ("tasks", "a.b", "env", "A"): 22,
        ("tasks", "a.b", "env", "B"): 23,
        ("many",): 24,
        ("many", "k"): 25,
        ("tasks", "req"): 28,
        ("tasks", "req", "env"): 28,
        ("tasks", "req", "env", "LAST"): 29,
    }
    assert set(paths(tomllib.loads(TEXT))) == set(key_lines(TEXT))


@pytest.mark.parametrize("text", ["", "\n", "# only a comment", "a=1", "a=1\r\nb=2\r\n", "[a]", "a = [\n\n]\nb=1"])
def test_small_texts(text: str) -> None:
    assert set(key_lines(text)) == set(paths(tomllib.loads(text)))


def test_depth_costs_no_recursion() -> None:
    assert key_lines("a = " + "[" * 50_000 + "]" * 50_000 + "\nb = 1") == {("a",): 1, ("b",): 2}


def test_what_is_very_deep_is_left_out() -> None:
    found = key_lines("a." * 100_000 + "a = 1\nb = 1")
    assert (found["a",], found["a", "a"], found["b",], len(found)) == (1, 1, 2, 65)


def paths(value: Any, above: Path = ()) -> Iterator[Path]:
    """Every key's path, as the parser sees it."""
    if isinstance(value, list):
        for item in value:
            yield from paths(item, above)
    if isinstance(value, dict):
        for key, item in value.items():
            yield (*above, key)
            yield from paths(item, (*above, key))


@st.composite
def quoted(draw: st.DrawFn, name: str) -> str:
    """A key as TOML lets one write it."""
    escaped = "".join(f"\\u{ord(char):04x}" if draw(st.booleans()) else char for char in name)
    return draw(st.sampled_from([name, f'"{name}"', f"'{name}'", f'"{escaped}"']))


scalars = st.sampled_from(
    [
        *("1", "-0.5", "true", '""', "''", '"#"', "'\\'", '"\\""', '"]}"', "1979-05-27 07:32:00", "inf"),
        *('"""\n[x]\nk0 = 1 # \\""x" """', "'''\n[x]\nk0 = '' '''", '"""a"""""', "''''''", '"""\\\n  x"""'),
    ]
)
blanks = st.sampled_from(["", "\n", "# [x]\n", "  \t\n", '# k0 = """\n'])


@st.composite
def documents(draw: st.DrawFn) -> str:
    """A valid text; every key in it has a name of its own, k0 k1 ..., but those in arrays of tables."""
    number = iter(range(1000))

    def key() -> str:
        parts = [draw(quoted(f"k{next(number)}")) for _ in range(draw(st.integers(1, 3)))]
        return draw(st.sampled_from([".", " . ", "\t."])).join(parts)

    def value(depth: int) -> str:
        kind = draw(st.sampled_from(["scalar", "array", "table"])) if depth else "scalar"
        if kind == "array":
            between = draw(st.sampled_from([", ", ",\n", "\n# ]\n,\n"]))
            return "[" + between.join(value(depth - 1) for _ in range(draw(st.integers(0, 3)))) + " ]"
        if kind == "table":
            return "{ " + ", ".join(pair(depth - 1) for _ in range(draw(st.integers(0, 2)))) + " }"
        return str(draw(scalars))

    def pair(depth: int) -> str:
        return f"{key()} = {value(depth)}"

    text = ""
    for _ in range(draw(st.integers(0, 3))):
        for _ in range(draw(st.integers(0, 4))):
            text += draw(blanks) + draw(st.sampled_from(["", "  "])) + pair(2) + draw(st.sampled_from(["\n", " # x\n"]))
        text += draw(blanks) + draw(st.sampled_from(["[{}]\n", "[ {} ] # k0\n", "[[{}]]\n"])).format(key())
    return text


@given(documents())
def test_the_line_holds_the_key(text: str) -> None:
    found = key_lines(text)
    assert set(found) == set(paths(tomllib.loads(text)))
    lines = text.split("\n")
    for path, line in found.items():
        plain = re.sub(r"\\u([0-9a-f]{4})", lambda match: chr(int(match[1], 16)), lines[line - 1])
        assert path[-1] in plain


@given(st.text(alphabet="ab.=\"'[]{}#, \n\\1"))
def test_any_valid_text_is_scanned_and_no_other_one_hangs(text: str) -> None:
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    assert set(key_lines(text)) == set(paths(table))


def test_a_span_is_what_the_value_is_written_as() -> None:
    found = {path: TEXT[start:end] for path, (start, end) in value_spans(TEXT).items()}
    assert found["top",].strip() == "1"
    assert found["quo.ted", "li#teral", "bare"] == '"a # b"'
    assert found["defaults", "raw"].startswith("'''")
    assert tomllib.loads(f"x = {found['defaults', 'text']}")["x"] == tomllib.loads(TEXT)["defaults"]["text"]
    assert found["tasks", "req", "env", "LAST"] == "0"
    assert ("defaults", "arr") not in found
    assert ("tasks",) not in found
