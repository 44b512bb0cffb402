"""The addresses of this machine that others may reach."""

import ipaddress

import ifaddr

from gridnode.model import Address

_PRIVATE_TO_US = ("lo", "docker", "br-", "veth", "virbr", "cni")


def own_addresses(port: int) -> tuple[Address, ...]:
    """One per usable interface address, IPv4 first; loopback only when there is nothing else."""
    hosts: list[str] = []
    for adapter in ifaddr.get_adapters():
        if not adapter.nice_name.startswith(_PRIVATE_TO_US):
            hosts += [str(ip.ip if ip.is_IPv4 else ip.ip[0]) for ip in adapter.ips]
    usable = {host for host in hosts if _is_usable(host)}
    ordered = sorted(usable, key=lambda host: (":" in host, host)) or ["127.0.0.1"]
    return tuple(Address(host, port) for host in ordered[:16])


def _is_usable(host: str) -> bool:
    ip = ipaddress.ip_address(host)
    return not (ip.is_loopback or ip.is_link_local or ip.is_multicast or ip.is_unspecified)
