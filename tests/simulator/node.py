"""One simulated node: a real Membership and a real Ledger, a clock of its own, and what it has sent."""

import math
from dataclasses import dataclass, field

import msgspec

from gridnode.ledger import Ledger
from gridnode.membership import Membership, MembershipLimits
from gridnode.model import Address, Load, NodeId, NodeRecord, ReleaseState, ReleaseStatus, Root, Runtime
from tests.simulator.network import Wire

SIGNATURE = bytes(100)
"""Key, signature and their framing: cores do not verify, so that only their size matters here."""


def node_id(number: int) -> NodeId:
    """Ids that are spread like hashes are, whose order is not that of the numbers."""
    return NodeId(f"{(number * 2654435761) % (1 << 32):08x}{number:032x}")


def number_of(node: NodeId) -> int:
    return int(node[8:], 16)


def address_of(number: int) -> Address:
    return Address(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", 7400)


def number_at(address: Address) -> int:
    _, high, middle, low = map(int, address.host.split("."))
    return high << 16 | middle << 8 | low


def record_of(number: int, incarnation: int) -> NodeRecord:
    """As large as real ones are."""
    addresses = (address_of(number), Address("203.0.113.9", 1))
    release = ReleaseStatus(7, Root("ab" * 32), ReleaseState.ACTIVE, 123456, 123456)
    runtime, labels = Runtime("x86_64", "3.13", "2.41"), {"zone": "eu-1", "disk": "ssd"}
    return NodeRecord(
        node_id(number),
        f"server-{number:04}",
        incarnation,
        0,
        addresses[:1],
        "0.1.0",
        1790000000,
        Load(),
        release,
        runtime=runtime,
        served="ab" * 16,
        labels=labels,
    )


@dataclass(slots=True)
class Simulated:
    """skew: seconds its clock is ahead, and how much faster it runs. sent, messages: bytes and frames."""

    number: int
    limits: MembershipLimits
    salt: bytes
    skew: tuple[float, float] = (0.0, 1.0)
    incarnation: int = 1
    up: bool = True
    frozen: bool = False
    side: int = 0
    core: Membership = field(init=False)
    record: NodeRecord = field(init=False)
    ledger: Ledger = field(default_factory=Ledger)
    links: dict[int, Wire] = field(default_factory=dict)
    late: list[tuple[Wire, object]] = field(default_factory=list)
    sent: int = 0
    messages: int = 0
    dials: int = 0
    ticked: float = math.inf

    def __post_init__(self) -> None:
        self.core = Membership(node_id(self.number), self.limits, self.salt)
        self.record = record_of(self.number, self.incarnation)

    def clock(self, now: float) -> float:
        """What it takes the time to be."""
        return (now + self.skew[0]) * self.skew[1]


def signed(record: NodeRecord) -> bytes:
    """The record as it travels."""
    return msgspec.msgpack.encode(record) + SIGNATURE
