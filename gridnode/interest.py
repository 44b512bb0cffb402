"""What a node listens to, as its peers are told: few patterns, and only what changes.

Its record carries the version; a peer that finds it has another one asks for the whole.
"""

from collections.abc import Collection

from gridnode.event_wire import MAX_INTEREST, Interest

__all__ = ["Heard", "Own", "summary"]


def summary(patterns: Collection[str], limit: int = MAX_INTEREST) -> frozenset[str]:
    """At most `limit` patterns that match all that these match, and more where these are too many."""
    if len(patterns) <= limit:
        return frozenset(patterns)
    coarse = frozenset(_first_word(pattern) for pattern in patterns)
    return coarse if len(coarse) <= limit else frozenset((">",))


def _first_word(pattern: str) -> str:
    head, dot, _ = pattern.partition(".")
    return f"{head}.>" if dot else head


class Own:
    """What this node listens to. version: grows from life to life too."""

    def __init__(self, version: int) -> None:
        self.version = version
        self._patterns: frozenset[str] = frozenset()

    def update(self, patterns: Collection[str]) -> Interest | None:
        """What peers are to be told; None when nothing is new to them."""
        before, after = self._patterns, summary(patterns)
        if before == after:
            return None
        base, self.version, self._patterns = self.version, self.version + 1, after
        return Interest(self.version, base, tuple(sorted(after - before)), tuple(sorted(before - after)))

    def whole(self) -> Interest:
        return Interest(self.version, None, tuple(sorted(self._patterns)))


class Heard:
    """What one peer listens to, as far as it has told. version: None before it has."""

    def __init__(self) -> None:
        self.version: int | None = None
        self.patterns: frozenset[str] = frozenset()

    def take(self, told: Interest) -> bool:
        """Whether it followed on what was known: if not, the whole has to be asked for."""
        if told.base is not None and told.base != self.version:
            return False
        kept = self.patterns - frozenset(told.drop) if told.base is not None else frozenset()
        self.patterns = summary(kept | frozenset(told.add))
        self.version = told.version
        return True
