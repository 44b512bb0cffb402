from types import SimpleNamespace
from typing import Any

import ifaddr
import pytest

from gridnode.discovery.interfaces import multicast_interfaces, own_addresses
from gridnode.model import Address


def adapter(name: str, *ips: str, index: int = 1) -> Any:
    v6 = [":" in ip for ip in ips]
    return SimpleNamespace(
        nice_name=name,
        index=index,
        ips=[
            SimpleNamespace(ip=(ip, 0, 0) if six else ip, is_IPv4=not six, is_IPv6=six)
            for ip, six in zip(ips, v6, strict=True)
        ],
    )


def found(monkeypatch: pytest.MonkeyPatch, *adapters: Any) -> list[str]:
    monkeypatch.setattr(ifaddr, "get_adapters", lambda: list(adapters))
    return [address.host for address in own_addresses(7400)]


def test_what_others_may_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    hosts = found(
        monkeypatch,
        adapter("lo", "127.0.0.1", "::1"),
        adapter("eth0", "192.168.1.5", "fd00::5", "fe80::1", "2001:db8::5"),
        adapter("eth1", "169.254.7.7", "10.0.0.5"),
        adapter("docker0", "172.17.0.1"),
        adapter("br-0123456789ab", "172.18.0.1"),
        adapter("veth12345", "169.254.1.1"),
    )
    assert hosts == ["10.0.0.5", "192.168.1.5", "2001:db8::5", "fd00::5"]


def test_loopback_only_when_there_is_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    assert found(monkeypatch, adapter("lo", "127.0.0.1"), adapter("eth0", "0.0.0.0", "fe80::1")) == ["127.0.0.1"]


def test_an_address_on_two_interfaces_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert found(monkeypatch, adapter("eth0", "10.0.0.5"), adapter("macvlan0", "10.0.0.5")) == ["10.0.0.5"]


def test_there_are_not_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(found(monkeypatch, adapter("eth0", *(f"10.0.{n}.1" for n in range(100))))) == 16


def test_this_machine_has_some() -> None:
    addresses = own_addresses(7400)
    assert addresses
    assert all(isinstance(address, Address) and address.port == 7400 for address in addresses)


def test_multicast_goes_out_on_every_usable_interface_by_both_protocols(monkeypatch: pytest.MonkeyPatch) -> None:
    adapters = [
        adapter("lo", "127.0.0.1", "::1", index=1),
        adapter("eth0", "192.168.1.5", "fd00::5", "2001:db8::5", "fe80::1", index=2),
        adapter("docker0", "172.17.0.1", "fd01::1", index=3),
        adapter("eth1", "fe80::2", "fd02::1", index=4),
    ]
    monkeypatch.setattr(ifaddr, "get_adapters", lambda: adapters)
    assert multicast_interfaces() == ("192.168.1.5", 2, 4)
    monkeypatch.setattr(ifaddr, "get_adapters", lambda: adapters[:1])
    assert multicast_interfaces() == ("127.0.0.1",)
