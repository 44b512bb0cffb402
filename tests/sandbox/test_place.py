import dataclasses
from pathlib import Path

import pytest

from gridnode.errors import SandboxError
from gridnode.model import InstanceId, NodeId, Release, Root, TaskSpec
from gridnode.sandbox.place import Place
from gridnode.sandbox.spec import container_config

PLACE = Place(
    NodeId("ab" * 20), "attic", "home", "own:1", Path("/run/g"), node_image="node:1", runtimes_dir=Path("/var/r/ab")
)
RELEASE = Release("shop", Root("cd" * 32), 1, 0, 0, 1, ())


@pytest.mark.parametrize(
    ("runtime", "image", "chosen"),
    [
        ("python", "", "own:1"),
        ("exec", "", "own:1"),
        ("node", "", "node:1"),
        ("node", "mine:2", "mine:2"),
        ("python", "mine:2", "mine:2"),
        ("image", "mine:2", "mine:2"),
    ],
)
def test_the_image_of_a_task(runtime: str, image: str, chosen: str) -> None:
    task = TaskSpec("req", "tasks/req", runtime, image=image, concurrency=3)
    spec = PLACE.spec(InstanceId("0a1b2c3d"), RELEASE, task, Path("/var/lib/g/releases/cd"))
    assert (spec.image, spec.runtimes_dir, spec.concurrency) == (chosen, "/var/r/ab", 3)
    assert container_config(spec)["Image"] == chosen


def test_an_image_task_without_an_image_is_refused() -> None:
    spec = PLACE.spec(InstanceId("0a1b2c3d"), RELEASE, TaskSpec("req", "tasks/req", "image"), Path("/var/lib/g/x"))
    with pytest.raises(SandboxError, match="image ''"):
        container_config(spec)


def test_the_files_of_a_task_lie_where_the_node_says() -> None:
    task = TaskSpec("req", "tasks/req.py", files=("geo",))
    at = (InstanceId("0a1b2c3d"), RELEASE, task, Path("/var/lib/g/releases/cd"))
    place = dataclasses.replace(PLACE, files=lambda name: Path("/var/lib/g/files") / name)
    assert place.spec(*at).files == {"geo": "/var/lib/g/files/geo"}
    with pytest.raises(SandboxError, match="keeps no files geo"):
        PLACE.spec(*at)
