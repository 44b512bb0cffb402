import os
import threading
from pathlib import Path

import pytest

from gridctl import vendored
from gridctl.grafts import Graft, check_links, pieces_of
from gridctl.vendored import TREE, Cache, Fetched, Vendored, cache_directory
from gridnode.errors import DependencyError, ProjectInvalid
from gridnode.sync.chunk import chunk_hash
from gridnode.sync.manifest import EntryKind

LARGE = os.urandom(300_000)


def fill(place: Path) -> Fetched:
    tree = place / TREE
    (tree / "a" / "b").mkdir(parents=True)
    (tree / "a" / "large.so").write_bytes(LARGE)
    (tree / "a" / "b" / "x.py").write_text("1")
    (tree / "a" / "empty").touch()
    (tree / "a" / "run").write_text("#!")
    (tree / "a" / "run").chmod(0o755)
    (tree / "link").symlink_to("a/b")
    return Fetched(("a 1.0",), ("a note",))


def never(place: Path) -> Fetched:
    raise AssertionError("fetched again")


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def test_a_tree_is_kept_with_its_chunks(cache: Cache) -> None:
    assert cache.get("key") is None
    cache.put("key", fill)
    found = cache.get("key")
    assert found
    assert (found.packages, found.notes) == (("a 1.0",), ("a note",))
    pieces = {piece.path: piece for piece in found.pieces()}
    assert set(pieces) == {"a/b/x.py", "a/empty", "a/large.so", "a/run", "link"}
    assert (pieces["a/run"].kind, pieces["link"].target) == (EntryKind.EXECUTABLE, "a/b")
    assert pieces["a/empty"].refs == ()
    refs, offset = pieces["a/large.so"].refs, 0
    assert len(refs) > 1
    for ref in refs:
        assert chunk_hash(LARGE[offset : offset + ref.length]) == ref.hash
        offset += ref.length
    assert offset == len(LARGE)


def test_nobody_else_may_read_it(cache: Cache, tmp_path: Path) -> None:
    cache.put("key", fill)
    assert (tmp_path / "cache").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("harm", ["gone", "cut", "index", "garbage"])
def test_a_tree_that_is_not_whole_is_fetched_again(cache: Cache, tmp_path: Path, harm: str) -> None:
    cache.put("key", fill)
    place = tmp_path / "cache" / "key"
    match harm:
        case "gone":
            (place / TREE / "a" / "run").unlink()
        case "cut":
            (place / TREE / "a" / "large.so").write_bytes(b"")
        case "index":
            (place / "index").unlink()
        case _:
            (place / "index").write_bytes(b"\xc1" * 100)
    assert cache.get("key") is None
    assert cache.put("key", fill).is_whole()
    assert cache.get("key")


def test_what_fails_leaves_nothing(cache: Cache, tmp_path: Path) -> None:
    def fail(place: Path) -> Fetched:
        fill(place)
        raise ProjectInvalid("no")

    with pytest.raises(ProjectInvalid):
        cache.put("key", fail)
    assert list((tmp_path / "cache").iterdir()) == []


def test_deploys_at_the_same_time(cache: Cache, tmp_path: Path) -> None:
    """Both fetch, one is kept, and both have a whole tree."""
    meet = threading.Barrier(6)
    found: list[Vendored] = []

    def fetch(place: Path) -> Fetched:
        fetched = fill(place)
        meet.wait(30)
        return fetched

    jobs = [threading.Thread(target=lambda: found.append(cache.put("key", fetch))) for _ in range(6)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join(30)
    assert len(found) == 6
    assert all(tree.is_whole() for tree in found)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["key"]


def test_what_was_not_used_for_long_goes(cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vendored, "KEPT", 2)
    for number, key in enumerate("abc"):
        cache.put(key, fill)
        os.utime(tmp_path / "cache" / key, (number, number))
    (tmp_path / "cache" / ".new-left").mkdir()
    os.utime(tmp_path / "cache" / ".new-left", (1, 1))
    (tmp_path / "cache" / ".new-others").mkdir()
    assert cache.get("a")
    cache.put("d", fill)
    assert {path.name for path in (tmp_path / "cache").iterdir()} == {"a", "c", "d", ".new-others"}


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DependencyError, match="cannot keep packages in"):
        Cache(tmp_path / "file" / "cache").put("key", never)


def test_what_no_release_can_hold(cache: Cache) -> None:
    def fifo(place: Path) -> Fetched:
        os.mkfifo(place / TREE / "fifo")
        return Fetched(())

    with pytest.raises(ProjectInvalid, match="FIFO"):
        cache.put("key", fifo)


def test_links_stay_in_the_project(cache: Cache) -> None:
    def link(place: Path) -> Fetched:
        (place / TREE / "lib").symlink_to("../lib")
        return Fetched(())

    tree = cache.put("key", link)
    check_links(Graft("node_modules", tree))

    def out(place: Path) -> Fetched:
        (place / TREE / "lib").symlink_to("../../lib")
        return Fetched(())

    with pytest.raises(ProjectInvalid, match="out of the tree"):
        check_links(Graft("node_modules", cache.put("out", out)))


def test_of_two_files_at_one_place_the_first_counts(cache: Cache) -> None:
    def one(text: str, own: str) -> Vendored:
        def fetch(place: Path) -> Fetched:
            (place / TREE / "shared.js").write_text(text)
            (place / TREE / own).touch()
            return Fetched(())

        return cache.put(own, fetch)

    grafts = [Graft("node_modules", one("1", "x64")), Graft("node_modules", one("22", "arm64"))]
    pieces = list(pieces_of(grafts))
    assert sorted(path for path, _ in pieces) == [f"node_modules/{name}" for name in ("arm64", "shared.js", "x64")]
    assert dict(pieces)["node_modules/shared.js"].refs[0].length == 1


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_directory() == tmp_path / "gridcontrol" / "vendor"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_directory() == tmp_path / ".cache" / "gridcontrol" / "vendor"
