"""The rules as text; integration/test_egress.py has them in a kernel."""

import re
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridnode.sandbox.egress import (
    BRIDGE,
    NETWORK,
    NO_OUTSIDE,
    RESOLVED,
    firewall_config,
    nameservers,
    network_config,
    ruleset,
    subnets_of,
)

SUBNET = IPv4Network("172.20.0.0/16")
RESOLV_CONF = """
# of a dhcp client
search example.com
nameserver 10.0.0.2
nameserver 127.0.0.53
nameserver 2001:db8::1
nameserver 192.0.2.53 trailing
nameserver
nameserver not-an-address
nameserver 10.0.0.2
options edns0
"""


def rules(asked: list[IPv4Address] | None = None, ports: list[int] | None = None) -> str:
    return ruleset([SUBNET], asked or [], ports or [])


def described(**changes: Any) -> dict[str, Any]:
    """The network as an engine tells of it."""
    made = network_config()
    return (
        {"Driver": made["Driver"], "EnableIPv6": False, "Options": made["Options"]}
        | {"IPAM": {"Config": [{"Subnet": str(SUBNET)}]}}
        | changes
    )


def test_nameservers_are_those_that_a_sandbox_may_ask_itself() -> None:
    assert nameservers(RESOLV_CONF) == [IPv4Address("10.0.0.2"), IPv4Address("192.0.2.53")]


@given(st.text(max_size=500), st.lists(st.ip_addresses(v=4).map(lambda one: f"nameserver {one}"), max_size=30))
def test_no_resolv_conf_gets_more_than_addresses_into_the_rules(text: str, lines: list[str]) -> None:
    found = nameservers("\n".join([text, *lines]))
    assert len(found) <= 8
    assert not any(address.is_loopback for address in found)
    told = ruleset([SUBNET], found, [])
    assert told.count("\n") == rules().count("\n")
    assert set(re.sub(r"\d+", "1", told)) <= set(re.sub(r"\d+", "1", rules([IPv4Address("1.1.1.1")])))


def test_only_the_port_of_names_is_open_at_a_nameserver() -> None:
    told = rules([IPv4Address("10.0.0.2"), IPv4Address("169.254.169.254")])
    assert "ip daddr { 10.0.0.2, 169.254.169.254 } meta l4proto { tcp, udp } th dport 53 accept" in told
    assert "dport 53" not in rules()


@pytest.mark.parametrize(
    "address",
    [
        *("169.254.169.254", "168.63.129.16", "100.100.100.200", "192.0.0.192"),  # what clouds tell their servers
        *("10.1.2.3", "172.31.255.1", "192.168.0.1", "100.64.0.1"),
        *("127.0.0.1", "0.0.0.0", "224.0.0.251", "255.255.255.255"),
    ],
)
def test_what_is_no_outside(address: str) -> None:
    assert any(IPv4Address(address) in IPv4Network(one) for one in NO_OUTSIDE)
    assert all(one in rules() for one in NO_OUTSIDE)


@pytest.mark.parametrize("address", ["1.1.1.1", "8.8.8.8", "100.63.255.255", "172.32.0.1", "198.51.100.2", "223.1.1.1"])
def test_what_is_outside(address: str) -> None:
    assert not any(IPv4Address(address) in IPv4Network(one) for one in NO_OUTSIDE)


def test_grid_ports_are_closed_whatever_port_a_node_has() -> None:
    assert "elements = { 7400 }" in rules(ports=[7400])
    assert "elements = { 7400, 17400 }" in rules(ports=[17400])


def test_every_rule_is_about_the_one_bridge_or_its_addresses() -> None:
    for line in rules().splitlines():
        if re.search(r"(drop|accept|jump outward)$", line) and "policy" not in line:
            in_chain = line.strip().startswith(("meta", "ip daddr { 0.0.0.0/8"))
            assert in_chain or BRIDGE in line or str(SUBNET) in line, line
    assert rules().count("jump outward") == rules().count(f'iifname "{BRIDGE}" jump outward') == 3


def test_the_network_is_known_again() -> None:
    assert subnets_of(described()) == [SUBNET]


@pytest.mark.parametrize(
    "changes",
    [
        {"Driver": "macvlan"},
        {"EnableIPv6": True},
        {"Options": {}},
        {"Options": None},
        {"Options": network_config()["Options"] | {"com.docker.network.bridge.enable_icc": "true"}},
        {"Options": network_config()["Options"] | {"com.docker.network.bridge.name": "br0"}},
        {"IPAM": {"Config": []}},
        {"IPAM": {"Config": None}},
        {"IPAM": {"Config": [{"Subnet": "fd00::/64"}]}},
    ],
)
def test_another_network_of_that_name_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"kind|addresses|Expected|Only|permitted"):
        subnets_of(described(**changes))


def test_what_sets_the_rules_may_do_only_that() -> None:
    config = firewall_config("image", [SUBNET], [7400], resolved=True)
    host = config["HostConfig"]
    assert (host["CapDrop"], host["CapAdd"], host["ReadonlyRootfs"]) == (["ALL"], ["NET_ADMIN"], True)
    assert (host["NetworkMode"], "Privileged" in host, "docker.sock" in str(config)) == ("host", False, False)
    assert config["Cmd"] == [str(SUBNET), "7400"]
    assert [(mount["Source"], mount["ReadOnly"]) for mount in host["Mounts"]] == [(RESOLVED, True)]
    assert firewall_config("image", [SUBNET], [], resolved=False)["HostConfig"]["Mounts"] == []


def test_the_bridges_name_is_one_the_kernel_takes() -> None:
    assert len(BRIDGE) <= 15
    assert network_config()["Name"] == NETWORK
