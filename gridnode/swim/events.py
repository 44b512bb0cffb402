"""What a Membership is told, and what it wants done."""

from collections.abc import Mapping, Set
from typing import NamedTuple

from gridnode.model import Address, Claim, Load, Member, MemberState, NodeId, NodeRecord, RecordVersion, Sighting

Signed = bytes
"""A record as its node signed it: what is passed on."""


class Spoke(NamedTuple):
    """This node's own record, new and signed."""

    record: NodeRecord
    signed: Signed


class Sighted(NamedTuple):
    """Somebody may listen there; `seed` addresses are never given up."""

    sighting: Sighting
    seed: bool = False


class DialFailed(NamedTuple):
    address: Address


class LinkedUp(NamedTuple):
    """A handshake with this node is complete; `address` is where we dialled it, if it was us who did."""

    record: NodeRecord
    address: Address | None = None


class LinkLost(NamedTuple):
    """The last link to this node is gone."""

    node: NodeId


class Parted(NamedTuple):
    """The last link to this node is closed by agreement: it was idle."""

    node: NodeId


class RetireHeard(NamedTuple):
    """A peer wants to close an idle link."""

    node: NodeId


class Wanted(NamedTuple):
    """A call, or a question, is for this node."""

    node: NodeId


class Forget(NamedTuple):
    """An operator says that this node is gone for good, up to an incarnation; one that is linked stays."""

    node: NodeId
    incarnation: int


class FoundSelf(NamedTuple):
    """Dialling this address reached ourselves."""

    address: Address


class RecordHeard(NamedTuple):
    """`source`, a linked peer, told what a node says of itself; its signature has been verified."""

    record: NodeRecord
    signed: Signed
    source: NodeId


class LoadHeard(NamedTuple):
    """A linked peer says how busy it is."""

    node: NodeId
    load: Load


class ClaimHeard(NamedTuple):
    claim: Claim
    source: NodeId


class DigestHeard(NamedTuple):
    """Sums of all that a linked peer knows of the others."""

    sums: bytes
    source: NodeId


class VersionsHeard(NamedTuple):
    """All that a linked peer knows of the nodes in these buckets."""

    buckets: frozenset[int]
    versions: tuple[RecordVersion, ...]
    source: NodeId


class Asked(NamedTuple):
    """A linked peer wants these nodes' records."""

    nodes: tuple[NodeId, ...]
    source: NodeId


class Tick(NamedTuple):
    """Time has passed. quiet: seconds since something was heard of a linked peer, where that is long; busy: those with

    calls inside. quiet is None when this node itself stood still: what peers sent meanwhile is still to be read.
    """

    quiet: Mapping[NodeId, float] | None = {}
    busy: Set[NodeId] = frozenset()


Event = (
    Spoke
    | Sighted
    | DialFailed
    | Forget
    | LinkedUp
    | LinkLost
    | Parted
    | RetireHeard
    | Wanted
    | FoundSelf
    | RecordHeard
    | LoadHeard
    | ClaimHeard
    | DigestHeard
    | VersionsHeard
    | Asked
    | Tick
)


class Dial(NamedTuple):
    """Open a link to this address."""

    address: Address


class Tell(NamedTuple):
    """Pass records and claims on to a linked peer."""

    to: NodeId
    news: tuple[Signed, ...] = ()
    claims: tuple[Claim, ...] = ()


class ShowDigest(NamedTuple):
    """Show a linked peer the sums of all we know."""

    to: NodeId
    sums: bytes


class ShowVersions(NamedTuple):
    """Show a linked peer all we know of the nodes in these buckets."""

    to: NodeId
    buckets: frozenset[int]
    versions: tuple[RecordVersion, ...]


class Ask(NamedTuple):
    """Have a linked peer send these nodes' records."""

    to: NodeId
    nodes: tuple[NodeId, ...]


class Refute(NamedTuple):
    """We were called suspect or dead, or our clock went back since an earlier life: sign a record with these."""

    incarnation: int
    refuted: int


class Drop(NamedTuple):
    """This peer is dead: what is left of its link is of no use."""

    node: NodeId


class Retire(NamedTuple):
    """The link to this peer is idle, and none of those that hold the grid together: agree with it to close."""

    node: NodeId


class Part(NamedTuple):
    """We agree to that: place no more calls on the link, and let its dialler close it."""

    node: NodeId


class Twin(NamedTuple):
    """Another machine has this node's key."""

    record: NodeRecord


class Changed(NamedTuple):
    """This member's row is new; `before` its state until now, None for a newcomer."""

    member: Member
    before: MemberState | None


Effect = Dial | Tell | ShowDigest | ShowVersions | Ask | Refute | Drop | Retire | Part | Twin | Changed
