"""The store is cut off at every point: by SIGKILL, and by power cuts that lose what was not fsynced."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gridnode.errors import SyncError
from gridnode.model import ChunkHash
from gridnode.sync import pack_files, store
from gridnode.sync.chunk import chunk_hash, encode
from gridnode.sync.store import DiskChunkStore

PACK_SIZE = 4000
CALLS = ("open", "pwritev", "fsync", "ftruncate", "unlink")
"""The system calls that packs are made with; opens to read count as points too."""
CONTENTS = [bytes([n]) * n * 7 + os.urandom(40) for n in range(60)]
Told = Callable[[list[ChunkHash], list[ChunkHash]], None]
"""Hears of chunks that are held from now on, and of those that may go from now on."""


def names(contents: list[bytes]) -> list[ChunkHash]:
    return [chunk_hash(content) for content in contents]


def live(store: DiskChunkStore, told: Told) -> None:
    """Some of everything a store does: puts, deletes, and packs written anew."""
    for start in range(0, 60, 12):
        batch = CONTENTS[start : start + 12]
        store.put_batch([(chunk_hash(content), encode(content)) for content in batch])
        told(names(batch), [])
        if start == 24:
            dead = names(CONTENTS[:24:2])
            told([], dead)
            store.delete(dead)
            store.compact()
    told([], names(CONTENTS[24:60:2]))
    store.delete(names(CONTENTS[24:60:2]))
    store.compact()
    store.put(chunk_hash(b"the last"), b"the last")
    told([chunk_hash(b"the last")], [])


class Held:
    """What was told to be held, and not to go, so far."""

    def __init__(self) -> None:
        self.names: set[ChunkHash] = set()

    def __call__(self, come: list[ChunkHash], gone: list[ChunkHash]) -> None:
        self.names = (self.names | set(come)) - set(gone)


class Calls:
    """Stands in for `os` in pack_files: `at` is called around each of CALLS."""

    def __init__(self, at: Callable[[str, tuple[Any, ...], Callable[[], Any]], Any]) -> None:
        self._at = at

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name not in CALLS:
            return real
        return lambda *arguments: self._at(name, arguments, lambda: real(*arguments))


def check(directory: Path, held: set[ChunkHash]) -> None:
    """The store opens, has all that was held, nothing that is not what its name says, and goes on."""
    opened = DiskChunkStore(directory, pack_size=PACK_SIZE, reserve=1)
    try:
        assert opened.missing(held) == []
        for chunk in opened.hashes():
            assert chunk_hash(opened.get(chunk)) == chunk
        assert opened.quarantined() == {}
        opened.compact()
        opened.put(chunk_hash(b"after"), b"after")
        assert opened.missing(held) == []
        assert opened.get(chunk_hash(b"after")) == b"after"
    finally:
        opened.close()


# -- SIGKILL --------------------------------------------------------------------------------------------------------


def killed_at(directory: Path, point: int, half: bool) -> bool:
    """Run `live` in a child that is killed at its n-th call, or half way into it; whether it came to that."""
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "the child failed otherwise"
        return os.WIFSIGNALED(status)
    try:
        count = 0

        def at(name: str, arguments: tuple[Any, ...], real: Callable[[], Any]) -> Any:
            nonlocal count
            count += 1
            if count == point:
                die(name, arguments, real)
            return real()

        def die(name: str, arguments: tuple[Any, ...], real: Callable[[], Any]) -> None:
            if half and name == "pwritev":
                descriptor, pieces, offset = arguments
                whole = b"".join(pieces)
                os.pwrite(descriptor, whole[: len(whole) // 2], offset)
            elif half:
                real()
            os.kill(os.getpid(), signal.SIGKILL)

        pack_files.os = Calls(at)  # type: ignore[assignment, attr-defined]
        log = os.open(directory / "told", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

        def told(come: list[ChunkHash], gone: list[ChunkHash]) -> None:
            line = json.dumps([[name.hex() for name in come], [name.hex() for name in gone]])
            os.write(log, line.encode() + b"\n")

        live(DiskChunkStore(directory, pack_size=PACK_SIZE, reserve=1), told)
        os._exit(0)
    except BaseException as exc:
        sys.stderr.write(f"{exc!r}\n")
        os._exit(1)


def told_in(directory: Path) -> set[ChunkHash]:
    held = Held()
    path = directory / "told"
    for line in path.read_text().splitlines() if path.exists() else ():
        come, gone = json.loads(line)
        held([ChunkHash(bytes.fromhex(name)) for name in come], [ChunkHash(bytes.fromhex(name)) for name in gone])
    return held.names


@pytest.mark.parametrize("half", [False, True], ids=["before", "half way"])
def test_a_kill_at_any_call_loses_nothing(tmp_path: Path, half: bool) -> None:
    point = 0
    while True:
        point += 1
        directory = tmp_path / str(point)
        directory.mkdir()
        if not killed_at(directory, point, half):
            break
        check(directory, told_in(directory))
    assert point > 60
    check(directory, told_in(directory))


# -- power cuts -----------------------------------------------------------------------------------------------------


class Disk:
    """The packs as a disk that loses power would have them: what was fsynced, and of the rest what `keep` says.

    Names (created, unlinked) count as kept once the directory was fsynced, or by `keep` too.
    """

    def __init__(self) -> None:
        self.safe: dict[str, bytes] = {}
        self.now: dict[str, bytes] = {}
        self._open: dict[int, str] = {}

    def call(self, name: str, arguments: tuple[Any, ...], real: Callable[[], Any]) -> Any:
        done = real()
        match name:
            case "open":
                self._open[done] = Path(arguments[0]).name
                if arguments[1] & os.O_CREAT:
                    self.now.setdefault(self._open[done], b"")
            case "pwritev":
                descriptor, pieces, offset = arguments
                whole = self.now[self._open[descriptor]]
                self.now[self._open[descriptor]] = whole[:offset] + b"".join(pieces)[:done]
            case "ftruncate":
                self.now[self._open[arguments[0]]] = self.now[self._open[arguments[0]]][: arguments[1]]
            case "unlink":
                self.now.pop(Path(arguments[0]).name, None)
            case "fsync":
                path = self._open[arguments[0]]
                if path in self.now:
                    self.safe[path] = self.now[path]
                else:  # the directory: what is gone is gone
                    self.safe = {name: content for name, content in self.safe.items() if name in self.now}
        return done


def nothing_unsynced(safe: bytes, now: bytes) -> bytes:
    return safe


def half_unsynced(safe: bytes, now: bytes) -> bytes:
    return now[: (len(safe) + len(now)) // 2]


def zeros_unsynced(safe: bytes, now: bytes) -> bytes:
    """As a file system that knows the new length, and not yet the bytes."""
    return safe + bytes(max(0, len(now) - len(safe)))


def all_unsynced(safe: bytes, now: bytes) -> bytes:
    return now


KEEPS = [nothing_unsynced, half_unsynced, zeros_unsynced, all_unsynced]
Moment = tuple[dict[str, bytes], dict[str, bytes], dict[str, bytes], set[ChunkHash]]
"""Packs as fsynced and as written, the index's files, and what was held."""


def moments(directory: Path, monkeypatch: pytest.MonkeyPatch) -> list[Moment]:
    """After every call, and between calls when the index changed or something was told."""
    disk, held, found = Disk(), Held(), list[Moment]()

    def note() -> None:
        index = {path.name: path.read_bytes() for path in (directory / "packs").glob("index*")}
        found.append((dict(disk.safe), dict(disk.now), index, set(held.names)))

    def at(name: str, arguments: tuple[Any, ...], real: Callable[[], Any]) -> Any:
        note()
        return disk.call(name, arguments, real)

    def told(come: list[ChunkHash], gone: list[ChunkHash]) -> None:
        held(come, gone)
        note()

    with monkeypatch.context() as patched:
        patched.setattr(pack_files, "os", Calls(at))
        opened = DiskChunkStore(directory, pack_size=PACK_SIZE, reserve=1)
        live(opened, told)
        note()
        opened.close()
    return found


@pytest.mark.parametrize("keep", KEEPS)
def test_a_power_cut_at_any_moment_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep: Callable[[bytes, bytes], bytes]
) -> None:
    (tmp_path / "live").mkdir()
    found = moments(tmp_path / "live", monkeypatch)
    assert len(found) > 60
    monkeypatch.setattr(pack_files.os, "fsync", lambda descriptor: None)  # hundreds of stores, which nobody cuts off
    for number, (safe, now, index, held) in enumerate(found):
        # The index may be as it was, or as it was at the start, when none of it had reached the disk, or lost.
        for last, files in enumerate((index, found[number // 2][2], {})):
            directory = tmp_path / f"{number}-{last}"
            (directory / "packs").mkdir(parents=True)
            for name in safe.keys() | (now.keys() if keep is not nothing_unsynced else set()):
                content = keep(safe.get(name, b""), now.get(name, safe.get(name, b"")))
                (directory / "packs" / name).write_bytes(content)
            for name, content in files.items():
                (directory / "packs" / name).write_bytes(content)
            check(directory, held)
            shutil.rmtree(directory)


# -- full disks -----------------------------------------------------------------------------------------------------


@pytest.fixture
def limited() -> Iterator[Callable[[int], None]]:
    """Sets how large a file may get: a real limit of the kernel's, for want of a small disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, ignored)


def test_a_write_that_the_kernel_cuts_short_loses_nothing(tmp_path: Path, limited: Callable[[int], None]) -> None:
    opened = DiskChunkStore(tmp_path, pack_size=store.PACK_SIZE)
    large = [os.urandom(50_000) for _ in range(20)]
    kept, refused = [], []
    limited(300_000)
    for content in large:
        try:
            opened.put(chunk_hash(content), content)
            kept.append(content)
        except SyncError as exc:
            refused.append(exc.message)
    limited(resource.RLIM_INFINITY)
    assert 4 < len(kept) < 20
    assert all("File too large" in message for message in refused)
    assert opened.missing(names(large)) == [name for name in names(large) if name not in names(kept)]
    assert all(opened.get(chunk_hash(content)) == content for content in kept)
    for content in large:
        opened.put(chunk_hash(content), content)
    opened.close()
    check(tmp_path, set(names(large)))


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MiB."""
    place = tmp_path / "tiny"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], check=False)
    if mounted.returncode:
        pytest.skip("only root can mount a small disk")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk_loses_nothing_and_goes_on_once_there_is_room(tiny: Path) -> None:
    opened = DiskChunkStore(tiny, pack_size=100_000, reserve=100_000)
    kept: list[bytes] = []
    refused: dict[bytes, SyncError] = {}
    for number in range(600):
        content = os.urandom(5000 if number % 10 else 70_000)
        try:
            opened.put(chunk_hash(content), content)
            kept.append(content)
        except SyncError as exc:
            refused[content] = exc
    assert len(kept) > 20
    assert len(refused) > 20
    assert all(exc.hint for exc in refused.values())
    assert opened.missing(names(list(refused))) == names(list(refused))
    assert all(opened.get(chunk_hash(content)) == content for content in kept)
    opened.close()
    opened = DiskChunkStore(tiny, pack_size=100_000, reserve=100_000)
    assert opened.missing(names(kept)) == []
    opened.delete(names(kept[::2]))
    assert opened.compact() > 0
    for content in kept[:10:2]:
        opened.put(chunk_hash(content), content)
    opened.close()
    check(tiny, set(names(kept[1::2] + kept[:10:2])))
