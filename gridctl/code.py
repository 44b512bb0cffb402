"""What a task may read of its project, as one hash: the same hash, and its instances can go on through a deploy.

A task reads its own file, everything that is no task, and those task files that its own file, or one that it may
import, names: a word that is another task file's name is enough, so that it errs on the side of a fresh instance.
What grid.toml says is in the settings already.
"""

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import PurePosixPath
from typing import Final

import msgspec

from gridctl.gridtoml import GRID_TOML
from gridctl.tasks import is_source
from gridnode.model import TaskSpec
from gridnode.sync.manifest import EntryKind
from gridnode.sync.tree import Source

__all__ = ["with_code"]

_WORD: Final = re.compile(rb"[A-Za-z_][A-Za-z0-9_-]*")
_PACKAGES: Final = (".vendor", "vendor", "node_modules")
"""Directories whose files are no project's own: they name none of its tasks."""


def with_code(
    tasks: Iterable[TaskSpec], sources: Iterable[Source], read: Callable[[str], bytes]
) -> tuple[TaskSpec, ...]:
    """The tasks, each with its code. sources: all that the release holds; read: a file of the project's own."""
    specs = tuple(tasks)
    by_path = {"/".join(source.path): source for source in sources}
    own = {spec.file: by_path[spec.file] for spec in specs}
    others = {path: source for path, source in by_path.items() if path not in own and path != GRID_TOML}
    names = _names(own)
    everybody = {file for text in _shared(others, read) for file in _named(text, names)}
    named = {file: _named(read(file), names) for file in own}
    base = _digest(others)
    return tuple(msgspec.structs.replace(spec, code=_code(spec.file, base, own, named, everybody)) for spec in specs)


def _shared(others: Mapping[str, Source], read: Callable[[str], bytes]) -> Iterator[bytes]:
    """What might name a task file, of all that is none: programs' texts, and where links lead."""
    for path, source in others.items():
        if source.kind is EntryKind.LINK:
            yield os.fsencode(source.target)
        elif source.kind is not EntryKind.DIRECTORY and is_source(PurePosixPath(path)) and not _is_package(path):
            yield read(path)


def _names(files: Iterable[str]) -> dict[bytes, set[str]]:
    """Task files by the word that would name one: two directories may have one of the same name."""
    found: dict[bytes, set[str]] = {}
    for file in files:
        found.setdefault(PurePosixPath(file).stem.encode(), set()).add(file)
    return found


def _named(text: bytes, names: Mapping[bytes, set[str]]) -> set[str]:
    words = set(_WORD.findall(text))
    return {file for name, files in names.items() if name in words for file in files}


def _code(file: str, base: bytes, own: Mapping[str, Source], named: Mapping[str, set[str]], everybody: set[str]) -> str:
    reads = {file}
    waiting = [file, *everybody]
    while waiting:
        one = waiting.pop()
        reads.add(one)
        waiting += named[one] - reads
    whole = hashlib.sha256(base)
    whole.update(_digest({path: own[path] for path in reads}))
    return whole.hexdigest()


def _digest(sources: Mapping[str, Source]) -> bytes:
    whole = hashlib.sha256()
    for part in _parts(sources):
        whole.update(len(part).to_bytes(8, "big"))
        whole.update(part)
    return whole.digest()


def _parts(sources: Mapping[str, Source]) -> Iterator[bytes]:
    """Whatever makes two trees differ, in order."""
    for path, source in sorted(sources.items()):
        yield os.fsencode(path)
        yield str(source.kind).encode()
        yield os.fsencode(source.target)
        yield b"".join(ref.hash for ref in source.refs)


def _is_package(path: str) -> bool:
    return any(part in _PACKAGES for part in PurePosixPath(path).parts)
