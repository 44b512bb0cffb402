import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import pytest

from gridnode import messages
from gridnode.errors import BodyInvalid, Forbidden, GridError, LinkClosed, NoCapacity, NotAuthenticated, TaskRaised
from gridnode.identity import Credentials
from gridnode.link import Cancel
from gridnode.link.protocol import Link
from gridnode.link.server import BulkEnd, LinkServer, reply_meta
from gridnode.messages import Hello, ReplyMeta
from gridnode.model import Done, InstanceId, Invocation, NodeId, NodeRecord, Outcome, Role
from gridnode.wire import Frame, Op
from tests.fakes.peers import ALICE, BOB, OPERATOR, End, Hop, hop, until


def record(credentials: Credentials) -> NodeRecord:
    return NodeRecord(credentials.node, "n", 1, 0, (), "1", 0)


class Mesh:
    """Writes down what the links tell."""

    def __init__(self) -> None:
        self.told: list[tuple[str, NodeId]] = []

    def shown(self) -> NodeRecord:
        return record(ALICE)

    def linked(self, link: Link, record: NodeRecord) -> None:
        self.told.append(("linked", record.id))

    def unlinked(self, link: Link, node: NodeId) -> None:
        self.told.append(("unlinked", node))

    def heard(self, node: NodeId, frame: Frame) -> None:
        self.told.append(("heard", node))


class Answers:
    """What the server does with what it lets through."""

    def __init__(self) -> None:
        self.invoked: list[tuple[str, Invocation]] = []
        self.cancelled: list[str] = []
        self.settle: Callable[[Done], None] = lambda done: done(Outcome(b"ok", node=ALICE.node, instance=I))

    async def nodes(self, frame: Frame) -> bytes:
        return b"nodes for " + frame.body

    async def broken(self, frame: Frame) -> bytes:
        raise ZeroDivisionError("secret")

    async def refused(self, frame: Frame) -> bytes:
        raise BodyInvalid("refused")

    async def endless(self, frame: Frame) -> bytes:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled.append("op")
            raise
        return b""

    def invoke(self, way: str) -> Callable[[Invocation, Done, Frame], Cancel]:
        def run(call: Invocation, done: Done, frame: Frame) -> Cancel:
            if call.task == "raise":
                raise BodyInvalid("bad metadata")
            self.invoked.append((way, call))
            self.settle(done)
            return lambda: self.cancelled.append(way)

        return run


I = InstanceId("ab" * 4)  # noqa: E741


@pytest.fixture
def mesh() -> Mesh:
    return Mesh()


@pytest.fixture
def answers() -> Answers:
    return Answers()


@pytest.fixture
async def place(mesh: Mesh, answers: Answers, tmp_path: Path) -> AsyncIterator[Hop]:
    ops = {
        (Role.OPERATOR, int(Op.NODES)): answers.nodes,
        (Role.OPERATOR, int(Op.LEDGER_PUT)): answers.broken,
        (Role.OPERATOR, int(Op.LEDGER_GET)): answers.refused,
        (Role.OPERATOR, int(Op.CHUNKS_MISSING)): answers.endless,
        (Role.NODE, int(Op.CHUNKS_GET)): answers.nodes,
    }
    invokes = {Role.NODE: answers.invoke("pool"), Role.OPERATOR: answers.invoke("router")}
    async with hop("tls", LinkServer(mesh, ops, invokes, lambda task: 30.0, 60.0), tmp_path) as place:
        yield place


class Saying(End):
    """Says a hello of its own."""

    def __init__(self, body: bytes) -> None:
        super().__init__()
        self.body = body

    def hello(self, link: Link) -> bytes:
        return self.body


OPERATORS = messages.encode_hello(Hello(1))
BOBS = messages.encode_hello(Hello(1, record(BOB)))


async def operator(place: Hop) -> Link:
    return await place.dial(Saying(OPERATORS), credentials=OPERATOR)


async def bob(place: Hop) -> Link:
    return await place.dial(Saying(BOBS))


# -- hellos ---------------------------------------------------------------------------------------------------------


REFUSED = {
    "no record": messages.encode_hello(Hello(1)),
    "another's record": messages.encode_hello(Hello(1, record(OPERATOR))),
    "the server's record": messages.encode_hello(Hello(1, record(ALICE))),
    "version 2": messages.encode_hello(Hello(2, record(BOB))),
    "version 0": messages.encode_hello(Hello(0, record(BOB))),
    "bulk of version 2": messages.encode_hello(Hello(2, bulk=True)),
    "nothing": b"",
    "garbage": b"\x00\xff",
    "deep": b'{"version":1,"x":' + b"[" * 50_000,
}


@pytest.mark.parametrize("body", REFUSED.values(), ids=REFUSED)
async def test_a_hello_is_refused(place: Hop, mesh: Mesh, body: bytes) -> None:
    near = await place.dial_only(Saying(body))
    await near.wait_closed()
    assert isinstance(place.accepted[0].error, GridError)
    assert mesh.told == []


async def test_a_node_is_linked_and_unlinked(place: Hop, mesh: Mesh) -> None:
    near = await bob(place)
    await until(lambda: mesh.told == [("linked", BOB.node)])
    near.close()
    await until(lambda: mesh.told == [("linked", BOB.node), ("unlinked", BOB.node)])


async def test_a_peer_has_a_few_bulk_links_and_shuts_nobody_out(place: Hop) -> None:
    hello = messages.encode_hello(Hello(1, bulk=True))
    for _ in range(4):
        await place.dial(Saying(hello))
    with pytest.raises(GridError):
        await (await place.dial(Saying(hello))).request(Op.CHUNKS_GET, b"bob")


async def test_an_operator_and_a_bulk_link_make_no_member(place: Hop, mesh: Mesh) -> None:
    await operator(place)
    bulk = await place.dial(Saying(messages.encode_hello(Hello(1, bulk=True))))
    assert await bulk.request(Op.CHUNKS_GET, b"bob") == b"nodes for bob"
    assert [told for told in mesh.told if told[0] == "linked"] == []


async def test_an_operator_that_shows_a_record_makes_no_member(place: Hop, mesh: Mesh) -> None:
    near = await place.dial(Saying(messages.encode_hello(Hello(1, record(OPERATOR)))), credentials=OPERATOR)
    await near.request(Op.NODES)
    assert mesh.told == []


# -- who may ask what -----------------------------------------------------------------------------------------------


ALLOWED = {("operator", Op.NODES), ("node", Op.CHUNKS_GET)}
ASKED = [(role, op) for role in ("operator", "node") for op in (*Op, 999, 65535)]


@pytest.mark.parametrize(("role", "op"), ASKED)
async def test_every_op_by_every_role(place: Hop, answers: Answers, role: str, op: int) -> None:
    near = await (operator(place) if role == "operator" else bob(place))
    asked = near.request(op, b"x", timeout=0.2 if op == Op.CHUNKS_MISSING else 10.0)  # type: ignore[arg-type]
    if (role, op) in ALLOWED:
        assert await asked == b"nodes for x"
    elif op == Op.INVOKE:
        assert await asked == b"ok"
        assert [way for way, _ in answers.invoked] == ["router" if role == "operator" else "pool"]
    else:
        error = Forbidden
        if role == "operator":
            known = {Op.LEDGER_PUT: GridError, Op.LEDGER_GET: BodyInvalid, Op.CHUNKS_MISSING: TimeoutError}
            error = known.get(op, Forbidden)  # type: ignore[call-overload]
        with pytest.raises(error):
            await asked
    assert near.is_open


async def test_a_peers_call_never_reaches_the_router(place: Hop, answers: Answers) -> None:
    near = await bob(place)
    for meta in (b"", b'{"node":"carol"}', b'{"role":"operator"}'):
        near.call(Op.INVOKE, "echo", b"", lambda reply: None, meta=meta)
    await until(lambda: len(answers.invoked) == 3)
    assert {way for way, _ in answers.invoked} == {"pool"}


async def test_an_operators_events_are_not_heard(place: Hop, mesh: Mesh) -> None:
    near = await operator(place)
    near.event(Op.LEAVE)
    near.event(Op.GOSSIP, b"garbage")
    await near.request(Op.NODES)
    assert mesh.told == []
    node = await bob(place)
    node.event(Op.GOSSIP)
    await until(lambda: ("heard", BOB.node) in mesh.told)


async def test_a_node_that_goes_tells_its_clients_and_waits_for_those_that_leave(place: Hop) -> None:
    ends = [Saying(OPERATORS), Saying(OPERATORS), Saying(BOBS)]
    ends[0].on_event = lambda link, frame: link.close()
    leaving, staying = [await place.dial(end, credentials=OPERATOR) for end in ends[:2]]
    peer = await place.dial(ends[2])
    assert isinstance(place.end, LinkServer)
    await place.end.part(0.2)
    await leaving.wait_closed()
    await until(lambda: ends[1].events)
    assert [[event.op for event in end.events] for end in ends] == [[Op.LEAVE], [Op.LEAVE], []]
    assert staying.is_open
    assert peer.is_open


async def test_an_op_that_breaks_says_no_more_than_that(place: Hop) -> None:
    near = await operator(place)
    with pytest.raises(GridError, match="ZeroDivisionError") as caught:
        await near.request(Op.LEDGER_PUT)
    assert "secret" not in caught.value.message


async def test_an_op_given_up_is_stopped(place: Hop, answers: Answers) -> None:
    near = await operator(place)
    with pytest.raises(TimeoutError):
        await near.request(Op.CHUNKS_MISSING, timeout=0.1)
    await until(lambda: answers.cancelled == ["op"])
    near.call(Op.CHUNKS_MISSING, "", b"", lambda reply: None)
    near.ping()
    await near.request(Op.NODES)
    near.close()
    await until(lambda: answers.cancelled == ["op", "op"])


# -- invocations ----------------------------------------------------------------------------------------------------


async def test_an_invocation_arrives_whole(place: Hop, answers: Answers) -> None:
    near = await operator(place)
    now = asyncio.get_running_loop().time()
    replies: list[Frame] = []
    near.call(Op.INVOKE, "echo", b"body", replies.append, meta=b'{"id":"i"}', deadline_ms=5000)  # type: ignore[arg-type]
    near.call(Op.INVOKE, "echo", b"", replies.append, deadline_ms=2**31)  # type: ignore[arg-type]
    near.call(Op.INVOKE, "echo", b"", replies.append)  # type: ignore[arg-type]
    await until(lambda: len(replies) == 3)
    calls = [call for _, call in answers.invoked]
    assert (calls[0].task, calls[0].body, calls[0].meta) == ("echo", b"body", b'{"id":"i"}')
    assert [round(call.deadline - now) for call in calls] == [5, 60, 30]
    meta = msgspec.json.decode(replies[0].meta, type=ReplyMeta)
    assert (meta.node, meta.instance, meta.attempts) == (ALICE.node, I, 1)


async def test_an_invocations_errors(place: Hop, answers: Answers) -> None:
    near = await operator(place)
    with pytest.raises(BodyInvalid, match="bad metadata"):
        await near.request(Op.INVOKE, name="raise")
    for error in (NoCapacity("full"), TaskRaised("E", trace="T")):
        answers.settle = lambda done, error=error: done(Outcome(error=error))  # type: ignore[misc]
        with pytest.raises(type(error)) as caught:
            await near.request(Op.INVOKE)
        assert caught.value.trace == error.trace


async def test_an_invocation_given_up_or_lost_is_cancelled(place: Hop, answers: Answers) -> None:
    answers.settle = lambda done: None
    for near, way in ((await operator(place), "router"), (await bob(place), "pool")):
        with pytest.raises(TimeoutError):
            await near.request(Op.INVOKE, timeout=0.05)
        await until(lambda way=way: answers.cancelled[-1:] == [way])  # type: ignore[misc]
        near.call(Op.INVOKE, "", b"", lambda reply: None)
        await until(lambda: len(answers.invoked) % 2 == 0)
        near.close()
        await until(lambda way=way: answers.cancelled[-2:] == [way, way])  # type: ignore[misc]


def test_reply_metadata_is_json() -> None:
    for outcome in (Outcome(), Outcome(node=ALICE.node, instance=I, attempts=3)):
        assert msgspec.json.decode(reply_meta(outcome), type=ReplyMeta).attempts == outcome.attempts


# -- bulk links -----------------------------------------------------------------------------------------------------


async def test_our_end_of_a_bulk_link_answers_nothing(tmp_path: Path) -> None:
    end = End()
    async with hop("tls", end, tmp_path) as place:
        await place.dial(BulkEnd())
        await until(lambda: end.links)
        with pytest.raises(Forbidden):
            await end.links[0].request(Op.INVOKE)
        assert messages.decode_hello(end.hellos[0]).bulk


async def test_a_bulk_link_needs_a_node(tmp_path: Path) -> None:
    async with hop("unix", End(), tmp_path) as place:
        with pytest.raises((LinkClosed, NotAuthenticated)):
            await place.dial(BulkEnd())
