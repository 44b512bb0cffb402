"""requirements.txt, as far as gridctl reads it itself: what it names, where packages come from. uv does the rest."""

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from gridnode.errors import ProjectInvalid

__all__ = ["Requirements", "line_of", "read_requirements"]

MAX_FILES: Final = 32
_COMMENT: Final = re.compile(r"(?:^|\s)#.*")
_INCLUDE: Final = re.compile(r"(?:-r|-c|--requirements?|--constraints?)[\s=]*(?P<file>\S.*)")
_SOURCE: Final = re.compile(
    r"(?:-i|--index-url|--extra-index-url|--no-index|-f|--find-links|--trusted-host)(?:[\s=].*)?"
)
_FIND_LINKS: Final = re.compile(r"(?:-f|--find-links)[\s=]*(?P<place>\S.*)")
_EDITABLE: Final = re.compile(r"-e|--editable\b")
_ARCHIVES: Final = (".whl", ".tar.gz", ".zip")

Read = Callable[[Path, str], bytes]


class Requirements(NamedTuple):
    """packages: how many lines ask for one; options: those that say where from; parts: all that decides the result."""

    packages: int
    options: tuple[str, ...]
    parts: tuple[str | bytes, ...]


def read_requirements(directory: Path, name: str, read: Read) -> Requirements:
    """The file and those that it includes; `read` gives a file's content. ProjectInvalid."""
    waiting, seen = [name], set[str]()
    packages, options = 0, list[str]()
    parts: list[str | bytes] = []
    while waiting:
        file = waiting.pop(0)
        if file in seen:
            continue
        seen.add(file)
        if len(seen) > MAX_FILES:
            raise ProjectInvalid(f"{name} includes more than {MAX_FILES} files")
        for number, line in _lines(_decoded(file, read(directory, file))):
            parts.append(line)
            if _EDITABLE.match(line):
                hint = "the project is on the path of its tasks already: take the line out"
                raise ProjectInvalid(
                    f"{file}, line {number}: an editable package is a place on this machine", hint=hint
                )
            if included := _INCLUDE.fullmatch(line):
                waiting.append(_included(directory, file, number, included["file"]))
            elif _SOURCE.fullmatch(line):
                options.append(line)
                parts += _listing(directory, line)
            else:
                packages += not line.startswith("--")
                parts += _local(directory, line)
    return Requirements(packages, tuple(options), tuple(parts))


def _decoded(file: str, content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        line = content.count(b"\n", 0, exc.start) + 1
        raise ProjectInvalid(f"{file}, line {line}: not UTF-8", hint="save it as UTF-8") from exc


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """(number, line) without comments, lines that end in a backslash joined."""
    held, first = "", 0
    for number, raw in enumerate(text.splitlines(), 1):
        line = _COMMENT.sub("", raw)
        first = first or number
        if line.endswith("\\"):
            held += line[:-1] + " "
            continue
        joined = (held + line).strip()
        if joined:
            yield first, joined
        held, first = "", 0
    if held.strip():
        yield first, held.strip()


def _included(directory: Path, file: str, number: int, named: str) -> str:
    """The path of a file that `file` includes, from the project's directory."""
    path = os.path.normpath(os.path.join(os.path.dirname(file), named.strip()))
    if not os.path.isfile(directory / path):
        raise ProjectInvalid(f"{file}, line {number}: there is no file {path}")
    return path


def _listing(directory: Path, line: str) -> Iterator[str]:
    """What lies in a directory of packages: another file there can be another choice."""
    found = _FIND_LINKS.fullmatch(line)
    place = directory / _path(found["place"]) if found else None
    if place and os.path.isdir(place):
        with os.scandir(place) as entries:
            yield from sorted(_glance(one.name, one.stat()) for one in entries)


def _local(directory: Path, line: str) -> Iterator[str]:
    """What there is to see of a package that is a file: reading it could take long."""
    named = _path(line.rpartition(" @ ")[2].partition(";")[0])
    if named.endswith(_ARCHIVES) and os.path.isfile(directory / named):
        yield _glance(named, (directory / named).stat())


def _path(text: str) -> str:
    return text.strip().removeprefix("file://")


def _glance(name: str, status: os.stat_result) -> str:
    return f"{name} {status.st_size} {status.st_mtime_ns}"


def line_of(content: bytes, offset: int) -> int:
    """The number of the line where this byte is."""
    return content.count(b"\n", 0, offset) + 1
