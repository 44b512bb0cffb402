"""The last lines of instances that are gone: a small ring of files per task file, bounded in all.

`<task file>.log` takes the lines, one JSON array each; past half its size it becomes `<task file>.log.1`, in place of
the one before. Nothing is fsynced: a power cut may cost the last lines, and a torn one is passed over.
"""

import hashlib
import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

import msgspec
import structlog

from gridnode.model import InstanceId, LogLine
from gridnode.sandbox import Output

log = structlog.get_logger()

KEPT_LINES = 200
KEPT_SIZE = 64 * 1024
"""Of one instance: lines, and bytes of text."""
_MAX_NAME = 200
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(LogLine).decode


class KeptLogs:
    """size: bytes for one task file; total: bytes for all. Blocking; safe to use from several threads."""

    def __init__(self, directory: Path, size: int, total: int) -> None:
        self._directory = directory
        self._size = size
        self._total = total
        self._lock = threading.Lock()

    def keep(self, task: str, instance: InstanceId, output: list[Output]) -> None:
        """Keep the instance's last lines; a disk that does not take them is logged, not raised."""
        lines = [LogLine(line.time, task, instance, line.stream, line.text) for line in _last(output)]
        if not lines:
            return
        try:
            with self._lock:
                self._append(self._path(task), b"".join(_encode(line) + b"\n" for line in lines))
                self._trim()
        except OSError as exc:
            log.warning("could not keep the last lines of an instance", instance=instance, error=str(exc))

    def read(self, task: str, changed: int) -> list[LogLine]:
        """The lines of one task file or of all, of files written after `changed` (unix nanoseconds), in no order."""
        lines: list[LogLine] = []
        with self._lock, suppress(OSError):
            for path in self._files() if not task else [self._path(task), _older(self._path(task))]:
                with suppress(FileNotFoundError):
                    if path.stat().st_mtime_ns > changed:
                        lines += _parse(path.read_bytes())
        return lines

    def _path(self, task: str) -> Path:
        name = quote(task, safe="")
        if len(name) > _MAX_NAME:
            name = hashlib.sha256(task.encode()).hexdigest()
        return self._directory / f"{name}.log"

    def _append(self, path: Path, content: bytes) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.write(content)
            full = file.tell() > self._size // 2
        if full:
            os.replace(path, _older(path))

    def _trim(self) -> None:
        """Remove the files that were written longest ago until the rest fit."""
        found = sorted(self._files(), key=lambda path: path.stat().st_mtime_ns)
        left = sum(path.stat().st_size for path in found)
        for path in found:
            if left <= self._total:
                return
            left -= path.stat().st_size
            path.unlink()

    def _files(self) -> list[Path]:
        return [*self._directory.glob("*.log"), *self._directory.glob("*.log.1")]


def _older(path: Path) -> Path:
    return path.with_name(f"{path.name}.1")


def _last(output: list[Output]) -> list[Output]:
    """The newest of them within the bounds of one instance."""
    kept, size = 0, 0
    for line in reversed(output[-KEPT_LINES:]):
        size += len(line.text.encode(errors="replace"))
        if size > KEPT_SIZE:
            break
        kept += 1
    return output[len(output) - kept :]


def _parse(raw: bytes) -> Iterator[LogLine]:
    for text in raw.splitlines():
        with suppress(msgspec.MsgspecError, UnicodeDecodeError):
            yield _decode(text)
