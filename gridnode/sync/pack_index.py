"""Where each chunk lies: a SQLite file beside the packs. Only they count: what is lost of it, a scan brings back.

So a commit need not reach the disk at once (`synchronous = NORMAL`), only never tear the file.
"""

import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

from gridnode.errors import SyncError
from gridnode.model import ChunkHash
from gridnode.sync.pack import Record

_VERSION = 1
_SCHEMA = f"""
CREATE TABLE packs (pack INTEGER PRIMARY KEY, end INTEGER NOT NULL);
CREATE TABLE chunks (
    hash BLOB PRIMARY KEY, pack INTEGER NOT NULL, offset INTEGER NOT NULL, size INTEGER NOT NULL
) WITHOUT ROWID;
CREATE UNIQUE INDEX by_place ON chunks (pack, offset, size);
CREATE TABLE quarantine (hash BLOB PRIMARY KEY, at REAL NOT NULL, why TEXT NOT NULL) WITHOUT ROWID;
PRAGMA user_version = {_VERSION};
"""
_PAGE = 4096
_MAX_QUARANTINED = 10_000


class Place(NamedTuple):
    """Where a chunk's record lies."""

    pack: int
    offset: int
    size: int


class PackIndex:
    """path: its file, made when it is not there, and made anew when it is damaged. SyncError when the disk refuses."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        try:
            self._base = _open(path)
        except sqlite3.DatabaseError:
            for suffix in ("", "-wal", "-shm"):
                path.with_name(path.name + suffix).unlink(missing_ok=True)
            with self._translated():
                self._base = _open(path)

    def close(self) -> None:
        with self._lock, self._translated():
            self._base.close()

    def find(self, chunk: ChunkHash) -> Place | None:
        with self._lock, self._translated():
            row = self._base.execute("SELECT pack, offset, size FROM chunks WHERE hash = ?", (chunk,)).fetchone()
        return Place(*row) if row else None

    def missing(self, chunks: Iterable[ChunkHash]) -> list[ChunkHash]:
        """Those not there, in the order given, each once."""
        wanted = list(dict.fromkeys(chunks))
        lacking: list[ChunkHash] = []
        for start in range(0, len(wanted), _PAGE):
            with self._lock, self._translated():
                for chunk in wanted[start : start + _PAGE]:
                    if not self._base.execute("SELECT 1 FROM chunks WHERE hash = ?", (chunk,)).fetchone():
                        lacking.append(chunk)
        return lacking

    def chunks(self) -> Iterator[tuple[ChunkHash, Place]]:
        """All of them, in the order they lie in; one that is moved meanwhile comes at least once."""
        at = (-1, -1)
        while True:
            with self._lock, self._translated():
                rows = self._base.execute(
                    "SELECT hash, pack, offset, size FROM chunks WHERE (pack, offset) > (?, ?)"
                    " ORDER BY pack, offset LIMIT ?",
                    (*at, _PAGE),
                ).fetchall()
            if not rows:
                return
            yield from ((ChunkHash(row[0]), Place(*row[1:])) for row in rows)
            at = rows[-1][1], rows[-1][2]

    def count(self) -> int:
        with self._lock, self._translated():
            (found,) = self._base.execute("SELECT COUNT(*) FROM chunks").fetchone()
        return int(found)

    def lying_in(self, pack: int) -> list[Record]:
        """The chunks of a pack, in order."""
        with self._lock, self._translated():
            rows = self._base.execute(
                "SELECT hash, offset, size FROM chunks WHERE pack = ? ORDER BY offset", (pack,)
            ).fetchall()
        return [Record(ChunkHash(row[0]), row[1], row[2]) for row in rows]

    def live(self) -> dict[int, int]:
        """Bytes of records in use, by pack; packs without any are not in it."""
        with self._lock, self._translated():
            return dict(self._base.execute("SELECT pack, SUM(size) FROM chunks GROUP BY pack").fetchall())

    def ends(self) -> dict[int, int]:
        """Up to where each pack is known."""
        with self._lock, self._translated():
            return dict(self._base.execute("SELECT pack, end FROM packs").fetchall())

    def add(self, pack: int, end: int, records: Iterable[Record]) -> None:
        """Chunks that lie there now, wherever they lay before; the pack is known up to `end`. They are sound."""
        with self._changing() as base:
            rows = [(one.chunk, pack, one.offset, one.size) for one in records]
            base.executemany("INSERT OR REPLACE INTO chunks VALUES (?, ?, ?, ?)", rows)
            base.executemany("DELETE FROM quarantine WHERE hash = ?", [row[:1] for row in rows])
            base.execute("INSERT OR REPLACE INTO packs VALUES (?, ?)", (pack, end))

    def move(self, source: int, pack: int, end: int, records: Iterable[Record]) -> None:
        """As `add`, for those that still lie in `source`."""
        with self._changing() as base:
            rows = [(pack, one.offset, one.chunk, source) for one in records]
            base.executemany("UPDATE chunks SET pack = ?, offset = ? WHERE hash = ? AND pack = ?", rows)
            base.execute("INSERT OR REPLACE INTO packs VALUES (?, ?)", (pack, end))

    def remove(self, chunks: Iterable[ChunkHash]) -> None:
        """They are not held any more, nor named as bad; those not there are fine."""
        with self._changing() as base:
            rows = [(chunk,) for chunk in chunks]
            base.executemany("DELETE FROM chunks WHERE hash = ?", rows)
            base.executemany("DELETE FROM quarantine WHERE hash = ?", rows)

    def quarantine(self, chunk: ChunkHash, place: Place, why: str) -> None:
        """It is not held any more, if it still lies there, and named as bad until it is added again."""
        with self._changing() as base:
            gone = base.execute(
                "DELETE FROM chunks WHERE hash = ? AND pack = ? AND offset = ?", (chunk, place.pack, place.offset)
            )
            if gone.rowcount:
                base.execute("INSERT OR REPLACE INTO quarantine VALUES (?, ?, ?)", (chunk, time.time(), why))
                base.execute(
                    "DELETE FROM quarantine WHERE hash IN (SELECT hash FROM quarantine ORDER BY at DESC LIMIT -1"
                    " OFFSET ?)",
                    (_MAX_QUARANTINED,),
                )

    def quarantined(self) -> dict[ChunkHash, str]:
        """Why each bad chunk is bad."""
        with self._lock, self._translated():
            return {ChunkHash(row[0]): row[1] for row in self._base.execute("SELECT hash, why FROM quarantine")}

    def forget(self, packs: Iterable[int]) -> None:
        """Nothing lies in these packs, as far as is known."""
        with self._changing() as base:
            rows = [(pack,) for pack in packs]
            base.executemany("DELETE FROM chunks WHERE pack = ?", rows)
            base.executemany("DELETE FROM packs WHERE pack = ?", rows)

    @contextmanager
    def _changing(self) -> Iterator[sqlite3.Connection]:
        """One transaction, all or nothing."""
        with self._lock, self._translated():
            self._base.execute("BEGIN IMMEDIATE")
            try:
                yield self._base
                self._base.execute("COMMIT")
            except BaseException:
                if self._base.in_transaction:
                    self._base.execute("ROLLBACK")
                raise

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as exc:
            full = "full" in str(exc)
            hint = "free some space there, then deploy again" if full else "stop gridnode, remove that file, start it"
            raise SyncError(f"cannot use {self._path}: {exc}", hint=hint) from exc


def _open(path: Path) -> sqlite3.Connection:
    """Raises sqlite3.DatabaseError when it is not what we wrote, as far as a look at its structure tells."""
    base = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        base.execute("PRAGMA journal_mode = WAL")
        base.execute("PRAGMA synchronous = NORMAL")
        with closing(base.execute("PRAGMA user_version")) as found:
            version = found.fetchone()[0]
        if version == 0:
            base.executescript(f"BEGIN; {_SCHEMA} COMMIT;")
        elif version != _VERSION:
            raise sqlite3.DatabaseError(f"version {version}")
        else:
            sound = base.execute("PRAGMA quick_check(1)").fetchone()[0]
            if sound != "ok":
                raise sqlite3.DatabaseError(sound)
    except BaseException:
        base.close()
        raise
    return base
