"""Counts primes with a sieve: a task that keeps a CPU busy."""

LIMIT = 20_000_000


def handler(event):
    """event: {"below": 1000}, or nothing for a million."""
    below = (event or {}).get("below", 1_000_000)
    if not isinstance(below, int) or not 0 <= below <= LIMIT:
        raise ValueError(f"below must be a whole number from 0 to {LIMIT}")
    sieve = bytearray([1]) * below
    sieve[:2] = bytes(min(below, 2))
    for number in range(2, int(below**0.5) + 1):
        if sieve[number]:
            start = number * number
            sieve[start::number] = bytes(len(range(start, below, number)))
    largest = sieve.rfind(1)
    return {"below": below, "primes": sum(sieve), "largest": largest if largest > 0 else None}
