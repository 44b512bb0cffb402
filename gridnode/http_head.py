"""The head of an ordinary request to invoke a task.

Ordinary is narrow on purpose: HTTP/1.1, plain ASCII, lines ended as they must be, nothing twice, nothing escaped, a
short body whose length is said at most once and in no other way. Of such a head there is only one reading, so nothing
can be smuggled past one reader by another; whatever else HTTP allows is not for here.
"""

import re
from typing import NamedTuple, cast

from gridnode.model import TaskName

__all__ = ["MAX_BODY", "MAX_HEAD", "START", "Head", "read_head"]

START = b"POST /v1/invoke/"
MAX_HEAD = 8 * 1024
MAX_BODY = 64 * 1024

_HEAD = re.compile(
    rb"POST /v1/invoke/([A-Za-z0-9_][A-Za-z0-9_.-]{0,254})(\?[A-Za-z0-9_.=&-]*)? HTTP/1\.1\r\n"
    rb"((?:[A-Za-z0-9!#$%&'*+.^_`|~-]+:[\t\x20-\x7e]*\r\n){1,64})\r\n"
)
_LENGTH = re.compile(r"[0-9]{1,5}")
_ODD = frozenset({"transfer-encoding", "content-encoding", "expect", "upgrade", "trailer", "te"})
_PLAIN = frozenset({"*/*", "application/*", "application/json", "text/plain", ""})
_ASKED = frozenset({"node", "timeout"})


class Head(NamedTuple):
    """Of an ordinary request. timeout: seconds as text; length: of the body."""

    task: TaskName
    node: str
    timeout: str | None
    host: str
    origin: str | None
    key: str
    length: int


def read_head(text: bytes) -> Head | None:
    """All up to the empty line and with it; None unless it is ordinary."""
    match = _HEAD.fullmatch(text)
    if match is None:
        return None
    lines = match[3].decode("ascii").split("\r\n")[:-1]
    fields = {name.lower(): value.strip(" \t") for name, _, value in (line.partition(":") for line in lines)}
    asked = _read_query(match[2].decode("ascii")[1:]) if match[2] else {}
    length = fields.get("content-length", "0")
    if (
        len(fields) < len(lines)
        or asked is None
        or "host" not in fields
        or not _ODD.isdisjoint(fields)
        or not _LENGTH.fullmatch(length)
        or int(length) > MAX_BODY
        or fields.get("connection", "keep-alive").lower() != "keep-alive"
        or not all(part.partition(";")[0].strip() in _PLAIN for part in fields.get("accept", "").split(","))
    ):
        return None
    timeout = asked.get("timeout", fields.get("grid-timeout"))
    key, origin = fields.get("idempotency-key", ""), fields.get("origin")
    task, node = TaskName(match[1].decode("ascii")), asked.get("node", "")
    return Head(task, node, timeout, fields["host"], origin, key, int(length))


def _read_query(text: str) -> dict[str, str] | None:
    """None when it holds anything but what a call may say, each once."""
    pairs = [pair.split("=") for pair in text.split("&")]
    if any(len(pair) != 2 for pair in pairs):
        return None
    found = dict(cast("list[tuple[str, str]]", pairs))
    return found if found.keys() <= _ASKED and len(found) == len(pairs) else None
