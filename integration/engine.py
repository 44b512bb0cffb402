"""The Docker engine as the integration tests use it: plain `docker` commands, and what a run may leave behind."""

import contextlib
import functools
import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from integration import dockerd

TEST = "gridcontrol.test"
"""Label of node containers and networks: the run they belong to."""
NAME = "gridcontrol.test.name"
"""Label of node containers: the node's name, unique in its run."""
GRID = "gridcontrol.grid"
"""Label of node containers, and of every sandbox: the grid's tag."""
NODE = "gridcontrol.node"
"""Label of every sandbox: the id of its node."""
OWN_ENGINE = "engine"
"""Directory of a daemon that a test started itself."""

REPOSITORY = Path(__file__).parent.parent
REUSED = os.environ.get("GRID_REUSE", "")
RUN = f"reuse-{REUSED}" if REUSED else str(os.getpid())
_PREFIX = "gridtest-"
# Not $TMPDIR: a unix socket below has 107 bytes for its path.
_TEMPORARY = Path("/tmp")
DIRECTORY = _TEMPORARY / f"{_PREFIX}{RUN}"
"""Where this run keeps its grids: the same path here, in the nodes and for the engine."""

_used_tags: set[str] = set()


def run(
    *argv: str, stdin: str = "", env: Mapping[str, str] | None = None, timeout: float = 90
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, however it ends."""
    return subprocess.run(argv, check=False, env=env, input=stdin, capture_output=True, text=True, timeout=timeout)


def docker(*argv: str, check: bool = True) -> str:
    """Output of one docker command; RuntimeError when it fails."""
    ended = run("docker", *argv)
    if check and ended.returncode:
        raise RuntimeError(f"docker {' '.join(argv)}: {ended.stderr.strip()}")
    return ended.stdout


def containers(*labels: str) -> list[str]:
    """Ids of the containers that carry every label, stopped ones too."""
    filters = [part for label in labels for part in ("--filter", f"label={label}")]
    return docker("ps", "-aq", "--no-trunc", *filters).split()


def inspect(*ids: str) -> list[dict[str, Any]]:
    """`docker inspect` of those that still exist."""
    if not ids:
        return []
    found: list[dict[str, Any]] = json.loads(docker("inspect", *ids, check=False) or "[]")
    return found


@functools.cache
def image() -> str:
    """Id of the image under test: $GRIDCONTROL_IMAGE, else what scripts/image makes."""
    name = os.environ.get("GRIDCONTROL_IMAGE") or _make_image()
    return docker("image", "inspect", "-f", "{{.Id}}", name).strip()


def _make_image() -> str:
    script = [REPOSITORY / "scripts" / "image"]
    return subprocess.run(script, stdout=subprocess.PIPE, text=True, check=True, timeout=900).stdout.strip()


def mark(directory: Path, tag: str) -> None:
    """Note that the grid with this tag is of this run, also for the run after this one."""
    _used_tags.add(tag)
    (directory / "tag").write_text(tag)


def remove(run: str) -> None:
    """Remove every container, sandbox, network and directory of a run; nodes first, or they start new sandboxes."""
    directory = _TEMPORARY / f"{_PREFIX}{run}"
    nodes = containers(f"{TEST}={run}")
    tags = {row["Config"]["Labels"].get(GRID, "") for row in inspect(*nodes)} | _tags(directory)
    remove_containers(nodes)
    for tag in tags - {""}:
        remove_containers(containers(f"{GRID}={tag}"))
    for network in docker("network", "ls", "-q", "--filter", f"label={TEST}={run}").split():
        docker("network", "rm", network)
    for daemon in directory.glob(f"*/{OWN_ENGINE}"):
        dockerd.end(daemon)
    remove_directory(directory)


def remove_leftovers() -> None:
    """Remove what runs left behind whose process is gone; a reused grid is nobody's leftover."""
    rows = inspect(*containers(TEST))
    runs = {row["Config"]["Labels"][TEST] for row in rows}
    runs |= set(docker("network", "ls", "--filter", f"label={TEST}", "--format", f'{{{{.Label "{TEST}"}}}}').split())
    runs |= {path.name.removeprefix(_PREFIX) for path in _TEMPORARY.glob(f"{_PREFIX}*")}
    for run in runs:
        if run.isdigit() and not Path(f"/proc/{run}").exists():
            remove(run)


def left() -> list[str]:
    """What of this run is still there: names of containers, networks and directories."""
    labels = [f"{TEST}={RUN}", *(f"{GRID}={tag}" for tag in _used_tags)]
    found = [row["Name"] for label in labels for row in inspect(*containers(label))]
    found += docker("network", "ls", "--filter", f"label={TEST}={RUN}", "--format", "{{.Name}}").split()
    return sorted({*found, *map(str, DIRECTORY.glob("*"))})


def _tags(directory: Path) -> set[str]:
    """The tags of the grids whose directories are there: their sandboxes may outlive their nodes."""
    return {path.read_text() for path in directory.glob("*/tag")}


def remove_containers(ids: list[str]) -> None:
    if ids:
        docker("rm", "-f", "-v", *ids, check=False)


def remove_directory(directory: Path) -> None:
    """Remove it; what belongs to the nodes' root, by a container when we are not root."""
    shutil.rmtree(directory, ignore_errors=True)
    if directory.exists():
        mount = ["-v", f"{directory}:/gone", "--entrypoint", "/usr/bin/find"]
        docker("run", "--rm", *mount, image(), "/gone", "-mindepth", "1", "-delete")
        with contextlib.suppress(FileNotFoundError):
            directory.rmdir()
