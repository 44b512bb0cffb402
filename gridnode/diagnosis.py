"""What a node says of its own health, and how long its ways to others take."""

import enum
from typing import Final

import msgspec

from gridnode.errors import BodyInvalid
from gridnode.messages import decode
from gridnode.model import NodeId

__all__ = [
    "MAX_TIMES",
    "Check",
    "Diagnosis",
    "RoundTrip",
    "Verdict",
    "decode_count",
    "decode_diagnosis",
    "decode_round_trips",
]

MAX_CHECKS: Final = 256
MAX_TEXT: Final = 2048
MAX_PEERS: Final = 1024
MAX_TIMES: Final = 20


class Verdict(enum.StrEnum):
    """note: worth knowing, and nothing fails for it."""

    OK = "ok"
    NOTE = "note"
    WRONG = "wrong"


class Check(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thing that was looked at. subject: a word for it; said: what was found; hint: what to do about it."""

    subject: str
    verdict: Verdict
    said: str
    hint: str = ""


class Diagnosis(msgspec.Struct, frozen=True):
    """One node's checks. now: its clock when it began, unix nanoseconds; took: until it answered, nanoseconds."""

    now: int
    took: int
    checks: tuple[Check, ...]


class RoundTrip(msgspec.Struct, frozen=True, omit_defaults=True):
    """From one node to another and back. times: microseconds; error: why there are not more of them."""

    node: NodeId
    name: str
    times: tuple[int, ...] = ()
    error: str = ""


def decode_diagnosis(body: bytes) -> Diagnosis:
    """Within its bounds; raises BodyInvalid."""
    found = decode(body, Diagnosis)
    texts = [text for check in found.checks for text in (check.subject, check.said, check.hint)]
    if len(found.checks) > MAX_CHECKS or any(len(text) > MAX_TEXT for text in texts):
        raise BodyInvalid(f"a diagnosis of {len(found.checks)} checks, or with a text that is too long")
    if not (0 < found.now < 1 << 63 and 0 <= found.took < 1 << 53):
        raise BodyInvalid("a diagnosis with a time out of bounds")
    return found


def decode_round_trips(body: bytes) -> tuple[RoundTrip, ...]:
    """Within their bounds; raises BodyInvalid."""
    found = decode(body, tuple[RoundTrip, ...])
    if len(found) > MAX_PEERS or any(len(one.times) > MAX_TIMES for one in found):
        raise BodyInvalid(f"round trips to {len(found)} nodes, or too many to one of them")
    if any(len(one.node) > 64 or max(len(one.name), len(one.error)) > MAX_TEXT for one in found):
        raise BodyInvalid("a round trip with a text that is too long")
    if any(not 0 <= time < 1 << 53 for one in found for time in one.times):
        raise BodyInvalid("a round trip with a time out of bounds")
    return found


def decode_count(body: bytes) -> int:
    """How many round trips are asked for, one with nothing; raises BodyInvalid past MAX_TIMES."""
    count = decode(body, int) if body else 1
    if not 0 < count <= MAX_TIMES:
        raise BodyInvalid(f"{count} round trips: 1 to {MAX_TIMES} can be asked for")
    return count
