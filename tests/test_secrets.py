import os
import stat
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from gridnode.errors import LedgerError, SandboxError
from gridnode.identity import NONCE_SIZE, open_secret, seal, seal_secret, unseal
from gridnode.ledger import MAX_SECRET, Document, SealedSecret, open_sealed, sign_secret
from gridnode.model import InstanceId, NodeId, Release, Root, TaskSpec
from gridnode.sandbox.place import Place
from gridnode.sandbox.spec import SANDBOX_USER
from gridnode.secrets import Secrets, is_in_memory

KEY, OTHER, SEED, NONCE = b"n" * 32, b"o" * 32, b"s" * 32, b"1" * NONCE_SIZE
OWNER = (os.geteuid() and os.getuid()) or 65534, (os.geteuid() and os.getgid()) or 65534
CANARY = b"canary-6f1d"


def document(name: str, value: bytes | None, sequence: int = 1, key: bytes = KEY) -> Document:
    sealed = None if value is None else SealedSecret(1000, seal_secret(key, name, value, NONCE))
    return sign_secret(SEED, name, sealed, sequence)


def held(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.fixture
def secrets() -> Secrets:
    return Secrets(KEY, OWNER)


@given(st.binary(max_size=300), st.text(max_size=30))
def test_a_secret_opens_only_with_its_key_and_under_its_name(value: bytes, name: str) -> None:
    sealed = seal_secret(KEY, name, value, NONCE)
    assert open_secret(KEY, name, sealed) == value
    assert open_secret(OTHER, name, sealed) is None
    assert open_secret(KEY, name + "x", sealed) is None
    assert len(value) < 8 or value not in sealed


@given(st.binary(max_size=100))
def test_garbage_opens_to_nothing(garbage: bytes) -> None:
    assert open_secret(KEY, "A", garbage) is None


def test_seals_of_one_kind_do_not_open_as_the_other() -> None:
    assert open_secret(KEY, "mdns", seal(KEY, b"x", 1000.0, NONCE)) is None
    assert unseal(KEY, seal_secret(KEY, "mdns", b"x" * 20, NONCE), 1000.0) is None


def test_a_document_holds_the_secret_sealed_and_a_removed_one_nothing() -> None:
    one = document("A", CANARY)
    sealed = open_sealed(one)
    assert sealed
    assert sealed.created == 1000
    assert CANARY not in one.body
    assert open_sealed(document("A", None, 2)) is None


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", ".hidden", "a" * 65, "a b", "é", "-a", "a\0"])
def test_what_cannot_be_a_files_name_is_no_secret(name: str) -> None:
    with pytest.raises(LedgerError):
        document(name, b"x")


@pytest.mark.parametrize("body", [b"x", b"\xc0", b"\x80", b"\x92\x01\xc4\x00\xff", b"\xff" * 40])
def test_garbage_in_a_document_is_refused(body: bytes) -> None:
    with pytest.raises(LedgerError):
        open_sealed(Document("secret", "A", 1, body, "00" * 32))


def test_there_is_a_largest_secret() -> None:
    assert open_sealed(document("A", b"x" * MAX_SECRET))
    with pytest.raises(LedgerError):
        document("A", b"x" * (MAX_SECRET + 300))


def test_a_mount_has_the_secrets_it_names_and_no_other(secrets: Secrets, tmp_path: Path) -> None:
    secrets.follow([document("A", b"1"), document("B", b"2"), document("C", b"3")])
    secrets.mount(tmp_path / "i" / "m", ("A", "C"))
    assert held(tmp_path / "i" / "m") == {"A": b"1", "C": b"3"}
    assert secrets.names == {"A", "B", "C"}


def test_files_are_read_only_and_the_sandboxs(secrets: Secrets, tmp_path: Path) -> None:
    secrets.follow([document("A", b"1")])
    secrets.mount(tmp_path / "m", ("A",))
    status = (tmp_path / "m" / "A").stat()
    assert stat.S_IMODE(status.st_mode) == 0o400
    assert (status.st_uid, status.st_gid) == OWNER
    assert stat.S_IMODE((tmp_path / "m").stat().st_mode) == 0o755


def test_a_new_value_replaces_the_file_whole_in_the_same_directory(secrets: Secrets, tmp_path: Path) -> None:
    mount = tmp_path / "m"
    secrets.follow([document("A", b"1" * 9)])
    secrets.mount(mount, ("A",))
    inode, seen, stop = mount.stat().st_ino, set(), threading.Event()

    def look() -> None:
        while not stop.is_set():
            seen.add((mount / "A").read_bytes())

    looking = threading.Thread(target=look)
    looking.start()
    for sequence in range(2, 200):
        secrets.follow([document("A", str(sequence % 10).encode() * 9, sequence)])
    stop.set()
    looking.join()
    assert all(len(set(value)) == 1 and len(value) == 9 for value in seen)
    assert (mount.stat().st_ino, held(mount)) == (inode, {"A": b"9" * 9})


def test_a_secret_that_comes_later_appears_and_a_removed_one_goes(secrets: Secrets, tmp_path: Path) -> None:
    secrets.mount(tmp_path / "m", ("A",))
    assert held(tmp_path / "m") == {}
    secrets.follow([document("A", b"1")])
    assert held(tmp_path / "m") == {"A": b"1"}
    secrets.follow([document("A", None, 2)])
    assert held(tmp_path / "m") == {}
    assert secrets.names == set()


def test_what_did_not_change_is_left_alone(secrets: Secrets, tmp_path: Path) -> None:
    secrets.follow([document("A", b"1"), document("B", b"1")])
    secrets.mount(tmp_path / "m", ("A", "B"))
    inode = (tmp_path / "m" / "A").stat().st_ino
    secrets.follow([document("A", b"1"), document("B", b"2", 2)])
    assert (tmp_path / "m" / "A").stat().st_ino == inode
    assert held(tmp_path / "m") == {"A": b"1", "B": b"2"}


def test_a_mount_whose_instance_is_gone_is_forgotten(secrets: Secrets, tmp_path: Path) -> None:
    secrets.follow([document("A", b"1")])
    secrets.mount(tmp_path / "m", ("A",))
    (tmp_path / "m" / "A").unlink()
    (tmp_path / "m").rmdir()
    secrets.follow([document("A", b"2", 2)])
    assert not (tmp_path / "m").exists()


def test_a_mount_of_an_earlier_life_is_taken_over(tmp_path: Path) -> None:
    first, second = Secrets(KEY, OWNER), Secrets(KEY, OWNER)
    first.follow([document("A", b"1"), document("B", b"1")])
    first.mount(tmp_path / "m", ("A", "B"))
    (tmp_path / "m" / ".A.new").write_bytes(b"half")
    second.follow([document("A", b"2", 2)])
    second.mount(tmp_path / "m", ("A",))
    assert held(tmp_path / "m") == {"A": b"2"}


def test_what_cannot_be_opened_is_said_and_left_out(secrets: Secrets, tmp_path: Path) -> None:
    with capture_logs() as logs:
        secrets.follow([document("A", CANARY, key=OTHER), Document("secret", "B", 1, b"garbage", "00" * 32)])
        secrets.mount(tmp_path / "m", ("A", "B"))
    assert held(tmp_path / "m") == {}
    assert [line["log_level"] for line in logs[:2]] == ["error", "error"]


def test_a_directory_that_cannot_be_written_is_an_error_without_the_value(secrets: Secrets, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    secrets.follow([document("A", CANARY)])
    with pytest.raises(SandboxError) as caught:
        secrets.mount(tmp_path / "file" / "m", ("A",))
    assert CANARY.decode() not in caught.value.message


def test_no_value_is_ever_logged(secrets: Secrets, tmp_path: Path) -> None:
    with capture_logs() as logs:
        secrets.follow([document("A", CANARY), document("B", CANARY, key=OTHER)])
        secrets.mount(tmp_path / "m", ("A", "B", "C"))
        secrets.follow([document("A", None, 2)])
    assert CANARY.decode() not in repr(logs)
    assert CANARY.decode() not in repr(vars(secrets)["_documents"])


MOUNTS = """22 1 0:20 / / rw shared:1 - overlay overlay rw
30 22 0:21 / /run rw,nosuid shared:2 - tmpfs tmpfs rw
31 30 8:1 / /run/disk rw shared:3 - ext4 /dev/sda1 rw
32 22 0:33 / /mnt/a\\040b rw - tmpfs tmpfs rw
garbage
"""


@pytest.mark.parametrize(
    ("path", "within"),
    [
        ("/run/x/y", True),
        ("/run", True),
        ("/runs", False),
        ("/run/disk/x", False),
        ("/tmp", False),
        ("/mnt/a b/c", True),
    ],
)
def test_what_never_reaches_a_disk(path: str, within: bool) -> None:
    assert is_in_memory(Path(path), MOUNTS) is within
    assert is_in_memory(Path(path), "") is False


def test_only_a_task_that_names_secrets_has_a_mount(tmp_path: Path) -> None:
    mounted: list[tuple[Path, tuple[str, ...]]] = []
    place = Place(NodeId("ab" * 20), "n", "g", "i", tmp_path, lambda path, names: mounted.append((path, names)))
    release = Release("p", Root("a" * 64), 1, 0, 0, 0, ())
    for task in (TaskSpec("plain", "tasks/plain.py"), TaskSpec("with", "tasks/with.py", secrets=("A", "B"))):
        spec = place.spec(InstanceId("cd" * 4), release, task, tmp_path)
        place.furnish(spec, task)
        assert bool(spec.secrets_dir) == bool(task.secrets)
    assert mounted == [(tmp_path / ("cd" * 4) / "secrets", ("A", "B"))]
    assert SANDBOX_USER == (65534, 65534)
