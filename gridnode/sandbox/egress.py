"""The network of sandboxes that may reach the world outside, and the rules that keep them from everything else.

One bridge on each server, without IPv6. The rules are nftables tables of our own, so they hold whatever else the
engine or an administrator's firewall says: what we drop nobody can accept again.
"""

from collections.abc import Iterable
from ipaddress import AddressValueError, IPv4Address, IPv4Network
from typing import Any, Final

NETWORK: Final = "gridcontrol-egress"
"""The engine's name of the network."""
BRIDGE: Final = "gridegress"
"""The interface; at most 15 characters, and part of every rule."""
TABLE: Final = "gridcontrol_egress"
LINK_PORT: Final = 7400
LABEL_FIREWALL: Final = "gridcontrol.firewall"
RESOLVED: Final = "/run/systemd/resolve/resolv.conf"
"""The host's real nameservers where its own resolv.conf names a resolver on loopback."""
NO_OUTSIDE: Final = (
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "168.63.129.16/32",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.168.0.0/16",
    "224.0.0.0/4",
    "240.0.0.0/4",
)
"""Loopback, private, link-local, group and reserved addresses, and the two clouds' own that are none of these."""
_MAX_NAMESERVERS: Final = 8
_OPTIONS: Final = {
    "com.docker.network.bridge.name": BRIDGE,
    "com.docker.network.bridge.enable_icc": "false",
    "com.docker.network.bridge.enable_ip_masquerade": "true",
}
_PROGRAM: Final = ["/opt/gridnode/bin/python", "-I", "-m", "gridnode.sandbox.firewall"]


def network_config() -> dict[str, Any]:
    """The body of the engine's POST /networks/create."""
    return {
        "Name": NETWORK,
        "CheckDuplicate": True,
        "Driver": "bridge",
        "EnableIPv6": False,
        "Internal": False,
        "Attachable": False,
        "Options": _OPTIONS,
        "Labels": {LABEL_FIREWALL: TABLE},
    }


def subnets_of(network: dict[str, Any]) -> list[IPv4Network]:
    """The addresses of a network as the engine describes it; ValueError when it is not as `network_config` says."""
    options = network.get("Options") or {}
    if network.get("Driver") != "bridge" or network.get("EnableIPv6") or not _OPTIONS.items() <= options.items():
        raise ValueError("it is of another kind")
    found = [IPv4Network(one["Subnet"]) for one in network["IPAM"]["Config"] or ()]
    if not found:
        raise ValueError("it has no addresses")
    return found


def firewall_config(image: str, subnets: list[IPv4Network], ports: list[int], resolved: bool) -> dict[str, Any]:
    """The short-lived container that sets the rules. image: gridnode's own; resolved: whether RESOLVED is there."""
    mount = {"Type": "bind", "Source": RESOLVED, "Target": RESOLVED, "ReadOnly": True}
    return {
        "Image": image,
        "Entrypoint": _PROGRAM,
        "Cmd": [*map(str, subnets), *map(str, ports)],
        "User": "0:0",
        "Labels": {LABEL_FIREWALL: TABLE},
        "Healthcheck": {"Test": ["NONE"]},
        "HostConfig": {
            "NetworkMode": "host",
            "UsernsMode": "host",
            "ReadonlyRootfs": True,
            "CapDrop": ["ALL"],
            "CapAdd": ["NET_ADMIN"],
            "SecurityOpt": ["no-new-privileges:true"],
            "PidsLimit": 32,
            "Memory": 128 * 1024 * 1024,
            "LogConfig": {"Type": "json-file", "Config": {"max-size": "1m", "max-file": "1"}},
            "Mounts": [mount] if resolved else [],
        },
    }


def nameservers(text: str) -> list[IPv4Address]:
    """Those of a resolv.conf that a sandbox may ask itself; the engine asks the ones on loopback for it."""
    found: dict[IPv4Address, None] = {}
    for line in text.splitlines():
        match line.split():
            case ["nameserver", word, *_]:
                try:
                    found[IPv4Address(word)] = None
                except AddressValueError:
                    continue
    return [address for address in found if not address.is_loopback][:_MAX_NAMESERVERS]


def ruleset(subnets: list[IPv4Network], asked: list[IPv4Address], ports: list[int]) -> str:
    """The rules for `nft -f`, which takes all of them or none. asked: nameservers; ports: of links, only ever added.

    Everything is checked before and after the addresses are translated: a port that a server publishes is its own.
    """
    names = f"ip daddr {{ {_list(asked)} }} meta l4proto {{ tcp, udp }} th dport 53 accept" if asked else ""
    return f"""
table inet {TABLE}
table bridge {TABLE}
flush table inet {TABLE}
flush table bridge {TABLE}
table inet {TABLE} {{
    set ports {{
        type inet_service
        elements = {{ {_list(sorted({LINK_PORT, *ports}))} }}
    }}
    chain outward {{
        meta nfproto ipv6 drop
        {names}
        ip daddr {{ {_list(NO_OUTSIDE)} }} drop
        meta l4proto {{ tcp, udp, sctp }} th dport @ports drop
    }}
    chain arriving {{
        type filter hook prerouting priority raw; policy accept;
        iifname "{BRIDGE}" jump outward
        iifname "{BRIDGE}" fib daddr type {{ local, broadcast, anycast, multicast }} drop
    }}
    chain forwarded {{
        type filter hook forward priority filter - 10; policy accept;
        iifname "{BRIDGE}" jump outward
        oifname "{BRIDGE}" ct state established,related accept
        oifname "{BRIDGE}" drop
    }}
    chain entering {{
        type filter hook input priority filter - 10; policy accept;
        iifname "{BRIDGE}" jump outward
        iifname "{BRIDGE}" drop
    }}
}}
table bridge {TABLE} {{
    chain forwarded {{
        type filter hook forward priority filter; policy accept;
        ip saddr {{ {_list(subnets)} }} drop
        ip daddr {{ {_list(subnets)} }} drop
        arp daddr ip {{ {_list(subnets)} }} drop
    }}
}}
"""


def _list(values: Iterable[object]) -> str:
    return ", ".join(map(str, values))
