"""The addresses of this machine that others may reach."""

import ipaddress

import ifaddr

from gridnode.model import Address

_MAX_ADDRESSES = 16
_PRIVATE_TO_US = ("lo", "docker", "br-", "veth", "virbr", "cni")


def own_addresses(port: int) -> tuple[Address, ...]:
    """One per usable interface address, IPv4 first; loopback only when there is nothing else."""
    usable = {host for host, _ in _usable()}
    ordered = sorted(usable, key=lambda host: (":" in host, host)) or ["127.0.0.1"]
    return tuple(Address(host, port) for host in ordered[:_MAX_ADDRESSES])


def own_networks() -> tuple[str, ...]:
    """The networks that this machine is on, as `10.0.0.0/24`."""
    found: list[str] = []
    for adapter in ifaddr.get_adapters():
        if not adapter.nice_name.startswith(_PRIVATE_TO_US):
            for ip in adapter.ips:
                host = str(ip.ip if ip.is_IPv4 else ip.ip[0])
                if _is_usable(host):
                    found.append(str(ipaddress.ip_network(f"{host}/{ip.network_prefix}", strict=False)))
    return tuple(found[:_MAX_ADDRESSES])


def multicast_interfaces() -> tuple[str | int, ...]:
    """Every usable interface: one IPv4 address each, or its index for IPv6; loopback when there is nothing else."""
    found = [(index if ":" in host else host) for host, index in _usable()]
    return tuple(dict.fromkeys(found))[:_MAX_ADDRESSES] or ("127.0.0.1",)


def _usable() -> list[tuple[str, int]]:
    """Addresses others may reach, and the index of the interface of each."""
    found: list[tuple[str, int]] = []
    for adapter in ifaddr.get_adapters():
        if not adapter.nice_name.startswith(_PRIVATE_TO_US):
            hosts = [str(ip.ip if ip.is_IPv4 else ip.ip[0]) for ip in adapter.ips]
            found += [(host, adapter.index or 0) for host in hosts if _is_usable(host)]
    return found


def _is_usable(host: str) -> bool:
    ip = ipaddress.ip_address(host)
    return not (ip.is_loopback or ip.is_link_local or ip.is_multicast or ip.is_unspecified)
