"""Room for calls: how many may be somewhere at once, and how many bytes they may hold."""


class Room:
    """calls, size: taken now. Each `take` that succeeded is given back once, with the same size."""

    __slots__ = ("calls", "max_calls", "max_size", "size")

    def __init__(self, max_calls: int, max_size: int) -> None:
        self.max_calls = max_calls
        self.max_size = max_size
        self.calls = 0
        self.size = 0

    def take(self, size: int) -> bool:
        """Whether there was room for one more call of `size` bytes; it has it now. The first always has."""
        if self.calls >= self.max_calls or (self.size + size > self.max_size and self.calls):
            return False
        self.calls += 1
        self.size += size
        return True

    def give(self, size: int) -> None:
        self.calls -= 1
        self.size -= size

    def __str__(self) -> str:
        return f"{self.calls} calls with {self.size / (1 << 20):.3g} MiB are under way, at most " + (
            f"{self.max_calls} with {self.max_size / (1 << 20):.3g} MiB may be"
        )
