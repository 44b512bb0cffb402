"""The wire's frames as the Python runtime reads and writes them: gridnode.wire again, in the standard library only."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

VERSION = 1
HEADER = struct.Struct(">IQBBHIHH")
HEADER_SIZE = HEADER.size
HELLO, CALL, REPLY, PART, CANCEL, PING, PONG, CREDIT = 1, 2, 3, 4, 5, 7, 8, 9
FLAG_ERROR, FLAG_STREAM = 1, 2
OP_INVOKE, OP_PUBLISH = 1, 40
MAX_BODY, MAX_FRAME = 6 * 1024 * 1024, 6 * 1024 * 1024 + 8192
BUFFER_SIZE = 64 * 1024


class Frame(NamedTuple):
    kind: int
    call_id: int
    op: int
    deadline_ms: int
    name: bytes
    meta: bytes
    body: bytes
    flags: int = 0


def read_meta(meta: bytes) -> dict[str, Any]:
    """The metadata of a call; nothing when it cannot be read."""
    try:
        read = json.loads(meta)
    except (ValueError, RecursionError):
        return {}
    return read if isinstance(read, dict) else {}


class Inbox:
    """The bytes of one connection, cut into frames. Holds one frame at most beyond what was read."""

    def __init__(self) -> None:
        self._resize(BUFFER_SIZE)
        self._start = self._end = 0

    def space(self) -> memoryview:
        """Where the next bytes go."""
        return self._view[self._end :]

    def received(self, size: int) -> Iterator[Frame]:
        """Every frame that `size` more bytes complete; ValueError on one that is malformed."""
        self._end += size
        while self._end - self._start >= HEADER_SIZE:
            length, call_id, kind, flags, op, deadline, names, metas = HEADER.unpack_from(self._buffer, self._start)
            name_at = self._start + HEADER_SIZE
            meta_at, end = name_at + names, name_at + length
            body_at = meta_at + metas
            if length > MAX_FRAME or body_at > end:
                raise ValueError(f"malformed frame of {length} bytes")
            if end > self._end:
                break
            view, self._start = self._view, end
            parts = bytes(view[name_at:meta_at]), bytes(view[meta_at:body_at]), bytes(view[body_at:end])
            yield Frame(kind, call_id, op, deadline, *parts, flags)
        self._make_room()

    def _make_room(self) -> None:
        held, size = self._end - self._start, BUFFER_SIZE
        if held >= HEADER_SIZE:
            size = max(size, HEADER_SIZE + int.from_bytes(self._view[self._start : self._start + 4], "big"))
        if self._start or size != len(self._buffer):
            rest = bytes(self._view[self._start : self._end])
            if size != len(self._buffer):
                self._resize(size)
            self._buffer[:held] = rest
            self._start, self._end = 0, held

    def _resize(self, size: int) -> None:
        self._buffer = bytearray(size)
        self._view = memoryview(self._buffer)


def pack(kind: int, call_id: int, body: bytes = b"", flags: int = 0) -> bytes:
    return HEADER.pack(len(body), call_id, kind, flags, 0, 0, 0, 0) + body
