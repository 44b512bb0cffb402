"""What became of calls with an idempotency key: kept for a while, so that the same call is not run again."""

from collections import OrderedDict

from gridnode.errors import NoCapacity
from gridnode.model import Done, Outcome

_OVERHEAD = 1024
"""Bytes a receipt takes besides its result."""


class Receipt:
    """One key. mark: tells its call from others; outcome: None while it runs; waiting: who wants to know."""

    __slots__ = ("done_at", "key", "mark", "outcome", "size", "waiting")

    def __init__(self, key: str, mark: bytes) -> None:
        self.key = key
        self.mark = mark
        self.outcome: Outcome | None = None
        self.done_at = 0.0
        self.size = _OVERHEAD
        self.waiting: dict[int, Done] = {}


class Receipts:
    """A bounded table. window: seconds an outcome is kept; past max_count or max_size the oldest outcomes go first."""

    def __init__(self, window: float, max_count: int, max_size: int) -> None:
        self._window = window
        self._max_count = max_count
        self._max_size = max_size
        self._running: dict[str, Receipt] = {}
        self._kept: OrderedDict[str, Receipt] = OrderedDict()
        self.size = 0
        """Bytes of the outcomes kept."""

    def __len__(self) -> int:
        return len(self._running) + len(self._kept)

    def find(self, key: str, now: float) -> Receipt | None:
        """The receipt of a key that is running or kept."""
        while self._kept:
            oldest = next(iter(self._kept.values()))
            if now - oldest.done_at < self._window:
                break
            self._forget(oldest)
        return self._running.get(key) or self._kept.get(key)

    def open(self, key: str, mark: bytes) -> Receipt:
        """A new one, for a call that begins; NoCapacity while max_count others run."""
        if len(self._running) >= self._max_count:
            raise NoCapacity(f"{len(self._running)} calls with an idempotency key are under way here already")
        receipt = self._running[key] = Receipt(key, mark)
        self._fit()
        return receipt

    def drop(self, receipt: Receipt) -> None:
        """Its call never started: the key is free again."""
        self._running.pop(receipt.key, None)

    def keep(self, receipt: Receipt, outcome: Outcome, now: float) -> int:
        """Its call is over; how many older outcomes were forgotten early to make room."""
        self._running.pop(receipt.key, None)
        error = outcome.error
        texts = len(error.message) + len(error.trace or "") if error else 0
        receipt.outcome, receipt.done_at = outcome, now
        receipt.size = _OVERHEAD + len(receipt.key) + len(outcome.body) + texts
        self._kept[receipt.key] = receipt
        self.size += receipt.size
        return self._fit()

    def _fit(self) -> int:
        forgotten = 0
        while self._kept and (len(self) > self._max_count or self.size > self._max_size):
            self._forget(next(iter(self._kept.values())))
            forgotten += 1
        return forgotten

    def _forget(self, receipt: Receipt) -> None:
        del self._kept[receipt.key]
        self.size -= receipt.size
