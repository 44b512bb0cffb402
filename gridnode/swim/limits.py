"""What a Membership waits for, and how much of what peers tell it remembers."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MembershipLimits:
    """Seconds, and bounds on what peers can make us remember. full: a grid of up to so many is a full mesh.

    silent_after: how long a link may be quiet before its peer is suspect, in a full mesh and in a larger grid, where
    pings are rarer and another link is tried at retry_after. suspect_after: a suspect's time to object in a grid of
    ten. idle_after: how long a link that was made for a call is kept for nothing, probed_after: one that was not.
    """

    silent_after: float = 1.0
    silent_after_apart: float = 2.5
    retry_after: float = 1.5
    suspect_after: float = 1.25
    forget_after: float = 24 * 3600.0
    redial_first: float = 0.25
    redial_last: float = 5.0
    yield_dial: float = 0.5
    gossip_every: float = 0.5
    compare_every: float = 10.0
    probe_every: float = 15.0
    idle_after: float = 60.0
    probed_after: float = 5.0
    full: int = 64
    fanout: int = 3
    max_members: int = 4096
    max_addresses: int = 16384
    """In all; a sixty-fourth of it for one node."""
    dials_at_once: int = 32
    """Started in one tick: what a peer tells must not make this node a flood."""
    dials_idle: int = 2
    """Of those, to strangers and the dead, once there are links enough."""
