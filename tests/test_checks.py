"""What the doctor makes of facts."""

from typing import Any

import pytest

from gridnode.checks import (
    Multicast,
    Reach,
    check_card,
    check_disk,
    check_engine,
    check_image,
    check_multicast,
    check_nat,
    check_reach,
    neighbours,
)
from gridnode.diagnosis import Check, Verdict
from gridnode.model import Address, NodeId, NodeRecord

GB = 1000**3
DAY = 86_400.0
OK, NOTE, WRONG = Verdict.OK, Verdict.NOTE, Verdict.WRONG
ADDRESS = Address("10.0.0.3", 7400)


@pytest.mark.parametrize(
    ("free", "verdict"), [(50 * GB, OK), (5 * GB, OK), (5 * GB - 1, NOTE), (GB, NOTE), (GB - 1, WRONG), (0, WRONG)]
)
def test_disk(free: int, verdict: Verdict) -> None:
    assert sound(check_disk(free, 100 * GB, GB, "/var/lib/gridnode")).verdict is verdict


@pytest.mark.parametrize(
    ("left", "verdict"), [(365, OK), (30, OK), (29.9, NOTE), (3, NOTE), (2.9, WRONG), (0, WRONG), (-9, WRONG)]
)
def test_card(left: float, verdict: Verdict) -> None:
    assert sound(check_card(1e9 + left * DAY, 1e9)).verdict is verdict


@pytest.mark.parametrize(
    ("version", "took", "error", "verdict"),
    [("20.10, API 1.41", 0.004, "", OK), ("20.10, API 1.41", 2.1, "", NOTE), ("", 0.1, "no container engine", WRONG)],
)
def test_engine(version: str, took: float, error: str, verdict: Verdict) -> None:
    check = sound(check_engine(version, took, error))
    assert check.verdict is verdict
    assert (error or version) in check.said


@pytest.mark.parametrize(
    ("is_there", "tasks", "verdict"), [(True, ["a"], OK), (True, [], OK), (False, [], OK), (False, ["a", "b"], WRONG)]
)
def test_image(is_there: bool, tasks: list[str], verdict: Verdict) -> None:
    check = sound(check_image("app:1", is_there, tasks))
    assert check.verdict is verdict
    assert verdict is OK or check.hint.startswith("`gridctl image push app:1`")


def test_ports() -> None:
    good = Reach("node-2", (ADDRESS,))
    lost = Reach("node-3", (ADDRESS,), "connection refused")
    hidden = lost._replace(is_translated=True)
    assert [check.verdict for check in check_reach([good], 7400)] == [OK]
    assert [check.verdict for check in check_reach([], 7400)] == [OK]
    found = [sound(check) for check in check_reach([good, lost, hidden], 7400)]
    assert [check.verdict for check in found] == [OK, WRONG, NOTE]
    assert "1 of 3" in found[0].said
    assert "10.0.0.3:7400: connection refused" in found[1].said
    assert "7400/tcp" in found[1].hint


@pytest.mark.parametrize(
    ("seen", "advertised", "verdict"),
    [([], False, OK), (["198.51.100.7"], False, NOTE), (["198.51.100.7"], True, OK)],
)
def test_nat(seen: list[str], advertised: bool, verdict: Verdict) -> None:
    check = sound(check_nat(seen, advertised, 7400))
    assert check.verdict is verdict
    assert all(host in check.said for host in seen)


@pytest.mark.parametrize(
    ("fields", "verdict"),
    [
        ({"wanted": False}, OK),
        ({"refused": "no such device"}, NOTE),
        ({}, OK),
        ({"near": frozenset("a"), "age": 3600.0}, NOTE),
        ({"near": frozenset("a"), "age": 30.0}, OK),
        ({"near": frozenset("ab"), "heard": frozenset("a"), "age": 3600.0}, OK),
        ({"heard": frozenset("c"), "near": frozenset("a"), "age": 3600.0}, NOTE),
    ],
)
def test_multicast(fields: dict[str, Any], verdict: Verdict) -> None:
    assert sound(check_multicast(Multicast(**{"wanted": True, "interfaces": 1} | fields))).verdict is verdict


def test_who_is_on_the_same_network() -> None:
    def record(name: str, *hosts: str) -> NodeRecord:
        addresses = tuple(Address(host, 7400) for host in hosts)
        return NodeRecord(NodeId(name * 40), name, 1, 0, addresses, "1", 0)

    members = [record("a", "10.0.0.9"), record("b", "10.0.1.9"), record("c", "node.example"), record("d", "fd00::9")]
    assert neighbours(members, ["10.0.0.0/24", "fd00::/64"]) == {"a", "d"}
    assert neighbours(members, []) == frozenset()


def sound(check: Check) -> Check:
    """A check that is not well says what to do."""
    assert check.said
    assert bool(check.hint) == (check.verdict is not Verdict.OK)
    return check
