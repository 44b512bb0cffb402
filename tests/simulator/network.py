"""A simulated network of TCP links: who can reach whom, how late what is sent comes, and when a link stalls.

Loss is per packet. TCP sends a lost one again after 0.2 s, 0.4, 0.8 …, and holds back what follows it, so on a link
loss is delay, and a stall of a second or more where four copies in a row are lost. A dial has failed after 5 s.
"""

import random
from dataclasses import dataclass, field

DIAL_TIMEOUT = 5.0
KNOCKS = (1.0, 2.0, 2.0)
"""Seconds between the packets that open a connection, while none is answered; after the last the dial has failed."""
HANDSHAKE_TRIPS = 4
"""One-way trips of a TCP and TLS 1.3 handshake and the hellos, one of them ours to start with."""
_RETRIES = (0.0, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8)
"""Seconds by which a packet is late whose first so many copies were lost: a tail probe, then the timer, doubling."""
STALL = 4
"""Copies lost in a row until a link is silent for long enough to be noticed."""


@dataclass(slots=True)
class Wire:
    """One link. By receiver: free, until when TCP holds back what is sent; quiet, since when the other end is away;

    stalled, since when nothing comes because a packet was lost again and again.
    """

    dialler: int
    accepter: int
    free: dict[int, float] = field(default_factory=dict)
    quiet: dict[int, float] = field(default_factory=dict)
    stalled: dict[int, float] = field(default_factory=dict)

    def other(self, node: int) -> int:
        return self.accepter if node == self.dialler else self.dialler


@dataclass
class Network:
    """loss: 0 … 1, of each packet; latency: seconds one way, at least and at most."""

    dice: random.Random
    loss: float = 0.0
    latency: tuple[float, float] = (0.001, 0.03)

    def packet(self) -> float:
        """Seconds until one packet arrives, with all the copies it takes."""
        copies = 0
        while self.loss and copies < len(_RETRIES) - 1 and self.dice.random() < self.loss:
            copies += 1
        return self.dice.uniform(*self.latency) + _RETRIES[copies]

    def handshake(self) -> float | None:
        """Seconds until a link stands, or None when it takes too long."""
        took = sum(self.packet() for _ in range(HANDSHAKE_TRIPS))
        return took if took < DIAL_TIMEOUT else None

    def stall(self) -> float:
        """Seconds of a stall, given that there is one."""
        copies = STALL
        while copies < len(_RETRIES) - 1 and self.dice.random() < self.loss:
            copies += 1
        return _RETRIES[copies]

    def stalls(self, packets: float) -> float:
        """How many of so many packets stall their link, on average."""
        return float(packets * self.loss**STALL)
