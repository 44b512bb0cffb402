import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gridnode import ledger
from gridnode.errors import LedgerError, SignatureInvalid
from gridnode.files import write_durably
from gridnode.identity import public_key_of, sign
from gridnode.image_document import IMAGE, sign_image
from gridnode.ledger import Document, encode_documents, history_name, sign_document, sign_order, sign_release, verifier
from gridnode.ledger_sync import LedgerSync
from gridnode.model import Image, NodeId, Order, Release, Root, TaskSpec
from gridnode.wire import Frame, Kind, Op
from tests.fakes.peers import until

SEED, FOREIGN = b"s" * 32, b"f" * 32
VERIFIED = verifier(public_key_of(SEED))
PEER = NodeId("ab" * 20)


def document(sequence: int, seed: bytes = SEED, project: str = "demo") -> Document:
    release = Release(project, Root("a" * 64), sequence, 0, 0, 0, (TaskSpec("echo", "tasks/echo.py"),))
    return sign_release(seed, release)


class Wire:
    """What a ledger needs of a link: events go to `hears`, on the next turn."""

    def __init__(self, hears: Callable[[Op, bytes], None]) -> None:
        self.hears = hears
        self.sent: list[Op] = []

    def event(self, op: Op, body: bytes) -> None:
        self.sent.append(op)
        asyncio.get_running_loop().call_soon(self.hears, op, body)


class Holder:
    """One node's ledger, and what it does."""

    def __init__(self, path: Path, write: Callable[[Path, bytes], None] = write_durably) -> None:
        self.path = path
        self.told: list[tuple[Op, bytes, NodeId | None]] = []
        self.releases: list[int] = []
        self.orders: list[dict[str, Order]] = []
        self.sync = LedgerSync(
            path,
            VERIFIED,
            write,
            lambda op, body, but: self.told.append((op, body, but)),
            lambda release: self.releases.append(release.sequence),
            self.orders.append,
        )
        self.sync.load()

    def hear(self, op: int, body: bytes, link: Any = None) -> None:
        self.sync.heard(PEER, Frame(Kind.EVENT, 0, op, body=body), link)

    @property
    def sequence(self) -> int:
        return self.sync.release.sequence if self.sync.release else 0


@pytest.fixture
def holder(tmp_path: Path) -> Holder:
    return Holder(tmp_path / "ledger")


def link(one: Holder, other: Holder) -> tuple[Wire, Wire]:
    """Both ends of a link between them, newly open."""
    here: Wire = Wire(lambda op, body: other.hear(op, body, there))
    there: Wire = Wire(lambda op, body: one.hear(op, body, here))
    one.sync.linked(here)  # type: ignore[arg-type]
    other.sync.linked(there)  # type: ignore[arg-type]
    return here, there


async def test_a_new_link_makes_both_ledgers_equal(tmp_path: Path) -> None:
    one, other = Holder(tmp_path / "one"), Holder(tmp_path / "other")
    await one.sync.put(document(3))
    here, there = link(one, other)
    await until(lambda: other.sequence == 3)
    await until(other.path.exists)
    assert (here.sent, there.sent) == ([Op.LEDGER_DIGEST, Op.LEDGER_DOCUMENTS], [Op.LEDGER_DIGEST])
    assert other.releases == [3]
    assert other.told == [(Op.LEDGER_DOCUMENTS, encode_documents([document(3)]), PEER)]
    assert other.sync.documents() == one.sync.documents()


async def test_the_newer_of_two_wins_on_both_sides(tmp_path: Path) -> None:
    one, other = Holder(tmp_path / "one"), Holder(tmp_path / "other")
    await one.sync.put(document(3))
    await other.sync.put(document(5))
    link(one, other)
    await until(lambda: one.sequence == 5)
    assert (other.sequence, other.releases) == (5, [5])
    await until(lambda: Holder(one.path).sequence == 5)


async def test_news_travel_on_but_not_back(holder: Holder) -> None:
    news = encode_documents([document(4)])
    holder.hear(Op.LEDGER_DOCUMENTS, news)
    holder.hear(Op.LEDGER_DOCUMENTS, news)
    holder.hear(Op.LEDGER_DOCUMENTS, encode_documents([document(2)]))
    assert holder.told == [(Op.LEDGER_DOCUMENTS, news, PEER)]
    assert holder.releases == [4]
    await until(lambda: not holder.sync._saves)


GARBAGE = [b"", b"\xff", b"\x91" * 100_000, b"\x93\x01\x02\x03", encode_documents([document(9, FOREIGN)])]


@pytest.mark.parametrize("op", [Op.LEDGER_DOCUMENTS, Op.LEDGER_DIGEST, 999])
@pytest.mark.parametrize("body", GARBAGE, ids=lambda body: ascii(body[:6]))
async def test_garbage_and_foreign_signatures_change_nothing(holder: Holder, op: int, body: bytes) -> None:
    wire = Wire(lambda op, body: None)
    await holder.sync.put(document(1))
    holder.told.clear()
    holder.hear(op, body, wire)
    assert (holder.sequence, holder.told, wire.sent) == (1, [], [])


async def test_one_bad_signature_refuses_the_whole_batch(holder: Holder) -> None:
    holder.hear(Op.LEDGER_DOCUMENTS, encode_documents([document(2), document(3, FOREIGN)]))
    assert holder.sequence == 0


async def test_a_put_is_on_disk_when_it_returns(holder: Holder) -> None:
    await holder.sync.put(document(7))
    again = Holder(holder.path)
    assert (again.sequence, again.releases) == (7, [7])


async def test_an_older_put_is_refused_and_the_same_is_not(holder: Holder) -> None:
    await holder.sync.put(document(7))
    await holder.sync.put(document(7))
    with pytest.raises(LedgerError) as caught:
        await holder.sync.put(document(6))
    assert "deploy again" in str(caught.value.hint)
    assert holder.sync.documents() == [document(7)]


async def test_of_two_puts_of_one_sequence_one_is_told_that_it_lost(holder: Holder) -> None:
    rivals = [document(7, project=name) for name in ("a", "b", "c")]
    results = [await asyncio.gather(holder.sync.put(rival), return_exceptions=True) for rival in rivals]
    winner = holder.sync.documents()[0]
    assert results[rivals.index(winner)][0] is None
    assert all(isinstance(result, LedgerError | None) for (result,) in results)


async def test_a_put_of_a_stranger_is_refused(holder: Holder) -> None:
    with pytest.raises(SignatureInvalid):
        await holder.sync.put(document(7, FOREIGN))
    assert not holder.path.exists()


async def test_a_put_that_cannot_be_kept_is_not_promised(tmp_path: Path) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    holder = Holder(tmp_path / "ledger", full)
    with pytest.raises(LedgerError, match="No space left"):
        await holder.sync.put(document(7))


@pytest.mark.parametrize("content", [b"", b"garbage", b"\x91" * 100_000, encode_documents([document(3, FOREIGN)])])
async def test_a_damaged_file_is_left_aside(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "ledger"
    path.write_bytes(content)
    holder = Holder(path)
    assert (holder.sequence, holder.releases) == (0, [])
    holder.hear(Op.LEDGER_DOCUMENTS, encode_documents([document(3)]))
    await until(lambda: Holder(path).sequence == 3)


async def test_a_file_cut_short_is_left_aside(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    whole = encode_documents([document(3)])
    for size in range(0, len(whole), 7):
        path.write_bytes(whole[:size])
        assert Holder(path).sequence == 0


async def test_orders_are_known_before_the_release_and_after_a_restart(holder: Holder) -> None:
    await holder.sync.put(document(1))
    await holder.sync.put(sign_order(SEED, "echo", Order(instances=3), 1))
    await holder.sync.put(sign_order(SEED, "echo", Order(stopped=True), 2))
    wanted = {"echo": Order(stopped=True)}
    assert (holder.orders[-1], holder.sync.orders) == (wanted, wanted)
    again = Holder(holder.path)
    assert (again.orders, again.releases) == ([wanted], [1])


async def test_an_order_travels_to_peers(tmp_path: Path) -> None:
    one, other = Holder(tmp_path / "one"), Holder(tmp_path / "other")
    await one.sync.put(sign_order(SEED, "echo", Order(restarts=1), 1))
    link(one, other)
    await until(lambda: other.sync.orders == {"echo": Order(restarts=1)})
    assert other.orders[-1] == other.sync.orders
    await until(other.path.exists)


async def test_an_order_that_cannot_be_read_is_left_aside(holder: Holder) -> None:
    strange = signed("order", "echo", msgspec.msgpack.encode({"instances": -4}))
    holder.hear(Op.LEDGER_DOCUMENTS, encode_documents([strange, sign_order(SEED, "words", Order(instances=2), 1)]))
    assert holder.sync.orders == {"words": Order(instances=2)}
    with pytest.raises(LedgerError):
        await holder.sync.put(msgspec.structs.replace(strange, sequence=2))
    await until(lambda: not holder.sync._saves)


async def test_a_release_is_remembered_beside_the_current_one(holder: Holder) -> None:
    for sequence in (1, 2):
        release = Release("demo", Root("a" * 64), sequence, 0, 0, 0, (TaskSpec("echo", "tasks/echo.py"),))
        await holder.sync.put(sign_release(SEED, release))
        await holder.sync.put(sign_release(SEED, release, history_name(sequence)))
    assert holder.sequence == 2
    names = {(one.name, one.sequence) for one in holder.sync.documents("release")}
    assert names == {("current", 2), ("history-1", 1), ("history-2", 2)}
    assert holder.sync.documents("order") == []


def signed(kind: str, name: str, body: bytes) -> Document:
    """A document as the operator of another version might put it."""
    unsigned = Document(kind, name, 1, body, public_key_of(SEED).hex())
    return msgspec.structs.replace(unsigned, signature=sign(SEED, b"ledger", ledger._canonical(unsigned)))


async def test_images_are_told_of_before_the_release_that_may_name_them(tmp_path: Path) -> None:
    told: list[str] = []
    sync = LedgerSync(
        tmp_path / "ledger",
        VERIFIED,
        write_durably,
        lambda op, body, but: None,
        lambda release: told.append("release"),
        lambda orders: None,
        on_images=lambda documents: told.append(f"{len(documents)} images"),
    )
    image = sign_image(SEED, "app:1", Image("a" * 64, "b" * 64, Root("c" * 64), 1, 0), 1)
    sync.heard(PEER, Frame(Kind.EVENT, 0, Op.LEDGER_DOCUMENTS, body=encode_documents([document(1), image])), None)
    assert told == ["1 images", "release"]
    await until((tmp_path / "ledger").exists)


async def test_an_image_that_cannot_be_read_is_not_put(holder: Holder) -> None:
    with pytest.raises(LedgerError, match="malformed image"):
        await holder.sync.put(sign_document(SEED, IMAGE, "app:1", 1, b"\xc1"))
    assert holder.sync.documents() == []
