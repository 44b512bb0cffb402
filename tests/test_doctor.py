"""The doctor's looks at a node: engines that do not answer, images that are not there, peers that cannot be dialled."""

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from msgspec.structs import replace

from gridnode import doctor, messages
from gridnode.diagnosis import Check, Verdict, decode_diagnosis, decode_round_trips
from gridnode.doctor import Doctor, look_at_engine, look_at_images, look_at_peers
from gridnode.errors import BodyInvalid, EngineUnavailable, LinkClosed, SandboxError
from gridnode.link import LinkLimits
from gridnode.link.client import dial
from gridnode.link.protocol import Link
from gridnode.link.tls import client_context
from gridnode.model import Address, Member, MemberState, NodeId, NodeRecord, TaskSpec
from gridnode.round_trips import RoundTrips, pong
from gridnode.wire import Frame, Kind, Op
from tests.fakes.peers import ALICE, BOB, TLS_IDENTITY, End, Hop, hop

ASKED = Frame(Kind.CALL, 1, Op.DOCTOR)
OK, NOTE, WRONG = Verdict.OK, Verdict.NOTE, Verdict.WRONG


class Images:
    """An engine that has these images."""

    def __init__(self, *names: str) -> None:
        self.names = names

    async def version(self) -> str:
        return "20.10.24, API 1.41"

    async def has(self, name: str) -> bool:
        return name in self.names


def verdicts(checks: Sequence[Check]) -> list[Verdict]:
    assert all(check.said and bool(check.hint) == (check.verdict is not OK) for check in checks)
    return [check.verdict for check in checks]


# -- the looks together ---------------------------------------------------------------------------------------------


async def test_a_look_that_fails_or_hangs_leaves_the_others_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "PATIENCE", 0.05)

    async def good() -> list[Check]:
        return [Check("disk", OK, "fine")]

    async def broken() -> list[Check]:
        raise KeyError("oops")

    async def refused() -> list[Check]:
        raise SandboxError("the engine refused", hint="look at it")

    async def mute() -> list[Check]:
        await asyncio.Event().wait()
        return []

    looks = {"good": good, "broken": broken, "refused": refused, "mute": mute}
    found = decode_diagnosis(await Doctor(looks).answer(ASKED))
    assert verdicts(found.checks) == [OK, WRONG, WRONG, WRONG]
    assert [check.subject for check in found.checks] == ["disk", "broken", "refused", "mute"]
    assert found.checks[2].hint == "look at it"
    assert found.took > 0


async def test_many_who_ask_at_once_make_it_look_once() -> None:
    count = 0

    async def look() -> list[Check]:
        nonlocal count
        count += 1
        await asyncio.sleep(0)
        return [Check("disk", OK, "fine")]

    one = Doctor({"disk": look})
    answers = await asyncio.gather(*(one.answer(ASKED) for _ in range(50)))
    assert count == 1
    assert all(decode_diagnosis(answer).checks[0].said == "fine" for answer in answers)


# -- the engine -----------------------------------------------------------------------------------------------------


async def test_an_engine_that_answers() -> None:
    [check] = await look_at_engine(Images())
    assert (check.verdict, check.said.startswith("20.10.24, API 1.41, answers in")) == (OK, True)


async def test_an_engine_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(self: Images) -> str:
        raise EngineUnavailable("no container engine answers")

    monkeypatch.setattr(Images, "version", away)
    [check] = await look_at_engine(Images())
    assert (check.verdict, check.said) == (WRONG, "no container engine answers")


async def test_images_that_tasks_need() -> None:
    tasks = [
        TaskSpec("a", "tasks/a.py"),
        TaskSpec("b", "tasks/b.js", runtime="node"),
        TaskSpec("c", "tasks/c.py", image="app:1"),
        TaskSpec("d", "tasks/d", runtime="image", image="app:2"),
    ]
    checks = await look_at_images(Images("own", "app:1"), "own", "js", tasks)
    assert dict(zip(["own", "js", "app:1", "app:2"], verdicts(checks), strict=True)) == {
        "own": OK,
        "js": WRONG,
        "app:1": OK,
        "app:2": WRONG,
    }
    assert "js is not there, for b" in checks[1].said
    assert verdicts(await look_at_images(Images("own"), "own", "js", tasks[:1])) == [OK, OK]


# -- peers ----------------------------------------------------------------------------------------------------------


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Hop]:
    """ALICE listens; BOB dials her."""
    async with hop("tls", End(), tmp_path) as place:
        yield place


async def dialled(address: Address) -> Link:
    return await dial(address, End(), client_context(BOB), TLS_IDENTITY, LinkLimits())


def record(node: NodeId, *addresses: Address) -> NodeRecord:
    return NodeRecord(node, "peer", 1, 0, addresses, "1", 0)


def link_from(host: str) -> Any:
    """A link that the peer dialled, seen at this address."""
    return SimpleNamespace(peer=SimpleNamespace(host=host))


async def test_a_peer_that_can_be_dialled(place: Hop) -> None:
    peer = record(ALICE.node, place.address)
    assert verdicts(await look_at_peers([(peer, link_from("127.0.0.1"))], dialled, 7400)) == [OK]


async def test_another_node_at_its_address(place: Hop) -> None:
    peer = record(NodeId("f" * 40), place.address)
    checks = await look_at_peers([(peer, link_from("127.0.0.1"))], dialled, 7400)
    assert verdicts(checks) == [OK, WRONG]
    assert "another node answers there" in checks[1].said


async def test_a_peer_whose_port_is_closed() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        closed = Address("127.0.0.1", free.getsockname()[1])
        peer = record(ALICE.node, closed)
        checks = await look_at_peers([(peer, link_from("127.0.0.1"))], dialled, 7400)
        assert verdicts(checks) == [OK, WRONG]
        assert "refused" in checks[1].said
        behind = await look_at_peers([(peer, link_from("198.51.100.7"))], dialled, 7400)
        assert verdicts(behind) == [OK, NOTE]


async def test_a_peer_that_tells_no_address() -> None:
    checks = await look_at_peers([(record(ALICE.node), link_from("198.51.100.7"))], dialled, 7400)
    assert verdicts(checks) == [OK, NOTE]


# -- round trips ----------------------------------------------------------------------------------------------------


class Far:
    """A link over which so many questions are answered, and then the given error."""

    is_open = True

    def __init__(self, answers: int, error: Exception) -> None:
        self.answers, self.error = answers, error

    async def request(self, op: Op, *, timeout: float) -> bytes:
        assert op is Op.PING
        self.answers -= 1
        if self.answers < 0:
            raise self.error
        return await pong(ASKED)


async def test_round_trips_to_all_but_those_that_left() -> None:
    me, good, mute, lost, dead, left = (NodeId(letter * 40) for letter in "abcdef")
    links = {good: Far(9, TimeoutError()), mute: Far(1, TimeoutError()), lost: Far(0, LinkClosed("broke"))}
    states = {dead: MemberState.DEAD, left: MemberState.LEFT}
    members = [
        Member(replace(record(node), name=node[0]), states.get(node, MemberState.ALIVE), 0.0)
        for node in (me, good, mute, lost, dead, left)
    ]
    trips = RoundTrips(me, lambda: members, cast(Any, links.get))
    found = decode_round_trips(await trips.answer(Frame(Kind.CALL, 1, Op.ROUND_TRIPS, body=messages.encode(3))))
    assert [(trip.name, len(trip.times), trip.error) for trip in found] == [
        ("b", 3, ""),
        ("c", 1, "no answer within 1 s"),
        ("d", 0, "broke"),
        ("e", 0, "not linked: dead"),
    ]
    with pytest.raises(BodyInvalid):
        await trips.answer(Frame(Kind.CALL, 1, Op.ROUND_TRIPS, body=b"\xc1"))
