import io
from pathlib import Path

import pytest

from gridctl.deployment import Deployment, as_fields, report, verdict
from gridctl.follow import Arrival
from gridctl.project import scan
from gridctl.render import Progress
from gridctl.sample import copy_sample
from gridctl.upload import Sent
from gridnode.errors import TaskFailure
from gridnode.model import NodeId, Release

ACTIVE = Arrival(NodeId("a" * 40), "a", "active", final=True)
FAILED = Arrival(NodeId("b" * 40), "b", "failed", error="disk full", final=True)
BROKEN = Arrival(
    NodeId("c" * 40), "c", "failed", error="x", failures=(TaskFailure("tasks/t.py", "boom", "Trace"),), final=True
)
DEAD = Arrival(NodeId("d" * 40), "d", "dead", reachable=False)
SLOW = Arrival(NodeId("e" * 40), "e", "fetching", have=4, total=10)


@pytest.fixture
def deployment(tmp_path: Path) -> Deployment:
    copy_sample("hello", tmp_path / "hello")
    project = scan(tmp_path / "hello")
    release = Release("hello", project.manifest.root, 3, 0, project.size, project.files, project.tasks)
    return Deployment(project, release, changed=True, sent=Sent(2, 50, 100, 100))


def told(deployment: Deployment) -> str:
    stream = io.StringIO()
    report(deployment, Progress(stream))
    return stream.getvalue()


@pytest.mark.parametrize(
    ("arrivals", "late", "code"),
    [
        ([ACTIVE], False, 0),
        ([ACTIVE, DEAD], False, 0),
        ([ACTIVE, FAILED], False, 3),
        ([FAILED, BROKEN], False, 1),
        ([FAILED, DEAD], False, 1),
        ([ACTIVE, SLOW], True, 124),
    ],
)
def test_exit_codes(deployment: Deployment, arrivals: list[Arrival], late: bool, code: int) -> None:
    deployment.arrivals, deployment.late = arrivals, late
    assert verdict(deployment) == code


def test_every_node_that_is_not_ready_is_named(deployment: Deployment) -> None:
    deployment.arrivals, deployment.late = [ACTIVE, FAILED, BROKEN, DEAD, SLOW], True
    lines = told(deployment)
    for part in (
        "b failed: disk full",
        "tasks/t.py failed on c: boom\nTrace",
        "d is dead",
        "e is not ready: fetching 40%",
    ):
        assert part in lines
    assert "is active on a only" in lines


def test_all_is_well(deployment: Deployment) -> None:
    deployment.arrivals = [ACTIVE]
    root = deployment.release.root[:8]
    assert told(deployment) == f"hello {root}, release 3, is active on a\n"
    deployment.changed = False
    assert told(deployment) == f"nothing changed: hello {root}, release 3, is active on a\n"


def test_fields(deployment: Deployment) -> None:
    deployment.arrivals = [BROKEN]
    fields = as_fields(deployment)
    tree = sum(map(len, deployment.project.manifest.nodes.values()))
    assert (fields["sent"], fields["deduplicated"]) == (50, deployment.project.size + tree - 100)
    assert fields["nodes"][0]["failures"] == [{"file": "tasks/t.py", "message": "boom", "trace": "Trace"}]
