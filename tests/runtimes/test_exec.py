"""What is the exec runtime's own; what all runtimes have in common is in conformance.py."""

import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridnode.model import NodeId
from gridnode.runtimes.exec import Fault, check, environment, is_json, offer_packages, result
from gridnode.runtimes.python_frames import Frame
from tests.fakes.process_sandbox import ProcessSandbox
from tests.runtimes.conformance import Serve, Subject, failure, opened
from tests.sandbox.conformance import Place


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    place, sandbox = Place(NodeId("ab" * 20), "none"), ProcessSandbox()
    async with opened(place, sandbox, {"exec": "none"}) as start:
        yield start
    await sandbox.clean()
    place.remove()


def program(source: str) -> Subject:
    return Subject("exec", source)


@pytest.mark.parametrize(
    ("output", "meant"),
    [
        (b"", None),
        (b" \n", None),
        (b'{"a": 1}\n', {"a": 1}),
        (b"plain text\n", "plain text"),
        (b"two\nlines\n", "two\nlines"),
        (b"NaN", "NaN"),
        (b"\xff\xfe", "\ufffd\ufffd"),
        (b"[" * 100_000, "[" * 100_000),
        (b"1 2", "1 2"),
    ],
)
def test_what_output_means(output: bytes, meant: object) -> None:
    assert json.loads(result(output)) == meant


@given(st.binary(max_size=300))
def test_any_output_is_a_result(output: bytes) -> None:
    body = result(output)
    assert is_json(body)
    json.loads(body)


def test_text_that_grows_too_large_as_json_is_refused() -> None:
    with pytest.raises(Fault, match="6291456 are allowed") as caught:
        result(b"\x01" * 2_000_000)
    assert caught.value.code == "body_too_large"


@given(st.binary(max_size=100))
def test_any_metadata_gives_an_environment(meta: bytes) -> None:
    found = environment(Frame(2, 1, 1, 0, b"req", meta, b""))
    assert all("\0" not in value for value in found.values())
    assert "GRID_DEADLINE" not in found


def test_hostile_metadata_cannot_break_the_environment() -> None:
    meta = json.dumps({"id": "a\0b", "attempt": [1]}).encode()
    found = environment(Frame(2, 1, 1, 1000, b"req", meta, b""))
    assert (found["GRID_INVOCATION_ID"], found["GRID_ATTEMPT"]) == ("ab", "[1]")
    assert float(found["GRID_DEADLINE"]) > 0


@pytest.mark.parametrize(
    ("head", "mode", "said"),
    [
        (b"#!/bin/sh\n", 0o644, "is not executable: chmod"),
        (b"echo\n", 0o755, "has no #! line"),
        (b"", 0o755, "has no #! line"),
        (b"#!/no/such/shell -e\n", 0o755, "needs /no/such/shell"),
        (b"#!/usr/bin/env no-such-shell\n", 0o755, "needs no-such-shell"),
        (b"#!/usr/bin/env -S no-such-shell -x\n", 0o755, "needs no-such-shell"),
        (b"#!\n", 0o755, "needs an interpreter"),
    ],
)
def test_a_program_that_cannot_run_is_told(tmp_path: Path, head: bytes, mode: int, said: str) -> None:
    (tmp_path / "x").write_bytes(head)
    (tmp_path / "x").chmod(mode)
    with pytest.raises(Fault, match=said) as caught:
        check(str(tmp_path), "x")
    assert caught.value.code == "instance_failed"


@pytest.mark.parametrize("head", [b"#!/bin/sh\n", b"#! /bin/sh -e\n", b"#!/usr/bin/env sh\n", b"\x7fELF\x02"])
def test_a_program_that_can_run(tmp_path: Path, head: bytes) -> None:
    (tmp_path / "x").write_bytes(head)
    (tmp_path / "x").chmod(0o755)
    assert check(str(tmp_path), "x") == str(tmp_path / "x")


def test_no_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(Fault, match="No such file"):
        check(str(tmp_path), "x")


async def test_a_binary_that_the_kernel_refuses_is_an_error_of_the_call(serve: Serve) -> None:
    line = await (await serve(program("\x7fELF"))).line()
    assert "Exec format error" in (await failure(line)).message


async def test_children_do_not_outlive_the_call_nor_hold_it_up(serve: Serve) -> None:
    line = await (await serve(program("#!/bin/sh\nsleep 1000 &\necho $!\n"))).line()
    child = await line.ask("req")
    assert _ended(child)


async def test_a_child_that_left_its_group_does_not_hold_up_the_call(serve: Serve) -> None:
    source = "#!/bin/sh\nsetsid sleep 1.5 &\necho 1\n"
    line = await (await serve(program(source))).line()
    for _ in range(3):
        assert await line.ask("req") == 1


async def test_a_flood_of_output_ends_the_program(serve: Serve) -> None:
    line = await (await serve(program("#!/bin/sh\nread x\nif [ $x = 1 ]; then exec yes; fi\n"))).line()
    assert (await failure(line, event=1)).code == "body_too_large"
    assert await line.ask("req", 2) is None


async def test_only_the_last_of_a_flood_of_errors_is_told(serve: Serve) -> None:
    source = "#!/bin/sh\nyes | head -c 3000000 >&2\necho the end >&2\nexit 9\n"
    served = await serve(program(source))
    error = await failure(await served.line())
    assert error.message == "exit code 9"
    assert str(error.trace).endswith("the end\n")
    assert len(str(error.trace)) <= 8192


async def test_a_program_sees_no_socket_of_ours(serve: Serve) -> None:
    source = (
        "#!/usr/bin/env python3\nimport json, os\nprint(json.dumps([sorted(os.environ), os.listdir('/proc/self/fd')]))"
    )
    names, descriptors = await (await (await serve(program(source))).line()).ask("req")
    assert "GRID_SOCKET" not in names
    assert {"GRID_TASK", "GRID_NODE", "GRID_INSTANCE", "GRID_INVOCATION_ID", "GRID_ATTEMPT"} <= set(names)
    assert len(descriptors) == 4


@pytest.mark.parametrize("own", [None, "/theirs"])
def test_python_programs_find_packages_unless_they_say_where(monkeypatch: pytest.MonkeyPatch, own: str | None) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    if own:
        monkeypatch.setenv("PYTHONPATH", own)
    offer_packages("/task")
    found = os.environ.pop("PYTHONPATH")
    assert found == (own or f"/task/.vendor/python/{'{}.{}'.format(*sys.version_info)}-{os.uname().machine}")


async def test_descriptors_do_not_leak(serve: Serve) -> None:
    source = "#!/usr/bin/env python3\nimport os\nprint(len(os.listdir(f'/proc/{os.getppid()}/fd')))"
    line = await (await serve(program(source))).line()
    counts = [await line.ask("req") for _ in range(8)]
    assert max(counts[2:]) <= max(counts[:2])


def _ended(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
