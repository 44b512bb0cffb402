"""What a backup file may hold: documents of this grid, in the order in which they can be brought back."""

from pathlib import Path

import pytest

from gridctl.backup import crowded, read_backup
from gridnode.audit import AuditEntry, sign_audit
from gridnode.errors import LedgerError, SignatureInvalid, UsageError
from gridnode.gridfile import Gridfile, render_secret
from gridnode.identity import authority_of
from gridnode.ledger import MAX_BODY, encode_documents, sign_document, sign_order, sign_secret
from gridnode.model import Order

GRIDFILE = Gridfile("g", (), grid_password=render_secret(b"\1" * 32))
KEY = authority_of(GRIDFILE).deploy_key
ORDER = sign_order(KEY, "echo", Order(), 2)
SECRET = sign_secret(KEY, "KEY", None, 5)


def test_documents_come_in_an_order_that_works_and_without_audit_entries(tmp_path: Path) -> None:
    audit = sign_audit(KEY, AuditEntry(1, "me", "", "order", "echo", 2), 1)
    unknown = sign_document(KEY, "later-kind", "x", 1, b"")
    file = tmp_path / "backup"
    file.write_bytes(encode_documents([ORDER, audit, unknown, SECRET]))
    assert read_backup(file, GRIDFILE) == [SECRET, ORDER]


def test_what_is_of_another_grid_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "backup"
    file.write_bytes(encode_documents([ORDER, sign_order(b"x" * 32, "echo", Order(), 9)]))
    with pytest.raises(SignatureInvalid, match="is not of the grid"):
        read_backup(file, GRIDFILE)


@pytest.mark.parametrize("content", [b"", b"\xff", b"\x91" * 1000, b"PK\x03\x04"])
def test_what_is_no_backup_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "backup"
    file.write_bytes(content)
    with pytest.raises(LedgerError):
        read_backup(file, GRIDFILE)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        read_backup(tmp_path / "none", GRIDFILE)


def test_a_kind_of_which_there_may_be_more_is_named() -> None:
    large = [sign_document(KEY, "secret", f"KEY{number}", 1, b"x" * MAX_BODY) for number in range(4)]
    assert crowded([*large, ORDER]) == ["secret"]
    assert crowded([*large[:3], ORDER]) == []
