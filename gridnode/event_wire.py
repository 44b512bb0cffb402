"""Bodies of the ops of pub/sub: what is published, events on their way, and what a node's peers listen to."""

import math
from collections.abc import Iterable

import msgspec

from gridnode import messages
from gridnode.errors import BodyInvalid, TopicInvalid
from gridnode.topics import MAX_TOLD, Batch, Event, check_pattern, check_payload, check_topic

__all__ = [
    "Interest",
    "decode_batch",
    "decode_interest",
    "decode_patterns",
    "decode_publications",
    "encode_batch",
]

MAX_EVENTS = 4096
"""In one batch, and in one PUBLISH."""
MAX_PATTERNS = 64
"""Of one subscription."""
MAX_INTEREST = 256
"""Patterns that a node tells its peers; past it, coarser ones."""
_MAX_ID = 64

Publication = tuple[str, bytes]
"""A topic, and JSON."""


class _Batch(msgspec.Struct, array_like=True):
    number: int
    events: list[Event]
    dropped: dict[str, int] = {}


class Interest(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a node listens to at `version`: all of it, or what has changed since `base`."""

    version: int
    base: int | None = None
    add: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()


def encode_batch(number: int, batch: Batch) -> bytes:
    """number: grows from batch to batch on the way from one node to another."""
    return messages.encode(_Batch(number, batch.events, batch.dropped))


def decode_batch(body: bytes) -> tuple[int, Batch]:
    """Its number and the batch; BodyInvalid past the bounds."""
    found = messages.decode(body, _Batch)
    if len(found.events) > MAX_EVENTS or len(found.dropped) > MAX_TOLD + 1:
        raise BodyInvalid(f"a batch of {len(found.events)} events and {len(found.dropped)} counters")
    try:
        for event in found.events:
            _check(event)
        for topic, count in found.dropped.items():
            if topic:
                check_topic(topic)
            if not 0 < count < 1 << 53:
                raise BodyInvalid(f"{count} events cannot be lost")
    except TopicInvalid as exc:
        raise BodyInvalid(exc.message) from exc
    return found.number, Batch(found.events, found.dropped)


def _check(event: Event) -> None:
    check_topic(event.topic)
    check_payload(event.topic, event.payload)
    sound = event.id.isascii() and event.id.isalnum() and len(event.id) <= _MAX_ID
    if not sound or not math.isfinite(event.time) or not 0 <= event.depth < 1 << 16:
        raise BodyInvalid(f"an event on {event.topic} with an id, a time or a depth out of bounds")


def decode_publications(body: bytes) -> list[Publication]:
    """What a client publishes, checked; BodyInvalid, TopicInvalid or BodyTooLarge."""
    found = messages.decode(body, list[Publication])
    if len(found) > MAX_EVENTS:
        raise BodyInvalid(f"{len(found)} events at once, at most {MAX_EVENTS} are allowed")
    for topic, content in found:
        check_topic(topic)
        check_payload(topic, content)
    return found


def decode_patterns(body: bytes) -> list[str]:
    """Those of a subscription, checked; BodyInvalid or TopicInvalid."""
    patterns = messages.decode(body, list[str])
    check_patterns(patterns)
    return patterns


def check_patterns(patterns: list[str]) -> None:
    """Raises BodyInvalid or TopicInvalid."""
    if not 0 < len(patterns) <= MAX_PATTERNS:
        raise BodyInvalid(f"a subscription to {len(patterns)} patterns: 1 to {MAX_PATTERNS} are allowed")
    for pattern in patterns:
        check_pattern(pattern)


def decode_interest(body: bytes) -> Interest:
    """A peer's, within its bounds; raises BodyInvalid."""
    interest = messages.decode(body, Interest)
    if max(len(interest.add), len(interest.drop)) > MAX_INTEREST or not 0 <= interest.version < 1 << 63:
        raise BodyInvalid(f"interest in {len(interest.add)} patterns")
    _check_all(interest.add)
    return interest


def _check_all(patterns: Iterable[str]) -> None:
    try:
        for pattern in patterns:
            check_pattern(pattern)
    except TopicInvalid as exc:
        raise BodyInvalid(exc.message) from exc
