"""`gridctl image`: container images for tasks, shipped to every node as chunks; no registry anywhere."""

import asyncio
import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import click

from gridctl.client import Grid
from gridctl.engine_image import save
from gridctl.image_arrival import Node, ask_all
from gridctl.image_push import as_fields, error_text, node_rows, push, report, verdict
from gridctl.options import (
    Settings,
    confirm,
    examples,
    gridfile_option,
    json_option,
    pass_settings,
    timeout_option,
    yes_option,
)
from gridctl.render import Progress, print_json, size, span, table
from gridctl.saved_image import MAX_SIZE, SavedImage, open_saved, scratch
from gridnode.errors import UsageError
from gridnode.gridfile import Gridfile
from gridnode.image_document import canonical
from gridnode.model import Image

__all__ = ["image_command"]

_GB = 1000**3
_HEAD = ("IMAGE", "ID", "SIZE", "PUSHED", "BY", "NODE", "STATE")


@click.group("image", epilog=examples("gridctl image push myapp:1", "gridctl image ls"))
def image_command() -> None:
    """Ship container images to every node: only what changed travels, and no registry is needed.

    A task runs in one with `image = "NAME"` in grid.toml.
    """


@image_command.command(
    "push", epilog=examples("gridctl image push myapp:1", "gridctl image push myapp.tar.gz --name myapp:2")
)
@click.argument("image")
@click.option("--name", metavar="NAME", help="What it is called on the nodes; else as here.")
@click.option(
    "--max-size",
    type=click.FloatRange(min=0, min_open=True),
    default=MAX_SIZE / _GB,
    show_default=True,
    metavar="GB",
    help="Refuse what is larger, unpacked.",
)
@timeout_option(1800.0)
@json_option
@gridfile_option
@pass_settings
def push_command(settings: Settings, image: str, name: str | None, max_size: float, timeout: float) -> int:
    """Ship IMAGE to every node, and wait until each one has it.

    IMAGE is an image of this machine's container engine, or a file made by `docker save`, or an OCI layout in a tar.
    """
    progress = Progress()
    gridfile = settings.gridfile()
    named = _name(name) if name else None
    with _saved(image, int(max_size * _GB), progress) as saved:
        chosen = named or _name_of(image, saved)
        progress.line(f"read {chosen} {saved.id[:12]}: {saved.layers} layers, {size(saved.size)}")
        done = asyncio.run(push(gridfile, chosen, saved, timeout, progress))
    report(done, progress)
    if settings.as_json:
        print_json(as_fields(done))
    return verdict(done.arrival)


@image_command.command("ls", epilog=examples("gridctl image ls", "gridctl image ls --json | jq '.images[].name'"))
@json_option
@gridfile_option
@pass_settings
def ls_command(settings: Settings) -> None:
    """List the images that the grid ships, and how far each node is with them."""
    images, nodes = asyncio.run(_listing(settings.gridfile()))
    if settings.as_json:
        print_json({"images": [_image_fields(name, image, nodes) for name, image in sorted(images.items())]})
        return
    now = time.time()
    for line in table(_HEAD, [row for name, image in sorted(images.items()) for row in _rows(name, image, nodes, now)]):
        click.echo(line)


@image_command.command("rm", epilog=examples("gridctl image rm myapp:1", "gridctl image rm myapp:1 --yes"))
@click.argument("name")
@yes_option
@json_option
@gridfile_option
@pass_settings
def rm_command(settings: Settings, name: str) -> None:
    """Take the image NAME from the grid: nodes remove it once no task uses it, if they have it from the grid."""
    name = _name(name)
    users = asyncio.run(_users(settings.gridfile(), name))
    if users:
        confirm(f"{', '.join(users)} use {name}.", settings)
    asyncio.run(_remove(settings.gridfile(), name))
    if settings.as_json:
        print_json({"name": name})
    else:
        click.echo(f"removed {name}", err=True)


# -- push -----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _saved(image: str, limit: int, progress: Progress) -> Iterator[SavedImage]:
    """From the file of this name, else from this machine's engine."""
    path = Path(image)
    with _archive(path) if path.is_file() else scratch() as file:
        if not path.is_file():
            save(image, file, limit, lambda done, total: progress.bar("saving", done, total))
        with open_saved(file, limit, lambda done, total: progress.bar("reading", done, total)) as saved:
            yield saved


def _archive(path: Path) -> IO[bytes]:
    try:
        return path.open("rb")
    except OSError as exc:
        raise UsageError(f"cannot read {path}: {exc.strerror or exc}") from exc


def _name(reference: str) -> str:
    name = canonical(reference)
    if name is None:
        raise UsageError(
            f"{reference!r:.80} cannot be an image's name", hint="--name NAME gives it one, as myapp:1, in lower case"
        )
    return name


def _name_of(image: str, saved: SavedImage) -> str:
    """As it is called here; as the file says, where it is one and says one name."""
    if not Path(image).is_file():
        return _name(image)
    if len(saved.tags) != 1:
        raise UsageError(f"{image} gives its image {len(saved.tags)} names", hint="--name NAME chooses one")
    return _name(saved.tags[0])


# -- ls and rm ------------------------------------------------------------------------------------------------------


async def _listing(gridfile: Gridfile) -> tuple[dict[str, Image | None], list[Node]]:
    """Images by name, None for those that go but are not gone everywhere."""
    async with Grid.connect(gridfile) as grid:
        images = {name: image for name, (image, _) in (await grid.images()).items()}
        nodes = await ask_all(grid)
    seen = {status.name for node in nodes for status in node.images}
    return {name: image for name, image in images.items() if image or name in seen}, nodes


def _rows(name: str, image: Image | None, nodes: list[Node], now: float) -> Iterator[tuple[str, ...]]:
    """One line for every node."""
    about: tuple[str, ...] = (name, "-", "-", "-", "-")
    if image:
        about = (name, image.id[:12], size(image.size), f"{span(now - image.created)} ago", image.by)
    return node_rows(name, about, nodes)


def _image_fields(name: str, image: Image | None, nodes: list[Node]) -> dict[str, Any]:
    """size, have, total: bytes; created: unix seconds."""
    rows = []
    for node in nodes:
        status = node.status(name)
        rows.append(
            {
                "id": node.id,
                "name": node.name,
                "state": status.state.value if status else None,
                "have": status.have if status else 0,
                "total": status.total if status else 0,
                "error": node.error or error_text(status),
            }
        )
    about = {"id": image.id, "size": image.size, "created": image.created, "by": image.by} if image else None
    return {"name": name, "image": about, "nodes": rows}


async def _users(gridfile: Gridfile, name: str) -> list[str]:
    """The task files of the current release that run in it; UsageError when the grid does not ship it."""
    async with Grid.connect(gridfile) as grid:
        image, _ = (await grid.images()).get(name, (None, 0))
        release = await grid.release()
    if image is None:
        raise UsageError(f"the grid ships no image {name}", hint="`gridctl image ls` shows those it ships")
    return sorted(task.name for task in (release.tasks if release else ()) if canonical(task.image) == name)


async def _remove(gridfile: Gridfile, name: str) -> None:
    async with Grid.connect(gridfile) as grid:
        _, sequence = (await grid.images()).get(name, (None, 0))
        await grid.put_image(name, None, sequence + 1)
