"""How much of what strangers send is looked at."""

from dataclasses import dataclass


@dataclass(slots=True)
class TokenBucket:
    """At most `rate` a second in the long run and `burst` at once. `now`: seconds of any clock that only grows."""

    rate: float
    burst: float
    _left: float = -1.0
    _at: float = 0.0

    def take(self, now: float) -> bool:
        """Whether one more may pass now."""
        held = self.burst if self._left < 0 else self._left + max(0.0, now - self._at) * self.rate
        self._left, self._at = min(self.burst, held), now
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True
