import pytest

from gridnode.discovery.observed import ObservedHosts
from gridnode.model import NodeId

OWN = {"10.0.0.5"}


def peer(number: int) -> NodeId:
    return NodeId(f"{number:040x}")


def test_what_most_peers_say() -> None:
    observed = ObservedHosts()
    assert observed.hosts(OWN) == ()
    for number, host in enumerate(["203.0.113.7", "10.0.0.5", "203.0.113.7", "198.51.100.1"]):
        observed.hear(peer(number), host)
    assert observed.hosts(OWN) == ("203.0.113.7", "198.51.100.1")


def test_one_peer_has_one_word() -> None:
    observed = ObservedHosts()
    for number in range(100):
        observed.hear(peer(1), f"203.0.113.{number}")
    assert observed.hosts(OWN) == ("203.0.113.99",)


def test_many_peers_make_it_claim_few() -> None:
    observed = ObservedHosts()
    for number in range(200):
        observed.hear(peer(number), f"203.0.113.{number}")
    assert len(observed.hosts(OWN)) == 2
    assert len(observed._said) == 64


@pytest.mark.parametrize(
    "host", ["", "name.example", "127.0.0.1", "224.0.0.1", "0.0.0.0", "fe80::1%eth0", "x" * 10_000]
)
def test_what_no_other_could_dial_is_not_heard(host: str) -> None:
    observed = ObservedHosts()
    observed.hear(peer(1), host)
    assert observed.hosts(OWN) == ()
