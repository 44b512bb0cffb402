"""The runtimes in real sandboxes: the conformance suite, images of one's own, and tasks of every kind on a grid."""

import json
import os
import secrets
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from gridnode.model import NodeId
from gridnode.sandbox.docker import DockerSandbox
from integration import project
from integration.grid import Grid, until
from tests.runtimes.conformance import RuntimeConformance, Serve, Subject, opened
from tests.sandbox.conformance import Place

IMAGE = os.environ.get("GRIDCONTROL_IMAGE", "gridcontrol/gridnode:latest")
NODE_IMAGE = "gridcontrol/runtime-node:latest"


def images() -> dict[str, str]:
    """What is on this machine, by runtime."""
    found = {"python": IMAGE, "exec": IMAGE, "http": IMAGE}
    there = subprocess.run(["docker", "image", "inspect", NODE_IMAGE], check=False, capture_output=True, timeout=60)
    return found | ({"node": NODE_IMAGE} if there.returncode == 0 else {})


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    place = Place(NodeId(secrets.token_hex(20)), IMAGE)
    sandbox = DockerSandbox(place.node)
    async with opened(place, sandbox, images(), memory=192 << 20) as start:
        yield start
    for instance in await sandbox.running():
        await sandbox.stop(instance, 0)
    await sandbox.close()
    place.remove()


class TestRuntimes(RuntimeConformance):
    pass


BASE = "gridcontrol-base:trixie"
OWN = "gridcontrol-test/own:latest"
OWN_DOCKERFILE = f"""
FROM {BASE}
ENV OWN=yes
ENTRYPOINT ["python3", "-I", "/usr/lib/gridnode/runtimes/python.py"]
"""
ASKS = "import os, sys\ndef handler(): return [os.environ.get('OWN'), os.path.exists('/opt/gridnode')]"


def docker(*argv: str, stdin: str = "") -> None:
    environment = os.environ | {"DOCKER_BUILDKIT": "0"}
    subprocess.run(
        ["docker", *argv], check=True, capture_output=True, input=stdin, text=True, timeout=120, env=environment
    )


async def test_an_image_without_anything_of_ours_runs_a_task(serve: Serve) -> None:
    subject = Subject("python", ASKS)
    assert await (await (await serve(subject, image=BASE)).line()).ask("req") == [None, False]


@pytest.fixture
def own_image() -> Iterator[str]:
    docker("build", "-q", "-t", OWN, "-", stdin=OWN_DOCKERFILE)
    yield OWN
    docker("rmi", OWN)


async def test_an_image_that_speaks_for_itself_keeps_its_entrypoint(own_image: str, serve: Serve) -> None:
    served = await serve(Subject("python", ASKS), runtime="image", image=own_image)
    assert await (await served.line()).ask("req") == ["yes", False]


async def test_the_runtimes_are_there_to_read_only(serve: Serve) -> None:
    source = "import os\ndef handler(path): return [os.listdir(path) != [], os.access(path + '/exec.py', os.W_OK)]"
    line = await (await serve(Subject("python", source))).line()
    assert await line.ask("req", "/usr/lib/gridnode/runtimes") == [True, False]


SHELL = """#!/bin/sh
echo "on $GRID_NODE" >&2
read who
echo "{\\"hello\\": $who}"
"""
SCRIPT = """
exports.handler = async (event, context) => ({ hello: event, by: context.task });
exports.twice = (n, callback) => callback(null, 2 * n);
exports.fails = () => { throw new Error('not today'); };
"""


@pytest.fixture
def mixed(grid: Grid, tmp_path: Path) -> Grid:
    """A grid that serves a task of every kind."""
    if "node" not in images():
        pytest.skip("scripts/image --node has not been run")
    directory = project.write(tmp_path / "mixed", {"tasks/hello.sh": SHELL, "tasks/script.js": SCRIPT})
    (directory / "tasks/hello.sh").chmod(0o755)
    grid.deploy(directory)
    return grid


def invoke(grid: Grid, task: str, argument: object) -> object:
    ended = grid.gridctl("invoke", task, "-d", json.dumps(argument), "--json")
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)["result"]


def test_one_project_has_tasks_of_every_kind(mixed: Grid) -> None:
    assert invoke(mixed, "echo", [1]) == [1]
    assert invoke(mixed, "hello", "you") == {"hello": "you"}
    assert invoke(mixed, "script", "you") == {"hello": "you", "by": "script"}
    assert invoke(mixed, "script.twice", 21) == 42
    failed = mixed.gridctl("invoke", "script.fails")
    assert failed.returncode == 6
    assert "Error: not today" in failed.stderr


def test_an_image_that_is_not_there_fails_the_deploy_with_what_to_do(grid: Grid, tmp_path: Path) -> None:
    node = grid.add("without-node", env={"GRIDNODE_NODE_IMAGE": "gridcontrol/absent:0"})
    try:
        until(grid.is_full_mesh, 30, "a full mesh")
        directory = project.write(tmp_path / "mixed", {"tasks/script.js": SCRIPT})
        ended = grid.gridctl("deploy", str(directory), "-y")
        assert ended.returncode == 3, ended.stderr
        assert "gridcontrol/absent:0" in ended.stderr
        assert "not on this server" in ended.stderr
        assert "scripts/image --node" in ended.stderr
    finally:
        grid.drop(node)
