"""A grid of one node on this machine's container engine, for `gridctl dev` where there is no Gridfile."""

import asyncio
import contextlib
import hashlib
import shutil
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

from gridctl.client import Grid
from gridctl.new import card_text, load_gridfile, new_gridfile, write_private
from gridnode.errors import GridError, LinkClosed, LinkError, UsageError
from gridnode.gridfile import Gridfile, parse_card, render_gridfile
from gridnode.model import Address

__all__ = ["DEFAULT_IMAGE", "LABEL", "PLACE", "DevGrid", "dev_grid"]

DEFAULT_IMAGE: Final = "gridcontrol/gridnode:latest"
LABEL: Final = "gridcontrol.dev"
"""Of the node's container: which project's it is."""
PLACE: Final = ".gridctl/dev"
"""Where the project keeps this grid's Gridfile; no release ever holds it."""
_GRID: Final = "gridcontrol.grid"
_SOCKET: Final = "/var/run/docker.sock"
# Paths of the engine's host, the same inside and out; short, for a socket's path has 107 bytes at most.
_STATE: Final = ("/var/lib", "/run")
_TIMEOUT: Final = 60.0
_PATIENCE: Final = 30.0
_AGAIN: Final = 0.05


@asynccontextmanager
async def dev_grid(directory: Path, image: str, keep: bool) -> AsyncIterator["DevGrid"]:
    """The grid of this project, running while the block does, and after it if it is kept."""
    grid = DevGrid(directory, image)
    try:
        await asyncio.to_thread(grid.start)
        await grid.wait()
        yield grid
    finally:
        if not keep:
            await asyncio.shield(asyncio.to_thread(grid.remove))


class DevGrid:
    """directory: the project's, resolved."""

    def __init__(self, directory: Path, image: str) -> None:
        self._image = image
        self._mark = hashlib.sha256(str(directory).encode(errors="surrogateescape")).hexdigest()[:8]
        self._place = directory / PLACE
        self._name = f"gridcontrol-dev-{self._mark}"

    @property
    def path(self) -> Path:
        """Of its Gridfile."""
        return self._place / "Gridfile"

    @property
    def gridfile(self) -> Gridfile:
        return load_gridfile(self.path)

    def start(self) -> None:
        """Start the node, or go on with the one that was kept; UsageError when there is no engine or no image."""
        if not self._runs():
            self.remove()
            self._create()
        port = _docker("port", self._name, "7400/tcp").split()[0].rpartition(":")[2]
        text = render_gridfile(replace(self.gridfile, seeds=(Address("127.0.0.1", int(port)),)))
        write_private(self.path, text, replacing=True)

    async def wait(self) -> None:
        """Until the node answers; LinkClosed, with the end of its log, when it does not."""
        give_up = time.monotonic() + _PATIENCE
        while True:
            try:
                async with Grid.connect(self.gridfile):
                    return
            except LinkError as exc:
                if time.monotonic() > give_up or not await asyncio.to_thread(self._runs):
                    log = await asyncio.to_thread(_docker, "logs", "--tail", "20", self._name)
                    raise LinkClosed(f"the node did not come up: {exc.message}", trace=log) from exc
            await asyncio.sleep(_AGAIN)

    def remove(self) -> None:
        """Remove the node, its sandboxes and all that it kept; fine when there is none."""
        _remove(f"{LABEL}={self._mark}")
        with contextlib.suppress(GridError, OSError):
            _remove(f"{_GRID}={self._tag()}")
        self._remove_state()
        shutil.rmtree(self._place, ignore_errors=True)
        with contextlib.suppress(OSError):  # something else of gridctl's is in there
            self._place.parent.rmdir()

    def _runs(self) -> bool:
        """Whether a node that was kept is there, of this image, with its Gridfile."""
        wanted = ("image", "inspect", "--format", "{{.Id}}", self._image)
        id_ = _docker(*wanted, hint="`scripts/image` makes it, `docker load` brings it; --image names another").strip()
        listed = _docker("ps", "-q", "--no-trunc", "--filter", f"label={LABEL}={self._mark}").split()
        return self.path.exists() and any(
            _docker("inspect", "--format", "{{.Image}}", one, check=False).strip() == id_ for one in listed
        )

    def _create(self) -> None:
        self._place.mkdir(mode=0o700, parents=True, exist_ok=True)
        new_gridfile(self._place, "dev", servers=["127.0.0.1"], force=True)
        card = self._place / "Card"
        write_private(card, card_text(self.gridfile, "dev"), replacing=True)
        state, run = (f"{top}/gridcontrol-dev/{self._mark}" for top in _STATE)
        mounts = [f"{_SOCKET}:{_SOCKET}", f"{card}:/etc/gridnode/Card:ro", f"{state}:{state}", f"{run}:{run}"]
        settings = {"DATA_DIR": state, "RUN_DIR": run, "MDNS": "false", "NAME": "dev"}
        labels = {LABEL: self._mark, _GRID: self._tag()}
        _docker(
            *("run", "--detach", "--pull", "never", "--name", self._name, "--publish", "127.0.0.1::7400"),
            *(part for name, value in labels.items() for part in ("--label", f"{name}={value}")),
            *(part for mount in mounts for part in ("--volume", mount)),
            *(part for name, value in settings.items() for part in ("--env", f"GRIDNODE_{name}={value}")),
            self._image,
        )

    def _tag(self) -> str:
        """Of this grid: every sandbox carries it."""
        card = self._place / "Card"
        return parse_card(card.read_text(), str(card)).tag

    def _remove_state(self) -> None:
        """It belongs to the node's root, and lies on the engine's host: a container removes it."""
        mounts = [part for top in _STATE for part in ("--volume", f"{top}:/host{top}")]
        gone = [f"/host{top}/gridcontrol-dev/{self._mark}" for top in _STATE]
        remove = ("run", "--rm", "--network", "none", "--pull", "never", "--entrypoint", "rm")
        _docker(*remove, *mounts, self._image, "-rf", *gone, check=False)


def _remove(label: str) -> None:
    found = _docker("ps", "-aq", "--filter", f"label={label}", check=False).split()
    if found:
        _docker("rm", "--force", "--volumes", *found, check=False)


def _docker(*argv: str, check: bool = True, hint: str = "") -> str:
    """Output of one docker command; UsageError when it fails."""
    try:
        ended = subprocess.run(["docker", *argv], capture_output=True, text=True, timeout=_TIMEOUT, check=False)
    except FileNotFoundError as exc:
        help_ = "install docker to have a grid on this machine, or make a Gridfile for one elsewhere: `gridctl new`"
        raise UsageError("there is no docker command on this machine", hint=help_) from exc
    except subprocess.TimeoutExpired as exc:
        raise UsageError(f"the container engine does not answer within {_TIMEOUT:g} s") from exc
    if check and ended.returncode:
        raise UsageError(f"docker {argv[0]} failed: {ended.stderr.strip()[-500:]}", hint=hint or "is docker running?")
    return ended.stdout + (ended.stderr if argv[0] == "logs" else "")
