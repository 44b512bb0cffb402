"""Where in a TOML text each key and value stands; the standard parser does not say."""

import re
import tomllib
from typing import Final

__all__ = ["Path", "key_lines", "value_spans"]

Path = tuple[str, ...]
"""The keys from the root to a value."""

MAX_DEPTH: Final = 64
_BETWEEN: Final = re.compile(r"(?:[\s,]|#[^\n]*)*+")
_PART: Final = r"""(?:[A-Za-z0-9_-]+|"(?:[^"\\\n]|\\.)*+"|'[^'\n]*')"""
_KEY: Final = re.compile(rf"{_PART}(?:[ \t]*\.[ \t]*{_PART})*+")
_PARTS: Final = re.compile(_PART)
_EQUALS: Final = re.compile(r"[ \t]*=[ \t]*")
_HEADER: Final = re.compile(r"\[\[?[ \t]*")
_HEADER_END: Final = re.compile(r"[ \t]*\]\]?")
_SCALAR: Final = re.compile(
    r'''"""(?:[^"\\]|\\.|"{1,2}(?!"))*+"{3,5}|\'\'\'(?:[^']|'{1,2}(?!'))*+'{3,5}'''
    r"""|"(?:[^"\\\n]|\\.)*+"|'[^'\n]*'|[^\n,\]}#]+""",
    re.DOTALL,
)


def key_lines(text: str) -> dict[Path, int]:
    """Where each table and key of a valid TOML text is first named, counted from 1; an array's tables share a path.

    What is deeper than MAX_DEPTH is left out.
    """
    return _Scan(text).run()


def value_spans(text: str) -> dict[Path, tuple[int, int]]:
    """Where each value of a valid TOML text that is no table and no array begins and ends, quotes included."""
    scan = _Scan(text)
    scan.run()
    return scan.spans


class _Scan:
    """One pass, without recursion. within: the tables and arrays around the place, and whether each is an array."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._line, self._counted = 1, 0
        self._found: dict[Path, int] = {}
        self.spans: dict[Path, tuple[int, int]] = {}
        self._within: list[tuple[Path, bool]] = [((), False)]

    def run(self) -> dict[Path, int]:
        while self._take(_BETWEEN) is not None and self._at < len(self._text):
            path, is_array = self._within[-1]
            if self._text[self._at] in "]}":
                self._within.pop()
                self._at += 1
            elif is_array:
                self._value(path)
            elif self._text[self._at] == "[":
                self._take(_HEADER)
                self._within = [(self._key(()), False)]
                self._take(_HEADER_END)
            else:
                path = self._key(path)
                self._take(_EQUALS)
                start = self._at
                self._value(path)
                if self._text[start] not in "[{":
                    self.spans[path] = start, self._at
        return self._found

    def _value(self, path: Path) -> None:
        opening = self._text[self._at]
        if opening in "[{":
            self._within.append((path, opening == "["))
            self._at += 1
        else:
            self._take(_SCALAR)

    def _key(self, path: Path) -> Path:
        """The path of the key at this place, below `path`; every part of it is noted."""
        self._line += self._text.count("\n", self._counted, self._at)
        self._counted = self._at
        for part in _PARTS.findall(self._take(_KEY))[: max(0, MAX_DEPTH - len(path))]:
            path = (*path, _unquoted(part))
            self._found.setdefault(path, self._line)
        return path

    def _take(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self._text, self._at)
        if match is None:
            raise ValueError(f"not valid TOML at character {self._at}")
        self._at = match.end()
        return match[0]


def _unquoted(part: str) -> str:
    if part[0] == "'" or (part[0] == '"' and "\\" not in part):
        return part[1:-1]
    return next(iter(tomllib.loads(f"{part}=0"))) if part[0] == '"' else part
