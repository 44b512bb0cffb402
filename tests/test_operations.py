"""Who may ask a node what: the table, over the real link server."""

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from gridnode import messages, wire
from gridnode.audit import check_pair
from gridnode.errors import (
    BodyInvalid,
    CallTimeout,
    Forbidden,
    LedgerError,
    LinkClosed,
    NodeNotFound,
    SignatureInvalid,
)
from gridnode.ledger import Document, encode_documents
from gridnode.link.protocol import Link
from gridnode.link.server import LinkServer, Take
from gridnode.messages import OWN_LOG, CallMeta, Hello, LogQuery
from gridnode.model import (
    Invocation,
    InvocationId,
    Member,
    MemberState,
    NodeId,
    NodeRecord,
    Outcome,
    ReleaseReport,
    Role,
    TaskName,
)
from gridnode.operations import Operations, invokes, takes
from gridnode.sync.exchange import Exchange
from gridnode.wire import Frame, Kind, Op
from tests.fakes.peers import ALICE, BOB, OPERATOR, USER, End, Hop, hop, until

RECORD = NodeRecord(BOB.node, "bob", 1, 0, (), "1", 0)
MEMBER = Member(RECORD, MemberState.ALIVE, 0.0)
DOCUMENT = Document("release", "current", 1, b"body", "a" * 64, b"s" * 64)
CERTIFIED = [role for role in Role if role is not Role.LOCAL]
ALLOWED = {
    (Role.OPERATOR, Op.INVOKE),
    (Role.OPERATOR, Op.NODES),
    (Role.OPERATOR, Op.RELEASE_STATUS),
    (Role.OPERATOR, Op.LEDGER_GET),
    (Role.OPERATOR, Op.LEDGER_PUT),
    (Role.OPERATOR, Op.CHUNKS_MISSING),
    (Role.OPERATOR, Op.CHUNKS_PUT),
    (Role.OPERATOR, Op.CHUNKS_GET),
    (Role.OPERATOR, Op.PROCESSES),
    (Role.OPERATOR, Op.LOGS),
    (Role.OPERATOR, Op.IMAGES),
    (Role.USER, Op.INVOKE),
    (Role.USER, Op.NODES),
    (Role.USER, Op.PROCESSES),
    (Role.USER, Op.LOGS),
    (Role.USER, Op.BROADCAST),
    (Role.USER, Op.SUBSCRIBE),
    (Role.OPERATOR, Op.BROADCAST),
    (Role.OPERATOR, Op.PUBLISH),
    (Role.OPERATOR, Op.SUBSCRIBE),
    (Role.OPERATOR, Op.ISSUER),
    (Role.NODE, Op.ISSUER),
    (Role.NODE, Op.PIECE_GET),
    (Role.NODE, Op.IMAGES),
    (Role.OPERATOR, Op.SCRUB),
    (Role.NODE, Op.SCRUB),
    (Role.NODE, Op.LOGS),
    *((role, op) for role in (Role.OPERATOR, Role.NODE) for op in (Op.DOCTOR, Op.PING, Op.ROUND_TRIPS, Op.FILES)),
    (Role.NODE, Op.PROCESSES),
    (Role.NODE, Op.INVOKE),
    (Role.NODE, Op.CHUNKS_GET),
    (Role.NODE, Op.RELEASE_STATUS),
}


class House:
    """Ledger, chunks, pool and router of a node, each of which says that it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.keys: list[str] = []
        self.put_error: Exception | None = None
        self.peers: dict[NodeId, Any] = {}

    def documents(self, kind: str = "") -> list[Document]:
        return [DOCUMENT] if kind in ("", "release") else []

    async def here(self, frame: Frame) -> bytes:
        return b"here " + frame.name.encode()

    async def everywhere(self, frame: Frame) -> bytes:
        return b"everywhere " + frame.name.encode()

    async def lines(self, body: bytes) -> bytes:
        return b"lines " + body

    async def scrub(self, body: bytes) -> bytes:
        return b"scrub " + body

    async def images(self, frame: Frame) -> bytes:
        return b"images"

    async def put(self, document: Document, audit: Document | None = None) -> None:
        check_pair(document, audit)
        self.asked.append("put")
        if self.put_error:
            raise self.put_error

    async def missing(self, body: bytes) -> bytes:
        return b"missing " + body

    async def give(self, body: bytes) -> bytes:
        return b"give " + body

    async def take(self, body: bytes) -> bytes:
        return b"take " + body

    def invoke(self, call: Invocation, done: Any) -> Any:
        self.asked.append("pool")
        self.keys.append(call.key)
        done(Outcome(b"pool"))
        return lambda: None

    def route(self, call: Invocation, done: Any, node: str, spread: int) -> Any:
        self.asked.append(f"router {node}")
        self.keys.append(call.key)
        done(Outcome(b"router"))
        return lambda: None

    async def peer(self, node: NodeId) -> Any:
        if node not in self.peers:
            raise NodeNotFound(f"{node[:12]} is no node")
        return self.peers[node]

    def operations(self) -> Operations:
        everything = cast(Any, self)
        return Operations(
            ALICE.node,
            lambda: [MEMBER],
            self.peer,
            lambda: ReleaseReport(ALICE.node, None),
            everything,
            everything,
            everything,
            self.lines,
            self.images,
            self.scrub,
            lambda: "issuer",
            self.here,
            self.here,
            self.here,
        )

    def shown(self) -> NodeRecord:
        return msgspec.structs.replace(RECORD, id=ALICE.node)

    def linked(self, link: Link, record: NodeRecord) -> None: ...
    def unlinked(self, link: Link, node: NodeId) -> None: ...
    def heard(self, node: NodeId, frame: Frame) -> None: ...


class Front:
    """Events and broadcasts, each of which answers at once."""

    def take(self, link: Link, frame: Frame) -> None:
        link.reply(frame.call_id, b"taken")

    take_publications = take_subscription = take


@pytest.fixture
def house() -> House:
    return House()


@pytest.fixture
async def place(house: House, tmp_path: Path) -> AsyncIterator[Hop]:
    everything = cast(Any, house)
    table, ways = house.operations().table(), invokes(everything, everything)
    front = cast(Any, Front())
    server = LinkServer(house, table, ways, lambda task: 9.0, 60.0, takes(front, front) | pieces(house))
    async with hop("tls", server, tmp_path) as place:
        yield place


class As(End):
    def __init__(self, role: Role) -> None:
        super().__init__()
        self.record = RECORD if role is Role.NODE else None

    def hello(self, link: Link) -> bytes:
        return messages.encode_hello(Hello(1, self.record))


async def dial(place: Hop, role: Role) -> Link:
    credentials = {Role.NODE: BOB, Role.USER: USER, Role.OPERATOR: OPERATOR}[role]
    return await place.dial(As(role), credentials=credentials)


@pytest.mark.parametrize("role", CERTIFIED)
async def test_each_role_may_ask_exactly_this(place: Hop, role: Role) -> None:
    link = await dial(place, role)
    for op in (*Op, 4, 999, 65535):
        body = encode_documents([DOCUMENT]) if op == Op.LEDGER_PUT else b""
        asked = link.request(cast(Op, op), body)
        if (role, op) in ALLOWED:
            await asked
        else:
            with pytest.raises(Forbidden):
                await asked


async def test_the_documented_matrix_is_the_one_that_nodes_go_by(house: House) -> None:
    everything, front = cast(Any, house), cast(Any, Front())
    allowed = {*house.operations().table(), *takes(front, front), *pieces(house)}
    allowed |= {(role, Op.INVOKE) for role in invokes(everything, everything)}
    assert documented() == {(role, Op(op)) for role, op in allowed}


def pieces(house: House) -> dict[tuple[Role, int], Take]:
    """Who may ask for pieces, each answered at once."""
    everything = cast(Any, house)
    return dict.fromkeys(Exchange(everything, everything, everything).takes(), Front().take)


def documented() -> set[tuple[Role, Op]]:
    """The matrix of docs/security.md."""
    text = (Path(__file__).parent.parent / "docs" / "security.md").read_text()
    head, _, *rows = [
        line for line in text.splitlines() if line.startswith(("| op |", "|---|---|---|---|---|---|", "| `"))
    ]
    roles = [Role(cell.strip()) for cell in head.split("|")[3:-1]]
    found = set()
    for row in rows:
        ops, _, *cells = [cell.strip() for cell in row.split("|")[1:-1]]
        assert len(cells) == len(roles)
        found |= {
            (role, Op[op])
            for role, cell in zip(roles, cells, strict=True)
            if cell
            for op in re.findall(r"`(\w+)`", ops)
        }
    return found


def test_a_program_of_the_same_machine_sees_nodes_and_calls_tasks_only(house: House) -> None:
    assert [op for role, op in house.operations().table() if role is Role.LOCAL] == [Op.NODES]
    assert Role.LOCAL in invokes(cast(Any, house), cast(Any, house))


@pytest.mark.parametrize("role", CERTIFIED)
async def test_an_idempotency_key_is_read_from_the_metadata(place: Hop, house: House, role: Role) -> None:
    link = await dial(place, role)
    replies: list[Any] = []
    for meta in (CallMeta("i", key="k"), CallMeta("i"), CallMeta("i", key="x" * 256), CallMeta("i", key="\n")):
        link.call(Op.INVOKE, "echo", b"", replies.append, meta=msgspec.json.encode(meta))
    await until(lambda: len(replies) == 4)
    assert house.keys == ["k", ""]
    refused = [wire.decode_error(reply.body) for reply in replies if reply.flags & wire.FLAG_ERROR]
    assert [type(error) for error in refused] == [BodyInvalid, BodyInvalid]


async def test_a_peers_call_is_run_here_and_an_operators_is_routed(place: Hop, house: House) -> None:
    peer, operator = await dial(place, Role.NODE), await dial(place, Role.OPERATOR)
    assert await peer.request(Op.INVOKE, name="echo") == b"pool"
    replies: list[Any] = []
    for link, meta in ((peer, b'{"node":"web2"}'), (operator, b'{"node":"web2"}'), (operator, b"")):
        link.call(Op.INVOKE, "echo", b"", replies.append, meta=meta)
        await link.request(Op.RELEASE_STATUS)
    assert house.asked == ["pool", "pool", "router web2", "router "]


async def test_a_user_gets_the_lines_of_tasks_and_none_of_gridnode_itself(place: Hop) -> None:
    link = await dial(place, Role.USER)
    for query in (LogQuery("echo"), LogQuery()):
        assert await link.request(Op.LOGS, messages.encode(query)) == b"lines " + messages.encode(query)
    for name in ("", ALICE.node, BOB.node):
        with pytest.raises(Forbidden):
            await link.request(Op.LOGS, messages.encode(LogQuery(OWN_LOG)), name=name)
    with pytest.raises(BodyInvalid):
        await link.request(Op.LOGS, b"\xff")


async def test_garbage_in_an_operators_metadata_is_refused(place: Hop, house: House) -> None:
    call = Invocation(InvocationId(""), TaskName("echo"), b"", 0.0)
    way = invokes(cast(Any, house), cast(Any, house))[Role.OPERATOR]
    for meta in (b"{", b"\xff", b'{"node":1}', b'{"x":' + b"[" * 4000):
        with pytest.raises(BodyInvalid):
            way(call, lambda outcome: None, Frame(Kind.CALL, 1, meta=meta))
    assert house.asked == []


async def test_what_the_ops_answer(place: Hop) -> None:
    link = await dial(place, Role.OPERATOR)
    assert messages.decode_members(await link.request(Op.NODES)) == [MEMBER]
    assert await link.request(Op.LEDGER_GET) == encode_documents([DOCUMENT])
    assert await link.request(Op.LEDGER_GET, name="release") == encode_documents([DOCUMENT])
    assert await link.request(Op.LEDGER_GET, name="order") == encode_documents([])
    assert await link.request(Op.PROCESSES, name="echo") == b"everywhere echo"
    assert await link.request(Op.IMAGES) == b"images"
    assert await link.request(Op.CHUNKS_GET, b"x") == b"give x"
    assert await link.request(Op.CHUNKS_MISSING, b"x") == b"missing x"
    assert await link.request(Op.CHUNKS_PUT, b"x") == b"take x"
    peer = await dial(place, Role.NODE)
    assert await peer.request(Op.CHUNKS_GET, b"x") == b"give x"
    assert await peer.request(Op.PROCESSES, name="echo") == b"here echo"


@pytest.mark.parametrize(
    "body", [b"", b"\xff", encode_documents([]), encode_documents([DOCUMENT] * 2), b"\x91" * 100_000]
)
async def test_a_put_is_of_one_document(place: Hop, house: House, body: bytes) -> None:
    link = await dial(place, Role.OPERATOR)
    with pytest.raises(LedgerError):
        await link.request(Op.LEDGER_PUT, body)
    assert house.asked == []


@pytest.mark.parametrize("error", [SignatureInvalid("no"), LedgerError("older")], ids=repr)
async def test_a_put_that_is_refused_says_why(place: Hop, house: House, error: Exception) -> None:
    house.put_error = error
    link = await dial(place, Role.OPERATOR)
    with pytest.raises(type(error)):
        await link.request(Op.LEDGER_PUT, encode_documents([DOCUMENT]))


class Far:
    """A link to another node, as far as its status and its lines go."""

    def __init__(self, answer: bytes | BaseException) -> None:
        self.answer = answer

    async def request(self, op: Op, body: bytes, *, timeout: float) -> bytes:
        if op is Op.LOGS:
            return b"their lines " + body
        if op is Op.IMAGES:
            return b"their images"
        if op is Op.SCRUB:
            return b"their scrub " + body
        if op is Op.ISSUER:
            return b"their issuer"
        if op is Op.PING:
            return b"their pong"
        assert op is Op.RELEASE_STATUS
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


async def test_the_status_of_this_node_and_of_others(place: Hop, house: House) -> None:
    theirs = messages.encode(ReleaseReport(BOB.node, None))
    house.peers[BOB.node] = Far(theirs)
    link = await dial(place, Role.OPERATOR)
    for name in ("", ALICE.node):
        report = messages.decode(await link.request(Op.RELEASE_STATUS, name=name), ReleaseReport)
        assert report.node == ALICE.node
    assert await link.request(Op.RELEASE_STATUS, name=BOB.node) == theirs
    peer = await dial(place, Role.NODE)
    own = messages.decode(await peer.request(Op.RELEASE_STATUS, name=BOB.node), ReleaseReport)
    assert own.node == ALICE.node, "a peer is told of this node only: one hop"


async def test_lines_of_this_node_and_of_others(place: Hop, house: House) -> None:
    house.peers[BOB.node] = Far(b"")
    link = await dial(place, Role.OPERATOR)
    assert await link.request(Op.LOGS, b"x") == b"lines x"
    assert await link.request(Op.LOGS, b"x", name=ALICE.node) == b"lines x"
    assert await link.request(Op.LOGS, b"x", name=BOB.node) == b"their lines x"
    assert await link.request(Op.IMAGES, name=BOB.node) == b"their images"
    assert await link.request(Op.ISSUER) == b"issuer"
    assert await link.request(Op.ISSUER, name=BOB.node) == b"their issuer"
    assert await link.request(Op.SCRUB, b"x") == b"scrub x"
    assert await link.request(Op.DOCTOR) == b"here "
    assert await link.request(Op.ROUND_TRIPS, name=ALICE.node) == b"here " + ALICE.node.encode()
    assert await link.request(Op.PING) == b""
    assert await link.request(Op.PING, name=BOB.node) == b"their pong"
    assert await link.request(Op.SCRUB, b"x", name=BOB.node) == b"their scrub x"
    with pytest.raises(NodeNotFound):
        await link.request(Op.LOGS, b"x", name="c" * 40)
    peer = await dial(place, Role.NODE)
    assert await peer.request(Op.LOGS, b"x", name=BOB.node) == b"lines x", "a peer is told of this node only: one hop"


@pytest.mark.parametrize(
    ("answer", "expected"), [(LinkClosed("gone"), LinkClosed), (TimeoutError(), CallTimeout)], ids=repr
)
async def test_a_node_that_cannot_be_asked(
    place: Hop, house: House, answer: BaseException, expected: type[Exception]
) -> None:
    house.peers[BOB.node] = Far(answer)
    link = await dial(place, Role.OPERATOR)
    with pytest.raises(expected):
        await link.request(Op.RELEASE_STATUS, name=BOB.node)
    with pytest.raises(NodeNotFound):
        await link.request(Op.RELEASE_STATUS, name="c" * 40)
