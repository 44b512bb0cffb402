"""Which servers, what is said in the end, and where the image comes from."""

import asyncio
import json
import zlib
from pathlib import Path

import pytest

from gridctl.cli import run
from gridctl.fleet import HostResult, State
from gridctl.fleet_lines import Lines, Outputs
from gridctl.new import new_gridfile
from gridctl.node_image import PackedImage, find_image
from gridctl.options import Settings
from gridctl.provision import chosen, finish
from gridnode.errors import GridError, HostKeyChanged, HostUnreachable, StepFailed, UsageError
from gridnode.gridfile import Gridfile, Server

A, B = Server("a", "root"), Server("b", "ops", 2222)
GRIDFILE = Gridfile("g", (A, B))
Capture = pytest.CaptureFixture[str]


@pytest.mark.parametrize("name", ["b", "b:2222", "ops@b:2222"])
def test_a_server_is_named_by_host_place_or_whole(name: str) -> None:
    assert chosen(GRIDFILE, [name, name]) == (B,)
    assert chosen(GRIDFILE, []) == (A, B)


def test_a_name_that_is_not_there_lists_those_that_are() -> None:
    with pytest.raises(UsageError) as caught:
        chosen(GRIDFILE, ["c"])
    assert "root@a, ops@b:2222" in str(caught.value.hint)
    with pytest.raises(UsageError, match="has no servers"):
        chosen(Gridfile("g", ()), [])


@pytest.mark.parametrize(
    ("errors", "code"),
    [
        ((None, None), 0),
        ((None, StepFailed("no")), 3),
        ((HostUnreachable("no"), StepFailed("no")), 4),
        ((HostKeyChanged("no"), HostKeyChanged("no")), 4),
        ((StepFailed("no"), StepFailed("no")), 1),
    ],
)
def test_exit_codes(errors: tuple[GridError | None, ...], code: int) -> None:
    results = [HostResult(server, error=error) for server, error in zip((A, B), errors, strict=True)]
    assert finish(results, Settings(), "provisioned") == code


def test_what_is_said_in_the_end(capsys: Capture) -> None:
    error = StepFailed("ops@b:2222: no", hint="do this", trace="one\n\x1b[2Jtwo")
    assert finish([HostResult(A, ["key"]), HostResult(B, error=error)], Settings(as_json=True), "provisioned") == 3
    out, err = capsys.readouterr()
    assert err.splitlines() == [
        "gridctl: ops@b:2222: no",
        "hint: do this",
        "    one",
        "    \\x1b[2Jtwo",
        "1 of 2 servers provisioned, 1 changed; unfinished: ops@b:2222",
    ]
    rows = json.loads(out)["hosts"]
    assert [(row["host"], row["ok"], row["changed"]) for row in rows] == [
        ("root@a", True, ["key"]),
        ("ops@b:2222", False, []),
    ]
    assert rows[1]["error"]["code"] == "step_failed"


def test_lines(capsys: Capture) -> None:
    lines = Lines((A, B))
    lines.line(A, "only with --verbose")
    lines.ended(A, "image", State.DONE, 1.23)
    Lines((A, B), everything=True).line(B, "it\x1b[2J says")
    Outputs((A, B)).line(A, "out\x07")
    out, err = capsys.readouterr()
    assert err.splitlines() == ["root@a     | image ............. ok 1.2 s", "ops@b:2222 | it\\x1b[2J says"]
    assert out == "root@a     | out\\x07\n"


async def test_a_machine_without_docker_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="no docker command") as caught:
        await find_image("gridcontrol/gridnode:1")
    assert "image = " in str(caught.value.hint)


async def test_an_image_is_packed_once_for_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With a docker that counts its calls."""
    script = tmp_path / "docker"
    script.write_text(f"#!/bin/sh\necho $@ >>{tmp_path}/calls\nhead -c 3000000 /dev/zero\ntest $2 = good || exit 1\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    async def whole(image: PackedImage) -> bytes:
        return b"".join([block async for block in image.stream()])

    image = PackedImage("good")
    first, second = await asyncio.gather(whole(image), whole(image))
    third = await whole(image)
    await image.close()
    assert first == second == third
    assert zlib.decompress(first, wbits=31) == bytes(3_000_000)
    assert (tmp_path / "calls").read_text() == "save good\n"
    broken = PackedImage("broken")
    with pytest.raises(UsageError, match="cannot save broken"):
        await whole(broken)
    await broken.close()
    await PackedImage("never asked for").close()


def test_commands_before_any_server_is_asked(tmp_path: Path, capsys: Capture) -> None:
    made = new_gridfile(tmp_path, servers=["root@a"])
    for argv in (["provision", "--only", "b"], ["unprovision"], ["multissh", "--only", "b", "id"], ["ssh", "b"]):
        assert run([*argv, "--gridfile", str(made.path)]) == 2, argv
    assert "-y goes ahead without asking" in capsys.readouterr().err
