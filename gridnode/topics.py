"""Topics, the patterns that match them, who listens to which, and the bounded queue in front of each listener.

orders.created      a topic: words of letters, digits, `_`, `-` and `:`, parted by dots
orders.*            a pattern: `*` is any one word
orders.>            `>` is the rest: one word or more, and nothing after it
"""

import re
from collections import deque
from collections.abc import Iterable
from typing import Final, Generic, NamedTuple, TypeVar

import msgspec

from gridnode.errors import BodyInvalid, BodyTooLarge, TopicInvalid
from gridnode.wire import MAX_CALL_BODY, MAX_META

__all__ = ["Backlog", "Batch", "Event", "Table", "as_json", "check_pattern", "check_payload", "check_topic", "matches"]

MAX_WORDS: Final = 16
MAX_TOPIC: Final = 200
"""Characters, all ASCII."""
MAX_PAYLOAD: Final = MAX_CALL_BODY - MAX_META
"""Bytes of an event's JSON: with what is said about it, it fits into one call."""
MAX_TOLD: Final = 64
"""Topics whose lost events are counted each by itself."""
_OVERHEAD: Final = 256
"""Bytes an event costs beside its payload, about."""

_TOPIC: Final = re.compile(r"[A-Za-z0-9_:-]+(?:\.[A-Za-z0-9_:-]+){0,15}")
_PATTERN: Final = re.compile(
    r"(?:>|(?:[A-Za-z0-9_:-]+|\*)(?:\.(?:[A-Za-z0-9_:-]+|\*)){0,14}(?:\.(?:[A-Za-z0-9_:-]+|\*|>))?)"
)
_RULE: Final = "1 to 16 words of letters, digits, _ - and :, parted by dots, at most 200 characters"

T = TypeVar("T")


class Event(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One event on its way. payload: JSON; id: 32 hex digits, growing with time on one node; time: unix seconds.

    depth: how many tasks and events led to it.
    """

    topic: str
    payload: bytes
    id: str
    time: float
    depth: int = 0


class Batch(NamedTuple):
    """What a queue gave. dropped: events lost before the first of these, by topic; under "" those of further topics."""

    events: list[Event]
    dropped: dict[str, int]


def check_topic(topic: str) -> None:
    """Raises TopicInvalid."""
    if len(topic) > MAX_TOPIC or not _TOPIC.fullmatch(topic):
        raise TopicInvalid(f"{topic[:MAX_TOPIC]!r} is no topic: {_RULE}", hint="such as orders.created")


def check_pattern(pattern: str) -> None:
    """Raises TopicInvalid."""
    if len(pattern) > MAX_TOPIC or not _PATTERN.fullmatch(pattern):
        hint = "such as orders.created, orders.* (any one word) or orders.> (all below)"
        raise TopicInvalid(
            f"{pattern[:MAX_TOPIC]!r} is no pattern of topics: {_RULE}; * is a word, > the rest", hint=hint
        )


def check_payload(topic: str, body: bytes) -> None:
    """Raises BodyTooLarge, or BodyInvalid for what is not JSON."""
    if len(body) > MAX_PAYLOAD:
        raise BodyTooLarge(f"an event of {len(body)} bytes on {topic}, at most {MAX_PAYLOAD} are allowed")
    try:
        body.decode()
        msgspec.json.decode(body, type=msgspec.Raw)
    except (UnicodeDecodeError, msgspec.MsgspecError, RecursionError) as exc:
        raise BodyInvalid(f"the event on {topic} is not JSON: {exc}") from exc


def matches(pattern: str, topic: str) -> bool:
    """Whether the pattern is meant; for one alone, a Table is for many."""
    table: Table[None] = Table()
    table.put(None, [pattern])
    return bool(table.match(topic))


def as_json(event: Event, dropped: int = 0) -> bytes:
    """The event on one line, as tasks and streams get it."""
    fields = {"topic": event.topic, "data": msgspec.Raw(event.payload), "id": event.id, "time": round(event.time, 6)}
    text = msgspec.json.encode(fields | {"dropped": dropped} if dropped else fields)
    return text.translate(_ONE_LINE) if b"\n" in text or b"\r" in text else text


_ONE_LINE = bytes.maketrans(b"\r\n", b"  ")
"""Line ends stand between JSON's tokens only: inside of text they are escaped."""


class _Branch(Generic[T]):
    """A place in the tree. here: whose pattern ends; rest: whose goes on with `>`."""

    __slots__ = ("here", "rest", "words")

    def __init__(self) -> None:
        self.words: dict[str, _Branch[T]] = {}
        self.here: dict[T, None] = {}
        self.rest: dict[T, None] = {}

    @property
    def is_bare(self) -> bool:
        return not (self.words or self.here or self.rest)


class Table(Generic[T]):
    """Who listens to which patterns. What a topic costs to match does not grow with patterns that begin otherwise."""

    def __init__(self) -> None:
        self._root: _Branch[T] = _Branch()
        self._patterns: dict[T, dict[str, None]] = {}

    def __contains__(self, who: T) -> bool:
        return who in self._patterns

    def patterns(self) -> set[str]:
        """All of them, each once."""
        return {pattern for patterns in self._patterns.values() for pattern in patterns}

    def all(self) -> list[T]:
        """Each who listens to anything."""
        return list(self._patterns)

    def put(self, who: T, patterns: Iterable[str]) -> None:
        """Have `who` listen to these and no others; none forgets it. The patterns have been checked."""
        before, after = self._patterns.get(who, {}), dict.fromkeys(patterns)
        for pattern in before.keys() - after.keys():
            _remove(self._root, pattern.split("."), who)
        for pattern in after:
            if pattern not in before:
                self._add(pattern, who)
        if after:
            self._patterns[who] = after
        else:
            self._patterns.pop(who, None)

    def match(self, topic: str) -> list[T]:
        """Each who listens to it, once."""
        found: dict[T, None] = {}
        branches = [self._root]
        for word in topic.split("."):
            below = []
            for branch in branches:
                found.update(branch.rest)
                for key in (word, "*"):
                    if key in branch.words:
                        below.append(branch.words[key])
            branches = below
        for branch in branches:
            found.update(branch.here)
        return list(found)

    def _add(self, pattern: str, who: T) -> None:
        branch, words = self._root, pattern.split(".")
        if words[-1] == ">":
            words.pop()
        for word in words:
            branch = branch.words.setdefault(word, _Branch())
        (branch.rest if pattern[-1] == ">" else branch.here)[who] = None


def _remove(branch: _Branch[T], words: list[str], who: T) -> None:
    if not words:
        del branch.here[who]
    elif words[0] == ">":
        del branch.rest[who]
    else:
        below = branch.words[words[0]]
        _remove(below, words[1:], who)
        if below.is_bare:
            del branch.words[words[0]]


class Backlog:
    """Events that wait for one listener, oldest first. Past its bounds the oldest are dropped, and counted."""

    def __init__(self, max_events: int = 8192, max_bytes: int = 16 * 1024 * 1024) -> None:
        self._events: deque[Event] = deque()
        self._bytes = 0
        self._max_events = max_events
        self._max_bytes = max_bytes
        self._untold: dict[str, int] = {}
        self.dropped = 0
        """In all, so far."""

    def __len__(self) -> int:
        return len(self._events)

    @property
    def has_news(self) -> bool:
        """Events wait, or it has not been told that some were lost."""
        return bool(self._events or self._untold)

    def push(self, event: Event) -> None:
        events = self._events
        events.append(event)
        self._bytes += len(event.payload) + _OVERHEAD
        while len(events) > self._max_events or (self._bytes > self._max_bytes and len(events) > 1):
            self.missed(self._pop().topic, 1)

    def missed(self, topic: str, count: int) -> None:
        """Events that were lost on their way here."""
        key = topic if topic in self._untold or len(self._untold) < MAX_TOLD else ""
        self._untold[key] = self._untold.get(key, 0) + count
        self.dropped += count

    def drop(self) -> None:
        """Lose all that waits."""
        while self._events:
            self.missed(self._pop().topic, 1)

    def take(self, max_events: int, max_bytes: int) -> Batch:
        """The oldest, within these bounds but one if there is any; and what was lost before them."""
        taken: list[Event] = []
        size = 0
        while self._events and len(taken) < max_events:
            size += len(self._events[0].payload) + _OVERHEAD
            if taken and size > max_bytes:
                break
            taken.append(self._pop())
        dropped, self._untold = self._untold, {}
        return Batch(taken, dropped)

    def next(self) -> tuple[Event, int]:
        """The oldest, of some, and how many were lost before it: for who takes one at a time."""
        dropped = 0
        if self._untold:
            dropped, self._untold = sum(self._untold.values()), {}
        return self._pop(), dropped

    def _pop(self) -> Event:
        event = self._events.popleft()
        self._bytes -= len(event.payload) + _OVERHEAD
        return event
