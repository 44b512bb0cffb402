"""What is wrong with a node, judged by facts: each function takes what was measured and says it for people."""

import ipaddress
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from gridnode.diagnosis import Check, Verdict
from gridnode.model import Address, NodeRecord

__all__ = [
    "CARD_SHORT",
    "Multicast",
    "Reach",
    "check_card",
    "check_disk",
    "check_engine",
    "check_image",
    "check_multicast",
    "check_nat",
    "check_reach",
    "neighbours",
]

CARD_SHORT: Final = 30 * 86_400
"""Seconds before a card ends, from when on it is worth a word."""
CARD_LAST: Final = 3 * 86_400
"""From when on nobody should wait any longer."""
SLOW: Final = 2.0
"""Seconds an engine may take to say its version."""
_GB: Final = 1000**3
_FEW: Final = 5


class Multicast(NamedTuple):
    """refused: why this node could not begin; interfaces: it speaks on so many.

    heard, near: names of members that were heard by it, and of those that share a network with this node.
    age: seconds since this node started.
    """

    wanted: bool
    refused: str = ""
    interfaces: int = 0
    heard: frozenset[str] = frozenset()
    near: frozenset[str] = frozenset()
    age: float = 0.0


class Reach(NamedTuple):
    """One peer, dialled at what it says its addresses are. error: of the last that failed; empty: one leads to it.

    is_translated: it was seen at an address that is none of those.
    """

    name: str
    addresses: tuple[Address, ...]
    error: str = ""
    is_translated: bool = False


def check_disk(free: int, total: int, reserve: int, path: str) -> Check:
    """free, total, reserve: bytes."""
    said = f"{free / _GB:.1f} GB of {total / _GB:.1f} GB free at {path}"
    if free < reserve:
        hint = (
            f"make room: below {reserve / _GB:.1f} GB (GRIDNODE_DISK_RESERVE) images are not fetched, and deploys fail"
        )
        return Check("disk", Verdict.WRONG, said, hint)
    if free < total // 20:
        return Check("disk", Verdict.NOTE, said, "less than 5% is left: old images and logs are what usually grows")
    return Check("disk", Verdict.OK, said)


def check_card(until: float, now: float) -> Check:
    """until: when it ends; both unix seconds."""
    left, hint = until - now, "`gridctl provision` brings another"
    if left <= 0:
        return Check("card", Verdict.WRONG, f"it ended {_days(-left)} ago", hint)
    verdict = Verdict.WRONG if left < CARD_LAST else Verdict.NOTE if left < CARD_SHORT else Verdict.OK
    return Check("card", verdict, f"it ends in {_days(left)}", "" if verdict is Verdict.OK else hint)


def check_engine(version: str, took: float, error: str = "") -> Check:
    """took: seconds until it said its version, or gave the error."""
    if error:
        return Check("engine", Verdict.WRONG, error, "systemctl status docker, journalctl -u docker")
    said = f"{version}, answers in {took * 1000:.0f} ms"
    if took > SLOW:
        return Check("engine", Verdict.NOTE, said, "that is slow: is the disk or the processor of this server busy?")
    return Check("engine", Verdict.OK, said)


def check_image(name: str, is_there: bool, tasks: Sequence[str]) -> Check:
    """tasks: task files of the release that run in it."""
    name = name[:19] if name.startswith("sha256:") else name
    users = f"for {_listed(tasks)}" if tasks else "which no task of the release needs"
    if is_there:
        return Check("images", Verdict.OK, f"{name} is there, {users}")
    if not tasks:
        return Check("images", Verdict.OK, f"{name} is not there, {users}")
    hint = f"`gridctl image push {name}` ships it to every node"
    return Check("images", Verdict.WRONG, f"{name} is not there, {users}", hint)


def check_reach(ways: Sequence[Reach], port: int) -> list[Check]:
    """One for all peers that can be dialled, one more for each that cannot. port: of this node's own link."""
    good = [way.name for way in ways if not way.error]
    said = f"{len(good)} of {len(ways)} linked nodes can be dialled from here" if ways else "no other node is linked"
    checks = [Check("ports", Verdict.OK, said)]
    for way in ways:
        if not way.error:
            continue
        tried = _listed([str(address) for address in way.addresses]) or "no address"
        said = f"{way.name} cannot be dialled from here at {tried}: {way.error}"
        if way.is_translated:
            hint = "it is behind NAT and serves over links it dials; forward its port to spare the detour"
            checks.append(Check("ports", Verdict.NOTE, said, hint))
        else:
            hint = f"let {port}/tcp and {port}/udp through its firewall, or give it an address: GRIDNODE_ADVERTISE"
            checks.append(Check("ports", Verdict.WRONG, said, hint))
    return checks


def check_nat(seen: Sequence[str], advertised: bool, port: int) -> Check:
    """seen: hosts at which peers see this node, that no interface of its own has."""
    if not seen:
        return Check("nat", Verdict.OK, "peers see this node at its own addresses")
    said = f"behind NAT: peers see this node at {_listed(seen)}"
    if advertised:
        return Check("nat", Verdict.OK, f"{said}, and GRIDNODE_ADVERTISE says where it is")
    hint = f"it works by links it dials itself; forward {port}/tcp and {port}/udp to it, or set GRIDNODE_ADVERTISE"
    return Check("nat", Verdict.NOTE, said, hint)


def check_multicast(found: Multicast) -> Check:
    """By multicast nodes find each other without any seed; where it fails, seeds and the DHT do."""
    if not found.wanted:
        return Check("multicast", Verdict.OK, "off by GRIDNODE_MDNS: seeds and the DHT find peers")
    if found.refused:
        return Check("multicast", Verdict.NOTE, f"none: {found.refused}", "seeds and the DHT find peers all the same")
    deaf = found.near - found.heard
    said = f"on {found.interfaces} interface{'s' * (found.interfaces != 1)}, heard {len(found.heard)} members"
    if deaf and not found.heard & found.near and found.age > 60:
        hint = (
            "does the switch, or a firewall, block 5353/udp or 224.0.0.251? Seeds and the DHT find peers all the same"
        )
        return Check("multicast", Verdict.NOTE, f"{said}, none of {_listed(sorted(deaf))} on the same network", hint)
    return Check("multicast", Verdict.OK, said)


def neighbours(records: Iterable[NodeRecord], networks: Iterable[str]) -> frozenset[str]:
    """Names of those that say an address in one of the networks, which are as `10.0.0.0/24`."""
    nets = [ipaddress.ip_network(network, strict=False) for network in networks]
    return frozenset(
        record.name for record in records if any(_is_in(address.host, nets) for address in record.addresses)
    )


def _is_in(host: str, nets: Iterable[ipaddress.IPv4Network | ipaddress.IPv6Network]) -> bool:
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return False
    return any(ip.version == net.version and ip in net for net in nets)


def _days(seconds: float) -> str:
    days = seconds / 86_400
    return f"{days:.0f} days" if days >= 2 else f"{seconds / 3600:.1f} hours"


def _listed(texts: Sequence[str]) -> str:
    more = f" and {len(texts) - _FEW} more" if len(texts) > _FEW else ""
    return ", ".join(texts[:_FEW]) + more
