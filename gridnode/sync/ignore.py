"""`.gridignore`: which entries of a project never leave it. Git's semantics, in git's order of evaluation.

The last rule that matches an entry decides. An ignored directory is pruned, so nothing below it can come back.
Our own, for lack of a library that agrees with git: pathspec 1.1 fails ten of its test's cases, `*`, `!*/` among them.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

IGNORE_FILE = ".gridignore"

_ALWAYS = re.compile(
    r"\.git|\.hg|\.svn|\.gridctl|\.demo|__pycache__|.*\.pyc|\.venv|\.DS_Store"
    # The Gridfile and cards hold the grid's secrets; so do the copies that editors and people leave beside them.
    r"|.*Gridfile.*|Card|.*\.card",
    re.DOTALL,
)
_CLASSES = {
    b"alnum": rb"0-9A-Za-z",
    b"alpha": rb"A-Za-z",
    b"blank": rb" \t",
    b"cntrl": rb"\x00-\x1f\x7f",
    b"digit": rb"0-9",
    b"graph": rb"!-~",
    b"lower": rb"a-z",
    b"print": rb" -~",
    b"punct": rb"!-/:-@\[-`{-~",
    b"space": rb" \t-\r",
    b"upper": rb"A-Z",
    b"xdigit": rb"0-9A-Fa-f",
}
_NEVER = rb"(?!)"


class Rule(NamedTuple):
    """One line. base: the directory of its file with a trailing slash, or empty."""

    pattern: re.Pattern[bytes]
    negated: bool
    dir_only: bool
    name_only: bool
    base: bytes


class Ignore:
    """The rules in force in one directory of a project."""

    def __init__(self, rules: tuple[Rule, ...] = ()) -> None:
        self._rules = rules

    def below(self, directory: str, text: bytes) -> "Ignore":
        """These rules, then those of the ignore file `text` of `directory` (relative; empty for the top)."""
        base = _raw(directory) + b"/" if directory else b""
        return Ignore(self._rules + tuple(parse(text, base)))

    def ignores(self, path: str, *, is_dir: bool) -> bool:
        """Whether the entry at `path` (relative to the project, its parents not ignored) stays behind."""
        name = path.rpartition("/")[2]
        if _ALWAYS.fullmatch(name):
            return True
        raw_path, raw_name = _raw(path), _raw(name)
        for rule in reversed(self._rules):
            if (rule.dir_only and not is_dir) or not raw_path.startswith(rule.base):
                continue
            if rule.pattern.fullmatch(raw_name if rule.name_only else raw_path[len(rule.base) :]):
                return not rule.negated
        return False


def parse(text: bytes, base: bytes = b"") -> Iterator[Rule]:
    """The rules of an ignore file, in order; no line is an error, as in git."""
    for line in text.removeprefix(b"\xef\xbb\xbf").split(b"\n"):
        pattern = _trim(line.removesuffix(b"\r"))
        if not pattern or pattern.startswith(b"#"):
            continue
        negated = pattern.startswith(b"!")
        pattern = pattern.removeprefix(b"!")
        dir_only = pattern.endswith(b"/")
        pattern = pattern[:-1] if dir_only else pattern
        name_only = b"/" not in pattern
        yield Rule(_compile(pattern.removeprefix(b"/")), negated, dir_only, name_only, base)


def _raw(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _trim(line: bytes) -> bytes:
    """Without trailing spaces, save one that a backslash keeps."""
    kept = line.rstrip(b" ")
    slashes = len(kept) - len(kept.rstrip(b"\\"))
    return line[: len(kept) + 1] if slashes % 2 else kept


def _compile(pattern: bytes) -> re.Pattern[bytes]:
    out: list[bytes] = []
    at = literal = len(re.match(rb"[^*?\[\\]*", pattern)[0])  # type: ignore[index]
    out.append(re.escape(pattern[:at]))
    while at < len(pattern):
        match pattern[at : at + 1]:
            case b"*":
                at, piece = _stars(pattern, at, literal)
            case b"?":
                at, piece = at + 1, rb"[^/]"
            case b"[":
                at, piece = _bracket(pattern, at)
            case b"\\":
                at, piece = at + 2, re.escape(pattern[at + 1 : at + 2]) or _NEVER
            case char:
                at, piece = at + 1, re.escape(char)
        out.append(piece)
    return re.compile(b"".join(out), re.DOTALL)


def _stars(pattern: bytes, at: int, start: int) -> tuple[int, bytes]:
    """`**` spans directories when it is a whole path component; git takes `start` for such a border too."""
    end = at
    while pattern[end : end + 1] == b"*":
        end += 1
    rest = pattern[end : end + 2]
    whole = at == start or pattern[at - 1 : at] == b"/"
    if end - at < 2 or not whole or not (rest[:1] in (b"", b"/") or rest == rb"\/"):
        return end, rb"[^/]*"
    return (end + 1, rb"(?:.*/)?") if rest[:1] == b"/" else (end, rb".*")


def _bracket(pattern: bytes, at: int) -> tuple[int, bytes]:
    """A set of characters, which never holds the slash; one without an end never matches."""
    found = re.compile(rb"\[([!^]?)(\]?(?:\\.|\[:[^\]]*:\]|[^\]\\])*)\]", re.DOTALL).match(pattern, at)
    if not found:
        return len(pattern), _NEVER
    members = _members(found[2])
    if members is None:
        return len(pattern), _NEVER
    if not members:
        return found.end(), rb"[^/]" if found[1] else _NEVER
    return found.end(), (rb"[^/" + members + b"]") if found[1] else (rb"(?!/)[" + members + b"]")


def _members(body: bytes) -> bytes | None:
    """The inside of a set in `re` syntax; None when it names an unknown class."""
    out: list[bytes] = []
    tokens = re.findall(rb"\[:([^\]]*):\]|(\\?.)", body, re.DOTALL)
    at = 0
    while at < len(tokens):
        name, char = tokens[at]
        if not char:
            if name not in _CLASSES:
                return None
            out.append(_CLASSES[name])
        elif at + 2 < len(tokens) and tokens[at + 1][1] == b"-" and tokens[at + 2][1]:
            low, high = char[-1], tokens[at + 2][1][-1]
            out.append(b"%b-%b" % (_member(low), _member(high)) if low <= high else _member(low))
            at += 2
        else:
            out.append(_member(char[-1]))
        at += 1
    return b"".join(out)


def _member(value: int) -> bytes:
    return rb"\x%02x" % value
