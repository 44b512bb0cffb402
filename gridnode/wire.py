"""Frames: the one wire format of all three hops (client→node, node→node, node→instance). Version 1.

offset size field     big endian
0      4    length    bytes after the header: name + meta + body
4      8    call id   chosen by the caller, unique on its side of the link
12     1    kind      Kind
13     1    flags     bit 0 ERROR: a Reply whose body is {"code", "message", "trace", "hint"} in JSON
                      bit 1 STREAM: a Call that takes its result in Parts, each one item, before the Reply
14     2    op        Op
16     4    deadline  milliseconds left when sent; 0 = none
20     2    name len
22     2    meta len
24          name (UTF-8), meta (JSON), body
"""

import enum
import struct
from typing import NamedTuple

import msgspec

from gridnode.errors import FrameInvalid, GridError, error_from
from gridnode.flow import Credit

VERSION = 1
HEADER = struct.Struct(">IQBBHIHH")
HEADER_SIZE = HEADER.size
CREDIT = struct.Struct(">II")
FLAG_ERROR = 1
FLAG_STREAM = 2
MAX_NAME = 255
MAX_META = 4096
MAX_CALL_BODY = 6 * 1024 * 1024
MAX_LENGTH = MAX_CALL_BODY + MAX_NAME + MAX_META
MAX_HELLO = 1024 * 1024
MAX_TRACE = 32 * 1024
_U64 = (1 << 64) - 1


class Kind(enum.IntEnum):
    """What a frame is. Part: one item of a stream, by the id of its call; Credit: its reader takes more of them."""

    HELLO = 1
    CALL = 2
    REPLY = 3
    PART = 4
    CANCEL = 5
    EVENT = 6
    PING = 7
    PONG = 8
    CREDIT = 9


class Op(enum.IntEnum):
    """What a Call or an Event asks for. Unknown ones are refused, not fatal."""

    NONE = 0
    INVOKE = 1
    NODES = 2
    RELEASE_STATUS = 3
    PROCESSES = 4
    LOGS = 5
    IMAGES = 6
    BROADCAST = 7
    ISSUER = 8
    LEDGER_PUT = 10
    LEDGER_GET = 11
    LEDGER_DIGEST = 12
    LEDGER_DOCUMENTS = 13
    CHUNKS_MISSING = 20
    CHUNKS_GET = 21
    CHUNKS_PUT = 22
    SCRUB = 25
    PIECE_GET = 23
    HAVE = 24
    GOSSIP = 31
    LEAVE = 32
    DIGEST = 33
    VERSIONS = 34
    RECORDS_ASK = 35
    LOAD = 36
    RETIRE = 37
    REFUSED = 38
    TASKS = 39
    PUBLISH = 40
    SUBSCRIBE = 41
    EVENTS = 42
    INTEREST = 43
    INTEREST_ASK = 44
    DOCTOR = 50
    PING = 51
    ROUND_TRIPS = 52
    FILES = 53


class Frame(NamedTuple):
    """One decoded frame; `op` stays a plain int so that an unknown one can be refused politely."""

    kind: int
    call_id: int
    op: int = 0
    flags: int = 0
    deadline_ms: int = 0
    name: str = ""
    meta: bytes = b""
    body: bytes = b""


class ErrorBody(msgspec.Struct, omit_defaults=True):
    """An error as it travels."""

    code: str
    message: str
    trace: str | None = None
    hint: str | None = None


_decode_error = msgspec.json.Decoder(ErrorBody).decode


def encode(frame: Frame) -> bytes:
    """The frame's bytes; FrameInvalid when a field is out of bounds."""
    kind, call_id, op, flags, deadline_ms, name, meta, body = frame
    raw_name = name.encode()
    length = len(raw_name) + len(meta) + len(body)
    if len(raw_name) > MAX_NAME or len(meta) > MAX_META or length > MAX_LENGTH or not 0 <= call_id <= _U64:
        raise FrameInvalid(f"frame out of bounds: name {len(raw_name)}, meta {len(meta)}, body {len(body)} bytes")
    deadline_ms = min(max(deadline_ms, 0), 0xFFFFFFFF)
    head = HEADER.pack(length, call_id, kind, flags, op, deadline_ms, len(raw_name), len(meta))
    return b"".join((head, raw_name, meta, body))


def needed(buffer: memoryview, max_length: int = MAX_LENGTH) -> int:
    """Total size of the frame that starts `buffer` (which holds a whole header); FrameInvalid past max_length."""
    length = int.from_bytes(buffer[:4], "big")
    if length > max_length:
        raise FrameInvalid(f"frame of {length} bytes, at most {max_length} allowed")
    return HEADER_SIZE + length


def decode(buffer: memoryview) -> Frame:
    """The frame that `buffer` holds exactly; FrameInvalid when it is malformed."""
    size = len(buffer)
    if size < HEADER_SIZE:
        raise FrameInvalid(f"frame cut short: {size} bytes")
    length, call_id, kind, flags, op, deadline_ms, name_len, meta_len = HEADER.unpack_from(buffer)
    body_at = HEADER_SIZE + name_len + meta_len
    if name_len > MAX_NAME or meta_len > MAX_META or body_at > size or size != HEADER_SIZE + length:
        raise FrameInvalid(f"frame with name {name_len} and meta {meta_len} in {length} bytes")
    try:
        name = str(buffer[HEADER_SIZE : HEADER_SIZE + name_len], "utf-8")
    except UnicodeDecodeError as exc:
        raise FrameInvalid("frame name is not UTF-8") from exc
    meta = bytes(buffer[HEADER_SIZE + name_len : body_at])
    return Frame(kind, call_id, op, flags, deadline_ms, name, meta, bytes(buffer[body_at:]))


def encode_credit(credit: Credit) -> bytes:
    """The body of a Credit: items and bytes, 4 bytes each."""
    return CREDIT.pack(*credit)


def decode_credit(body: bytes) -> Credit:
    """Raises FrameInvalid on garbage."""
    if len(body) != CREDIT.size:
        raise FrameInvalid(f"a credit of {len(body)} bytes")
    return Credit(*CREDIT.unpack(body))


def encode_error(error: GridError) -> bytes:
    """The body of a Reply with FLAG_ERROR; a long traceback keeps its end."""
    return msgspec.json.encode(error_body(error))


def error_body(error: GridError) -> ErrorBody:
    """What of an error travels, within bounds."""
    trace = error.trace[-MAX_TRACE:] if error.trace else None
    hint = error.hint[:MAX_META] if error.hint else None
    return ErrorBody(error.code, error.message[:MAX_META], trace, hint)


def read_reply(reply: Frame | GridError) -> bytes:
    """The body of a Reply; raises its error, or why there was none."""
    if isinstance(reply, GridError):
        raise reply
    if reply.flags & FLAG_ERROR:
        raise decode_error(reply.body)
    return reply.body


def decode_error(body: bytes) -> GridError:
    """The typed error in an error Reply's body; a malformed one is a FrameInvalid itself."""
    try:
        parsed = _decode_error(body)
    except (msgspec.MsgspecError, RecursionError) as exc:
        return FrameInvalid(f"malformed error reply: {exc}")
    return error_from(parsed.code, parsed.message, parsed.trace, parsed.hint)
