"""What an engine gives as a sandbox's log: frames of one stamped line each, or of a part of a long one.

A frame is stream (1 byte: 1 stdout, 2 stderr), three zeros, length (4 bytes, big endian), then an RFC 3339 time with
nanoseconds, a space and the text. A line ends with a newline, its parts before the last one do not.
"""

import re
from collections.abc import Iterator
from datetime import datetime
from typing import Final

from gridnode.sandbox import Output

MAX_TEXT: Final = 8 * 1024
"""Bytes of a line that are kept."""
CUT: Final = "…"
"""The end of a line that was longer."""
_HEADER = 8
STREAMS: Final = {1: "stdout", 2: "stderr"}
_STAMP = re.compile(rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?Z (.*)\Z", re.DOTALL)


def last_lines(raw: bytes, asked: int) -> tuple[list[Output], bool]:
    """The whole lines in the last `asked` frames, and whether there are no more frames before these."""
    lines, count = parse_output(raw)
    if count < asked:
        return lines, True
    firsts: dict[str, int] = {}  # of each stream the first may be the end of a longer line
    for number, line in enumerate(lines):
        firsts.setdefault(line.stream, number)
    return [line for number, line in enumerate(lines) if number not in firsts.values()], False


def parse_output(raw: bytes) -> tuple[list[Output], int]:
    """The lines, in the order of their ends, and of how many frames they are; what is malformed is passed over."""
    lines: list[Output] = []
    begun: dict[int, tuple[int, bytes]] = {}
    count = 0
    for stream, payload in _frames(raw):
        count += 1
        stamped = _split(payload)
        if stamped is None or stream not in STREAMS:
            continue
        time, text = stamped
        if stream in begun:
            time, text = begun[stream][0], begun[stream][1] + text
        if text.endswith(b"\n"):
            begun.pop(stream, None)
            lines.append(Output(time, STREAMS[stream], shown(text)))
        else:
            begun[stream] = (time, text[: MAX_TEXT + 1])
    lines += (Output(time, STREAMS[stream], shown(text)) for stream, (time, text) in begun.items())
    return lines, count


def shown(text: bytes) -> str:
    """A line's text without its end, and cut where it is too long."""
    text = text.rstrip(b"\r\n")
    return text[:MAX_TEXT].decode(errors="replace") + (CUT if len(text) > MAX_TEXT else "")


def _frames(raw: bytes) -> Iterator[tuple[int, bytes]]:
    """(stream, payload) of each whole frame."""
    at = 0
    while at + _HEADER <= len(raw):
        start, stream = at + _HEADER, raw[at]
        at = start + int.from_bytes(raw[at + 4 : start], "big")
        if at <= len(raw):
            yield stream, raw[start:at]


def _split(payload: bytes) -> tuple[int, bytes] | None:
    """(unix nanoseconds, text)."""
    found = _STAMP.match(payload)
    if found is None:
        return None
    try:
        whole = datetime.fromisoformat(found[1].decode() + "+00:00")
    except ValueError:
        return None
    return int(whole.timestamp()) * 1_000_000_000 + int((found[2] or b"0").ljust(9, b"0")), found[3]
