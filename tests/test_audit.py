"""Audit entries: each tells of the change it came with; garbage and another change's entry are refused."""

import contextlib
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridnode.audit import AUDIT, MAX_ENTRIES, AuditEntry, check_pair, open_audit, sign_audit
from gridnode.errors import LedgerError
from gridnode.files import write_durably
from gridnode.identity import public_key_of
from gridnode.ledger import ORDER, Document, sign_document, sign_order, verifier
from gridnode.ledger_sync import LedgerSync
from gridnode.model import Order

SEED = b"s" * 32
ENTRY = AuditEntry(1_800_000_000, "me@here", "10.0.0.9", ORDER, "echo", 3)
CHANGE = sign_order(SEED, "echo", Order(stopped=True), 3)


@pytest.mark.parametrize("sequence", [1, MAX_ENTRIES, 7 * MAX_ENTRIES + 1])
def test_an_entry_comes_back_as_it_was(sequence: int) -> None:
    document = sign_audit(SEED, ENTRY, sequence)
    assert open_audit(document) == ENTRY
    assert verifier(public_key_of(SEED))(document)
    check_pair(CHANGE, document)


def test_names_come_round() -> None:
    names = {sign_audit(SEED, ENTRY, sequence).name for sequence in range(1, 3 * MAX_ENTRIES, 7)}
    assert len(names) <= MAX_ENTRIES
    assert sign_audit(SEED, ENTRY, 1).name == sign_audit(SEED, ENTRY, 1 + MAX_ENTRIES).name


@pytest.mark.parametrize(
    "other", [{"kind": "release"}, {"name": "words"}, {"number": 4}], ids=lambda other: next(iter(other))
)
def test_the_entry_of_another_change_is_refused(other: dict[str, str]) -> None:
    with pytest.raises(LedgerError, match="another change"):
        check_pair(CHANGE, sign_audit(SEED, msgspec.structs.replace(ENTRY, **other), 1))


def test_an_entry_alone_is_refused_and_so_is_any_other_document_in_its_place() -> None:
    entry = sign_audit(SEED, ENTRY, 1)
    for pair in ((entry, None), (entry, entry), (CHANGE, CHANGE)):
        with pytest.raises(LedgerError):
            check_pair(*pair)


@pytest.mark.parametrize(
    "fields",
    [{"by": "\x1b[2J"}, {"by": "x" * 256}, {"source": "\n"}, {"number": 0}, {"at": -1}, {"kind": "k" * 33}],
    ids=str,
)
def test_an_entry_out_of_bounds_is_refused(fields: dict[str, str]) -> None:
    body = msgspec.msgpack.encode(msgspec.structs.replace(ENTRY, **fields))
    with pytest.raises(LedgerError, match="out of bounds"):
        open_audit(sign_document(SEED, AUDIT, "entry-1", 1, body))


@given(st.binary(max_size=200))
def test_garbage_is_a_ledger_error(body: bytes) -> None:
    with contextlib.suppress(LedgerError):
        assert open_audit(sign_document(SEED, AUDIT, "entry-1", 1, body)).number > 0


async def test_change_and_entry_are_taken_together_or_not_at_all(tmp_path: Path) -> None:
    def open_ledger() -> LedgerSync:
        return LedgerSync(
            tmp_path / "ledger",
            verifier(public_key_of(SEED)),
            write_durably,
            lambda op, body, but: None,
            lambda release: None,
            lambda orders: None,
        )

    def change(number: int) -> tuple[Document, AuditEntry]:
        return sign_order(SEED, "echo", Order(restarts=number), number), msgspec.structs.replace(ENTRY, number=number)

    ledger = open_ledger()
    first, entry = change(1)
    await ledger.put(first, sign_audit(SEED, entry, 1))
    second, entry = change(2)
    with pytest.raises(LedgerError, match=r"^audit 1 is not newer"):
        await ledger.put(second, sign_audit(SEED, entry, 1))
    assert ledger.documents(ORDER) == [first]
    await ledger.put(second, sign_audit(SEED, entry, 2))
    again = open_ledger()
    again.load()
    assert again.documents(ORDER) == [second]
    assert sorted(open_audit(one).number for one in again.documents(AUDIT)) == [1, 2]
