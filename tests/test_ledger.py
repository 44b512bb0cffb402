import itertools
import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridnode import ledger as module
from gridnode.errors import LedgerError, SignatureInvalid
from gridnode.identity import public_key_of, sign
from gridnode.ledger import (
    Document,
    Ledger,
    decode_digest,
    decode_documents,
    document_hash,
    encode_digest,
    encode_documents,
    history_name,
    newest,
    open_order,
    open_release,
    sign_order,
    sign_release,
    verifier,
)
from gridnode.model import Order, Release, Root, TaskSpec

SEED = b"s" * 32
VERIFIED = verifier(public_key_of(SEED))
ECHO = TaskSpec("echo", "tasks/echo.py")


def release(sequence: int = 1, tasks: tuple[TaskSpec, ...] = (ECHO,), project: str = "demo") -> Release:
    return Release(project, Root("a" * 64), sequence, 1_800_000_000, 10, 1, tasks)


def document(sequence: int = 1, name: str = "n", body: bytes = b"", kind: str = "note", seed: bytes = SEED) -> Document:
    unsigned = Document(kind, name, sequence, body, public_key_of(seed).hex())
    return msgspec.structs.replace(unsigned, signature=sign(seed, b"ledger", module._canonical(unsigned)))


def test_a_release_goes_round() -> None:
    ledger = Ledger()
    signed = sign_release(SEED, release(7))
    assert ledger.merge([signed], VERIFIED) == [signed]
    held = ledger.latest("release", "current")
    assert held is not None
    assert open_release(held) == release(7)
    assert ledger.merge([signed], VERIFIED) == []


def test_a_ledger_never_goes_back() -> None:
    ledger = Ledger()
    new, old = sign_release(SEED, release(2)), sign_release(SEED, release(1))
    ledger.merge([new], VERIFIED)
    assert ledger.merge([old], VERIFIED) == []
    assert ledger.latest("release", "current") == new


def test_equal_sequences_end_the_same_everywhere() -> None:
    rivals = [document(3, body=bytes([n])) for n in range(4)]
    winner = min(rivals, key=document_hash)
    for order in itertools.permutations(rivals):
        ledger = Ledger()
        for one in order:
            ledger.merge([one], VERIFIED)
        assert ledger.latest("note", "n") == winner


@pytest.mark.parametrize(
    "change", [{"sequence": 9}, {"body": b"x"}, {"name": "m"}, {"kind": "scale"}, {"author": "0" * 64}]
)
def test_a_changed_document_is_refused(change: dict[str, object]) -> None:
    ledger = Ledger()
    forged = msgspec.structs.replace(document(2), **change)
    with pytest.raises(SignatureInvalid):
        ledger.merge([document(1, "first"), forged], VERIFIED)
    assert ledger.documents() == []


def test_another_grids_documents_are_refused() -> None:
    with pytest.raises(SignatureInvalid):
        Ledger().merge([document(seed=b"z" * 32)], VERIFIED)


def test_what_loses_costs_no_signature_check() -> None:
    ledger = Ledger()
    ledger.merge([document(5)], VERIFIED)
    assert ledger.merge([document(4)], lambda _: pytest.fail("checked")) == []


def test_digests_show_what_the_other_lacks() -> None:
    ours, theirs = Ledger(), Ledger()
    ours.merge([document(2, "a"), document(1, "b"), document(1, "c")], VERIFIED)
    theirs.merge([document(1, "a"), document(1, "b"), document(4, "d")], VERIFIED)
    assert [one.name for one in ours.newer_than(theirs.digest())] == ["a", "c"]
    theirs.merge(ours.newer_than(theirs.digest()), VERIFIED)
    ours.merge(theirs.newer_than(ours.digest()), VERIFIED)
    assert ours.digest() == theirs.digest()
    assert decode_digest(encode_digest(ours.digest())) == ours.digest()


def test_a_large_difference_comes_in_batches() -> None:
    ours, theirs = Ledger(), Ledger()
    ours.merge([document(1, str(n), b"x" * 1000) for n in range(10)], VERIFIED)
    rounds = 0
    while batch := ours.newer_than(theirs.digest(), limit=4000):
        theirs.merge(batch, VERIFIED)
        rounds += 1
    assert ours.digest() == theirs.digest()
    assert rounds == 4
    assert len(ours.newer_than({}, limit=1)) == 1


def test_a_ledger_survives_its_file() -> None:
    ledger, again = Ledger(), Ledger()
    ledger.merge([document(2, "a"), sign_release(SEED, release(3))], VERIFIED)
    again.merge(decode_documents(encode_documents(ledger.documents())), VERIFIED)
    assert again.digest() == ledger.digest()


def test_a_full_ledger_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_DOCUMENTS", 2)
    ledger = Ledger()
    with pytest.raises(LedgerError, match="full"):
        ledger.merge([document(1, str(n)) for n in range(3)], VERIFIED)
    assert ledger.documents() == []


@pytest.mark.parametrize(
    "bad",
    [
        {"kind": ""},
        {"kind": "k" * 33},
        {"kind": "Kind"},
        {"name": ""},
        {"name": "n" * 256},
        {"sequence": 0},
        {"sequence": 1 << 53},
        {"body": b"x" * (1 << 20) + b"x"},
        {"author": "z"},
        {"signature": b"short"},
    ],
)
def test_documents_out_of_bounds_are_refused(bad: dict[str, object]) -> None:
    broken = msgspec.structs.replace(document(), **bad)
    with pytest.raises(LedgerError, match="out of bounds"):
        Ledger().merge([broken], VERIFIED)
    with pytest.raises(LedgerError, match="out of bounds"):
        decode_documents(encode_documents([broken]))


@pytest.mark.parametrize(
    "bad",
    [
        {"project": ""},
        {"project": "a\nb"},
        {"root": "A" * 64},
        {"sequence": 0},
        {"created": -1},
        {"size": -1},
        {"files": -1},
        {"tasks": (ECHO, ECHO)},
        {"tasks": tuple(TaskSpec(f"t{n}", f"tasks/t{n}.py") for n in range(1001))},
    ],
)
def test_releases_out_of_bounds_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(LedgerError, match="release out of bounds"):
        sign_release(SEED, msgspec.structs.replace(release(), **bad))


@pytest.mark.parametrize(
    "bad",
    [
        {"name": ""},
        {"name": "../x"},
        {"name": "a b"},
        *(
            {"file": file}
            for file in ("", "tasks", "/tasks/a.py", "tasks/../a.py", "lib/a.py", "tasks//a.py", "tasks/a\0")
        ),
        {"file": "tasks/" + "a" * 256},
        {"runtime": "Python;rm"},
        {"memory": 0},
        {"memory": 1 << 50},
        {"cpu": 0.0},
        {"cpu": math.nan},
        {"cpu": math.inf},
        {"timeout": 0.0},
        {"timeout": math.nan},
        {"timeout": 1e9},
    ],
)
def test_task_specs_out_of_bounds_are_refused(bad: dict[str, object]) -> None:
    task = msgspec.structs.replace(ECHO, **bad)
    with pytest.raises(LedgerError, match="out of bounds"):
        sign_release(SEED, release(tasks=(task,)))
    unsigned = msgspec.structs.replace(
        sign_release(SEED, release()), body=msgspec.msgpack.encode(release(tasks=(task,)))
    )
    with pytest.raises(LedgerError, match="out of bounds"):
        open_release(unsigned)


def test_a_body_that_is_no_release_is_refused() -> None:
    good = sign_release(SEED, release(2))
    for change in ({"body": b"\xc1"}, {"body": b""}, {"sequence": 3}, {"kind": "scale"}, {"name": "other"}):
        with pytest.raises(LedgerError):
            open_release(msgspec.structs.replace(good, **change))


@pytest.mark.parametrize("sequence", [1, 49, 50, 51, 1234])
def test_a_release_can_lie_under_its_name_in_history(sequence: int) -> None:
    signed = sign_release(SEED, release(sequence), history_name(sequence))
    assert open_release(signed) == release(sequence)
    with pytest.raises(LedgerError):
        open_release(msgspec.structs.replace(signed, name=history_name(sequence + 1)))


def test_history_stays_bounded() -> None:
    held = Ledger()
    for sequence in range(1, 121):
        held.merge([sign_release(SEED, release(sequence), history_name(sequence))], VERIFIED)
    assert sorted(one.sequence for one in held.documents("release")) == list(range(71, 121))


@pytest.mark.parametrize(
    "order", [Order(), Order(0), Order(1024), Order(3, True, 7), Order(stopped=True), Order(restarts=(1 << 53) - 1)]
)
def test_an_order_goes_round(order: Order) -> None:
    held = Ledger()
    signed = sign_order(SEED, "req.echo", order, 4)
    assert held.merge([signed], VERIFIED) == [signed]
    assert open_order(signed) == order


@pytest.mark.parametrize(
    ("task", "order"),
    [
        ("echo", Order(-1)),
        ("echo", Order(1025)),
        ("echo", Order(restarts=-1)),
        ("echo", Order(restarts=1 << 53)),
        ("", Order()),
        ("../x", Order()),
        ("a b", Order()),
    ],
)
def test_orders_out_of_bounds_are_refused(task: str, order: Order) -> None:
    with pytest.raises(LedgerError, match="out of bounds"):
        sign_order(SEED, task, order, 1)
    with pytest.raises(LedgerError, match="out of bounds"):
        open_order(Document("order", task, 1, msgspec.msgpack.encode(order), "a" * 64))


def test_a_release_is_no_order() -> None:
    with pytest.raises(LedgerError):
        open_order(sign_release(SEED, release()))
    with pytest.raises(LedgerError):
        open_release(sign_order(SEED, "echo", Order(), 1))


@given(st.binary(max_size=100))
def test_garbage_is_no_order(raw: bytes) -> None:
    try:
        order = open_order(Document("order", "echo", 1, raw, "a" * 64))
    except LedgerError:
        return
    assert order.instances is None or 0 <= order.instances <= 1024


def test_the_newest_that_fit_come_first() -> None:
    documents = [document(sequence, f"n{sequence}", b"x" * 1000) for sequence in (2, 9, 5)]
    assert [one.sequence for one in newest(documents)] == [9, 5, 2]
    assert [one.sequence for one in newest(documents, 2600)] == [9, 5]
    assert newest(documents, 10) == []


@given(st.binary(max_size=300))
def test_garbage_is_a_ledger_error(raw: bytes) -> None:
    for decode in (decode_documents, decode_digest):
        try:
            assert decode(raw) in ([], {})
        except LedgerError:
            continue
    with pytest.raises(LedgerError):
        open_release(msgspec.structs.replace(sign_release(SEED, release()), body=raw))


def test_deep_nesting_is_a_ledger_error() -> None:
    for decode in (decode_documents, decode_digest):
        with pytest.raises(LedgerError):
            decode(b"\x91" * 100_000)


steps = st.lists(st.tuples(st.integers(1, 4), st.sampled_from("ab"), st.binary(max_size=1)), max_size=12)


@given(steps, st.randoms(use_true_random=False))
def test_any_order_of_merges_ends_the_same(made: list[tuple[int, str, bytes]], random: object) -> None:
    documents = [Document("note", name, sequence, body, "0" * 64, b"s" * 64) for sequence, name, body in made]
    shuffled = list(documents)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    one, other = Ledger(), Ledger()
    one.merge(documents, lambda _: True)
    for document_ in shuffled:
        other.merge([document_], lambda _: True)
    assert one.digest() == other.digest()
