"""gridnode's own log on disk: JSON lines in `gridnode.log`, rotated, written by a thread of its own."""

import logging
import os
import queue
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from logging.handlers import QueueHandler, QueueListener, RotatingFileHandler
from pathlib import Path

import msgspec

from gridnode.messages import OWN_LOG
from gridnode.model import LogLine

MAX_TEXT = 8 * 1024
"""Characters of a line that are read back."""
_QUEUED = 4096
_FIRST_READ = 64 * 1024


class LogFile(QueueHandler):
    """Formats where it is called and writes in a thread; what the disk is too slow for is left out.

    size: bytes of one file; files: how many, the one being written included. Raises OSError when it cannot be opened.
    """

    def __init__(self, path: Path, size: int, files: int) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lines: queue.Queue[logging.LogRecord] = queue.Queue()
        super().__init__(self._lines)
        self._file = RotatingFileHandler(path, maxBytes=size, backupCount=files - 1, encoding="utf-8", errors="replace")
        os.chmod(path, 0o600)
        self._writer: QueueListener | None = QueueListener(self._lines, self._file)
        self._writer.start()

    def enqueue(self, record: logging.LogRecord) -> None:
        if self._lines.qsize() < _QUEUED:
            self._lines.put_nowait(record)

    def close(self) -> None:
        """Write what is queued, and let go of the file."""
        if self._writer:
            self._writer.stop()
            self._writer = None
            self._file.close()
        super().close()


class _Event(msgspec.Struct):
    """What every line has."""

    timestamp: str
    level: str = "info"


_decode = msgspec.json.Decoder(_Event).decode


def read_own_log(path: Path, size: int, since: int, lines: int) -> list[LogLine]:
    """Its newest `lines` later than `since` (unix nanoseconds), out of its last `size` bytes, by time. Blocking."""
    reach = min(size, _FIRST_READ)
    while True:
        tail, whole = _tail(path, reach)
        found = [line for text in tail.splitlines()[-lines:] if (line := _line(text))]
        if reach >= size or whole or len(found) >= lines or (found and found[0].time <= since):
            return [line for line in found if line.time > since]
        reach = min(reach * 4, size)


def _tail(path: Path, size: int) -> tuple[bytes, bool]:
    """The last `size` bytes of the file and the ones before it, from a line's beginning; whether that is all."""
    pieces: list[bytes] = []
    left = size
    for one in _rotated(path):
        piece = _end(one, left)
        pieces.insert(0, piece)
        left -= len(piece)
        if left <= 0:
            break
    tail = b"".join(pieces)
    return (tail, True) if left > 0 else (tail.partition(b"\n")[2], False)


def _rotated(path: Path) -> Iterator[Path]:
    """The file, then older ones."""
    number = 0
    while path.exists():
        yield path
        number += 1
        path = path.with_name(f"{path.name.removesuffix(f'.{number - 1}')}.{number}")


def _end(path: Path, size: int) -> bytes:
    with suppress(OSError), path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - size))
        return file.read(size)
    return b""


def _line(text: bytes) -> LogLine | None:
    """A line as it is shown; None for what is no event of ours."""
    try:
        event = _decode(text)
        time = datetime.fromisoformat(event.timestamp)
        nanoseconds = int(time.timestamp()) * 1_000_000_000 + time.microsecond * 1000
    except (msgspec.MsgspecError, ValueError, OverflowError):
        return None
    return LogLine(nanoseconds, OWN_LOG, "", event.level[:16], text.decode(errors="replace")[:MAX_TEXT])
