"""What a second deploy reads of a project, and what it must read whatever the cache says."""

import os
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gridctl import project as module
from gridctl.project import Project, Seen, scan
from gridctl.stat_cache import StatCache
from gridnode.sync.chunk import ChunkRef, chunk_hash

LONG_AGO = time.time_ns() - 3600 * 10**9


@pytest.fixture
def top(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project that seems to have been written long ago: ctime is whatever now is, so now is set off."""
    top = tmp_path / "shop"
    (top / "tasks").mkdir(parents=True)
    (top / "tasks" / "echo.py").write_text("def handler(event):\n    return event\n")
    (top / os.fsdecode(b"caf\xe9\n")).write_bytes(b"x" * 1000)
    (top / "large").write_bytes(os.urandom(100_000))
    monkeypatch.setattr(module.time, "time_ns", lambda real=time.time_ns: real() + 3600 * 10**9)
    return top


def deploy(top: Path, below: Path) -> Project:
    """Reads the project as `gridctl deploy` does."""
    cache = StatCache(top, below)
    seen = cache.load()
    project = scan(top, seen=seen)
    cache.save(seen)
    return project


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that are read for their chunks."""
    read: list[str] = []
    real = module._Ingest._read

    def noted(self: module._Ingest, one: module._Found) -> object:
        read.append(one.path)
        return real(self, one)

    monkeypatch.setattr(module._Ingest, "_read", noted)
    return read


def test_a_file_that_did_not_change_is_not_read_again(top: Path, tmp_path: Path, reads: list[str]) -> None:
    first = deploy(top, tmp_path / "cache")
    assert len(reads) == 3
    reads.clear()
    second = deploy(top, tmp_path / "cache")
    assert reads == []
    assert second.manifest == first.manifest
    assert all(second.read_chunk(name) == first.read_chunk(name) for name in first.chunks)


def test_a_file_that_changed_is_read(top: Path, tmp_path: Path, reads: list[str]) -> None:
    deploy(top, tmp_path / "cache")
    before = (top / "large").stat()
    (top / "large").write_bytes(b"y" * 100_000)
    os.utime(top / "large", ns=(before.st_atime_ns, before.st_mtime_ns))
    reads.clear()
    project = deploy(top, tmp_path / "cache")
    assert reads == ["large"]
    assert b"y" * 65536 in b"".join(project.read_chunk(name) for name in project.chunks)


def test_a_file_of_the_same_status_in_another_place_is_read(top: Path, tmp_path: Path, reads: list[str]) -> None:
    deploy(top, tmp_path / "cache")
    (top / "large").rename(top / "renamed")
    reads.clear()
    deploy(top, tmp_path / "cache")
    assert reads == ["renamed"]
    os.rename(top, tmp_path / "elsewhere")
    reads.clear()
    deploy(tmp_path / "elsewhere", tmp_path / "cache")
    assert len(reads) == 3


def test_a_file_written_just_now_is_read_again(
    top: Path, tmp_path: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within a tick of the clock it could be written again and look the same."""
    monkeypatch.undo()
    deploy(top, tmp_path / "cache")
    assert {stamp for stamp, _ in StatCache(top, tmp_path / "cache").load().values()} == set()


def test_a_file_from_the_future_is_read_again(top: Path, tmp_path: Path, reads: list[str]) -> None:
    os.utime(top / "large", ns=(0, time.time_ns() + 7200 * 10**9))
    deploy(top, tmp_path / "cache")
    reads.clear()
    deploy(top, tmp_path / "cache")
    assert reads == ["large"]


def test_another_version_reads_everything(
    top: Path, tmp_path: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    deploy(top, tmp_path / "cache")
    monkeypatch.setattr("gridctl.stat_cache.__version__", "0.0.0")
    assert StatCache(top, tmp_path / "cache").load() == {}


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 10_000), st.binary(max_size=40))
def test_a_damaged_cache_is_none(top: Path, tmp_path: Path, at: int, patch: bytes) -> None:
    cache = StatCache(top, tmp_path / "cache")
    known: Seen = {"a": ((1, 2, 3, 4), (ChunkRef(chunk_hash(b"a"), 1),))}
    cache.save(known)
    assert cache.load() == known
    (path,) = (tmp_path / "cache").iterdir()
    whole = path.read_bytes()
    at %= len(whole)
    damaged = whole[:at] + patch
    path.write_bytes(damaged)
    assert cache.load() == (known if damaged == whole else {})


def test_a_cache_that_cannot_be_written_is_no_error(top: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    StatCache(top, tmp_path / "file" / "below").save({})
    assert StatCache(top, tmp_path / "file" / "below").load() == {}


def test_old_caches_go(tmp_path: Path) -> None:
    for number in range(40):
        StatCache(tmp_path / str(number), tmp_path / "cache").save({"a": ((number,), ())})
        (path,) = [path for path in (tmp_path / "cache").iterdir() if path.stat().st_mtime_ns > LONG_AGO + 10**9]
        os.utime(path, ns=(0, LONG_AGO - (40 - number) * 10**9))
    assert StatCache(tmp_path / "0", tmp_path / "cache").load() == {}
    assert StatCache(tmp_path / "39", tmp_path / "cache").load() == {"a": ((39,), ())}
    assert len(list((tmp_path / "cache").iterdir())) == 32
