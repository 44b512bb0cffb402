"""`gridctl image` against nodes in this process, whose engines are in memory."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from gridctl import engine_image, image_arrival
from gridctl.cli import run
from gridctl.image_arrival import ImageArrival, follow_image
from gridctl.render import Progress
from gridnode.errors import LinkClosed, UsageError
from gridnode.model import ImageState, ImageStatus, Member, MemberState, NodeId, NodeRecord
from tests.fakes.images import docker_files, layer, tar
from tests.gridctl.conftest import RunningGrid

BASE = layer(1)


def archive(path: Path, seed: int, name: str = "app:1") -> str:
    path.write_bytes(tar(docker_files([BASE, layer(seed, 50_000)], name)))
    return str(path)


def said(grid: RunningGrid, capsys: pytest.CaptureFixture[str], *argv: str, code: int = 0) -> dict[str, Any]:
    assert run(["image", *argv, "--json", "--gridfile", str(grid.gridfile)]) == code
    fields: dict[str, Any] = json.loads(capsys.readouterr().out)
    return fields


def test_the_life_of_an_image(hello_grid: RunningGrid, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = archive(tmp_path / "a.tar", 2), archive(tmp_path / "b.tar", 3, "other:1")
    pushed = said(hello_grid, capsys, "push", first)
    assert (pushed["name"], pushed["changed"]) == ("app:1", True)
    assert {(row["name"], row["state"]) for row in pushed["nodes"]} == {("node-1", "present"), ("node-2", "present")}
    assert pushed["sent"] > 350_000
    again = said(hello_grid, capsys, "push", first)
    assert (again["changed"], again["sent"], again["id"]) == (False, 0, pushed["id"])
    shared = said(hello_grid, capsys, "push", second, "--name", "docker.io/library/shared")
    assert shared["name"] == "shared:latest"
    assert 50_000 < shared["sent"] < 80_000
    assert shared["deduplicated"] >= len(BASE)

    rows = {row["name"]: row for row in said(hello_grid, capsys, "ls")["images"]}
    assert set(rows) == {"app:1", "shared:latest"}
    assert rows["app:1"]["image"]["id"] == pushed["id"]
    assert [node["state"] for node in rows["app:1"]["nodes"]] == ["present", "present"]
    assert run(["image", "ls", "--gridfile", str(hello_grid.gridfile)]) == 0
    assert "shared:latest" in capsys.readouterr().out

    for name in ("app:1", "shared"):
        said(hello_grid, capsys, "rm", name)
    assert said(hello_grid, capsys, "rm", "app:1", code=2)["error"]["hint"] == "`gridctl image ls` shows those it ships"
    assert said(hello_grid, capsys, "push", first)["changed"] is True
    said(hello_grid, capsys, "rm", "app:1")


@pytest.mark.parametrize(
    ("argv", "why"),
    [
        (("push", "no/Such image"), "neither a file nor the name"),
        (("push", "x.tar", "--name", "UPPER"), "cannot be an image's name"),
        (("push", "--", "-v"), "neither a file nor the name"),
        (("rm", "app@sha256:0"), "cannot be an image's name"),
    ],
)
def test_names_that_cannot_be(
    hello_grid: RunningGrid, capsys: pytest.CaptureFixture[str], argv: tuple[str, ...], why: str
) -> None:
    assert run(["image", argv[0], "--gridfile", str(hello_grid.gridfile), *argv[1:]]) == 2
    assert why in capsys.readouterr().err


def test_a_file_that_says_no_name(hello_grid: RunningGrid, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = docker_files([BASE])
    files["manifest.json"] = bytes(files["manifest.json"]).replace(b'["app:1"]', b"null")  # type: ignore[arg-type]
    (tmp_path / "a.tar").write_bytes(tar(files))
    assert run(["image", "push", str(tmp_path / "a.tar"), "--gridfile", str(hello_grid.gridfile)]) == 2
    assert "--name NAME" in capsys.readouterr().err


def test_no_engine_and_no_image(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    docker = tmp_path / "docker"
    monkeypatch.setenv("PATH", str(tmp_path))
    with (tmp_path / "out").open("wb") as file:
        with pytest.raises(UsageError, match="no docker command"):
            engine_image.save("app:1", file, 1000, lambda done, total: None)
        docker.write_text("#!/bin/sh\necho 'No such image' >&2; exit 1\n")
        docker.chmod(0o755)
        with pytest.raises(UsageError, match="No such image"):
            engine_image.save("app:1", file, 1000, lambda done, total: None)
        docker.write_text('#!/bin/sh\n[ "$2" = inspect ] && echo 7 && exit 0\nprintf content\n')
        with pytest.raises(UsageError, match="at most 6"):
            engine_image.save("app:1", file, 6, lambda done, total: None)
        engine_image.save("app:1", file, 1000, lambda done, total: None)
    assert (tmp_path / "out").read_bytes() == b"content"
    docker.write_text('#!/bin/sh\n[ "$2" = inspect ] && echo 7 && exit 0\necho broken >&2; exit 1\n')
    with (tmp_path / "out").open("wb") as file, pytest.raises(UsageError, match="broken"):
        engine_image.save("app:1", file, 1000, lambda done, total: None)
    assert subprocess.run([docker], check=False, capture_output=True).returncode == 1


class Watched:
    """A grid that says the next thing each time it is asked."""

    def __init__(self, *said: ImageStatus | Exception | None, state: MemberState = MemberState.ALIVE) -> None:
        self.said = list(said)
        self.member = Member(NodeRecord(NodeId("a" * 40), "web", 1, 0, (), "1", 0), state, 0.0)

    async def nodes(self) -> list[Member]:
        return [self.member]

    async def image_status(self, node: NodeId) -> list[ImageStatus]:
        said = self.said.pop(0) if len(self.said) > 1 else self.said[0]
        if isinstance(said, Exception):
            raise said
        return [said] if said else []


def status(state: ImageState, id: str = "1", error: str = "") -> ImageStatus:
    return ImageStatus("app:1", id, state, 1, 2, error)


async def followed(
    grid: Watched, monkeypatch: pytest.MonkeyPatch, timeout: float = 5, patience: float = 0.0
) -> ImageArrival:
    monkeypatch.setattr(image_arrival, "POLL", 0.001)
    monkeypatch.setattr(image_arrival, "RETRY_PATIENCE", patience)
    arrival = ImageArrival("app:1", "1")
    await follow_image(grid, arrival, timeout, Progress())
    return arrival


async def test_it_waits_for_this_image_and_no_other(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    present, fetching = status(ImageState.PRESENT), status(ImageState.FETCHING)
    failed = status(ImageState.FAILED, error="no peer")
    grid = Watched(None, status(ImageState.PRESENT, "0"), fetching, failed, fetching, present)
    arrival = await followed(grid, monkeypatch, patience=60)
    assert (arrival.count(ImageState.PRESENT), arrival.late, grid.said) == (1, False, [present])
    shown = capsys.readouterr().err.splitlines()
    assert shown == ["web: fetching", "web: failed: no peer", "web: fetching", "web: present"]


async def test_it_gives_up_on_what_fails_for_good(monkeypatch: pytest.MonkeyPatch) -> None:
    arrival = await followed(Watched(status(ImageState.FAILED, error="full")), monkeypatch)
    assert (arrival.count(ImageState.FAILED), arrival.late) == (1, False)


async def test_nodes_out_of_reach_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    arrival = await followed(Watched(None, state=MemberState.DEAD), monkeypatch)
    assert (arrival.away, arrival.nodes) == ({"web": "dead"}, {})
    arrival = await followed(Watched(LinkClosed("gone")), monkeypatch)
    assert arrival.away == {"web": "gone"}


async def test_time_runs_out(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (await followed(Watched(None), monkeypatch, timeout=0.1)).late
