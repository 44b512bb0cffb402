import io
import json

import pytest
from msgspec.structs import replace

from gridctl.cli import run
from gridctl.ls import WARN_WITHIN, as_fields, expiring, lines, release_text, row
from gridctl.node_watch import NodeWatch
from gridnode.model import Address, Load, Member, MemberState, NodeId, NodeRecord, ReleaseState, ReleaseStatus, Root
from tests.gridctl.conftest import RunningGrid

ROOT = Root("3f9c" + "0" * 60)


def member(
    state: str = "alive", release: ReleaseStatus | None = None, *addresses: Address, draining: bool = False
) -> Member:
    record = NodeRecord(NodeId("ab" * 20), "n1", 1, 1, addresses, "0.1.0", 1000, Load(2, 8), release, draining=draining)
    return Member(record, MemberState(state), 1030.0)


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (None, "-"),
        (ReleaseStatus(1, ROOT, ReleaseState.ACTIVE), "active 3f9c0000"),
        (ReleaseStatus(1, ROOT, ReleaseState.FETCHING, 4, 10), "fetching 40%"),
        (ReleaseStatus(1, ROOT, ReleaseState.FETCHING), "fetching"),
        (ReleaseStatus(1, ROOT, ReleaseState.STARTING), "starting 3f9c0000"),
        (ReleaseStatus(1, ROOT, ReleaseState.FAILED, error="no"), "failed 3f9c0000"),
    ],
)
def test_how_far_a_node_is(status: ReleaseStatus | None, text: str) -> None:
    assert release_text(status) == text


def test_a_row() -> None:
    cells = row(member("alive", None, Address("10.0.0.1", 7400), Address("::1", 7400)), 1090.0)
    assert cells == ("n1", "abababab", "10.0.0.1:7400 +1", "alive", "-", "2/8", "0.1.0", "1m 30s", "now")
    assert row(member("dead"), 1090.0)[2:] == ("-", "dead", "-", "-", "0.1.0", "-", "1m ago")
    assert row(member("suspect"), 1090.0)[7:] == ("1m 30s", "1m ago")


def test_a_node_that_drains() -> None:
    going = member(draining=True)
    assert row(going, 1090.0)[3] == "draining"
    assert (as_fields(going)["state"], as_fields(going)["draining"]) == ("alive", True)
    assert as_fields(member())["draining"] is False
    busy = replace(going, record=replace(going.record, drained=True))
    assert (row(busy, 1090.0)[3], as_fields(busy)["drained"]) == ("draining", True)
    assert row(replace(busy, record=replace(busy.record, load=Load(0, 8))), 1090.0)[3] == "drained"
    assert row(member("dead", draining=True), 1090.0)[3] == "dead"


@pytest.mark.parametrize(
    ("state", "until", "said"),
    [
        ("alive", 0, []),
        ("alive", 1000 + WARN_WITHIN, []),
        ("alive", 999 + WARN_WITHIN, ["ends in 29d 23h; `gridctl renew` makes it last longer"]),
        ("alive", 999, ["has ended; `gridctl provision` brings another"]),
        ("dead", 999, []),
    ],
)
def test_nodes_whose_card_ends_are_named(state: str, until: int, said: list[str]) -> None:
    one = member(state)
    one = replace(one, record=replace(one.record, until=until))
    expected = [f"warning: the card of n1 {text}" for text in said]
    assert expiring([one], 1000.0) == expected
    assert as_fields(one)["card_until"] == (until or None)


def test_fields_of_a_node() -> None:
    fields = as_fields(member("dead", ReleaseStatus(7, ROOT, ReleaseState.FAILED, 1, 2, "no"), Address("::1", 7400)))
    assert fields["addresses"] == ["[::1]:7400"]
    assert fields["release"] == {
        "sequence": 7,
        "root": ROOT,
        "state": "failed",
        "have": 1,
        "total": 2,
        "rate": 0,
        "error": "no",
    }
    assert (fields["last_seen"], as_fields(member())["last_seen"]) == (1030.0, None)
    assert (fields["state"], fields["load"]) == ("dead", {"in_flight": 2, "capacity": 8})
    json.dumps(fields)
    assert as_fields(member())["release"] is None


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_watching_without_a_terminal_tells_changes_only() -> None:
    out = io.StringIO()
    watch = NodeWatch(out, lines, as_json=False)
    for one, now in ((member(), 1090.0), (member(), 1200.0), (member("dead"), 1201.0)):
        watch.show([one], {"nodes": [as_fields(one)]}, now)
    told = out.getvalue().splitlines()
    assert [line.split()[3] for line in told] == ["STATE", "alive", "STATE", "dead"]


def test_watching_in_json_is_an_object_a_line() -> None:
    out = io.StringIO()
    watch = NodeWatch(out, lines, as_json=True)
    for one in (member(), member(), member("suspect")):
        watch.show([one], {"nodes": [as_fields(one)]}, 1090.0)
    told = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [(one["schema"], one["nodes"][0]["state"]) for one in told] == [(1, "alive"), (1, "suspect")]


def test_watching_on_a_terminal_draws_in_place() -> None:
    out = Screen()
    watch = NodeWatch(out, lines, as_json=False)
    for now in (1090.0, 1091.0):
        watch.show([member()], {"nodes": []}, now)
    assert out.getvalue().count("\x1b[H\x1b[J") == 2
    assert "1m 30s" in out.getvalue()
    assert "1m 31s" in out.getvalue()


def test_a_grid_that_is_lost_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    watch = NodeWatch(io.StringIO(), lines, as_json=False)
    watch.lost("gone")
    watch.lost("gone")
    watch.show([member()], {}, 1090.0)
    watch.lost("gone")
    assert capsys.readouterr().err.count("no answer, trying again: gone") == 2


def test_the_nodes_of_a_grid(hello_grid: RunningGrid, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["ls", "--gridfile", str(hello_grid.gridfile)]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["NAME", "ID", "ADDRESS", "STATE", "RELEASE", "LOAD", "VERSION", "UPTIME", "SEEN"]
    assert [line.split()[0] for line in lines] == ["node-1", "node-2"]
    assert all(" alive " in line and " active " in line for line in lines)
    assert run(["list", "--json", "--gridfile", str(hello_grid.gridfile)]) == 0
    fields = json.loads(capsys.readouterr().out)
    assert fields["schema"] == 1
    assert [node["name"] for node in fields["nodes"]] == ["node-1", "node-2"]
    assert fields["nodes"][0]["tasks"] == ["echo", "primes", "uptime", "whoami", "words", "words.longest"]
