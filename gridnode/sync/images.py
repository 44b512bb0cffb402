"""The grid's container images on this node: fetched as chunks, loaded into the engine, removed with their document."""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

import msgspec
import structlog

from gridnode import messages
from gridnode.errors import GridError, SyncError
from gridnode.image_document import canonical, open_image
from gridnode.ledger import Document
from gridnode.model import Image, ImageState, ImageStatus, Root
from gridnode.sync import ChunkStore
from gridnode.sync.image import archive
from gridnode.sync.transfer import Fetch, Progress
from gridnode.sync.wanted import Wanted
from gridnode.wire import Frame

log = structlog.get_logger()

_MAX_ERROR = 2000


class ImageEngine(Protocol):
    """Where sandboxes find images. Every method may raise SandboxError. name: canonical."""

    async def holds(self, name: str, image: Image) -> bool:
        """Whether it has the image under this name, which is given to it where only that is lacking."""

    async def load(self, parts: Iterator[bytes]) -> None:
        """Take an archive, piece by piece, in a thread; what `parts` raises comes through."""

    async def remove(self, name: str, image: Image) -> bool:
        """Take the name from it, and it away when it has no other; False while a container uses it."""


class ImageLimits(NamedTuple):
    """max_size: bytes of one image; reserve: bytes that stay free on the disk; patience: seconds a release waits."""

    max_size: int = 32 * 1024**3
    reserve: int = 1024**3
    patience: float = 600.0


class Came(msgspec.Struct, frozen=True):
    """An image that this node loaded, by its name then."""

    name: str
    image: Image


_decode_came = msgspec.msgpack.Decoder(list[Came]).decode


class Images:
    """note: the file that says what came this way; write: replaces it durably; free: bytes free on the disk.

    used: names of images that releases of this node run; on_change: what is held may be less now.
    """

    def __init__(
        self,
        engine: ImageEngine,
        store: ChunkStore,
        fetch: Callable[[Progress], Fetch],
        note: Path,
        write: Callable[[Path, bytes], None],
        free: Callable[[], int],
        used: Callable[[], set[str]],
        on_change: Callable[[], None],
        limits: ImageLimits = ImageLimits(),  # noqa: B008 - frozen
    ) -> None:
        self._engine = engine
        self._store = store
        self._fetch = fetch
        self._note = note
        self._write = write
        self._free = free
        self._used = used
        self._on_change = on_change
        self._limits = limits
        self._came = self._read_note()
        self._wanted = Wanted("image", open_image, _waiting, self._bring, self._remove_others)
        self.run = self._wanted.run

    # -- asked ------------------------------------------------------------------------------------------------------

    @property
    def roots(self) -> list[Root]:
        """Of the images' trees."""
        return [image.root for image in self._wanted.by_name.values()]

    async def here(self, frame: Frame) -> bytes:
        """Answers IMAGES: every image of the grid on this node, and those on their way out of it."""
        return messages.encode([status for _, status in sorted(self._wanted.status.items())])

    def follow(self, documents: Iterable[Document]) -> None:
        """What the ledger holds now."""
        if self._wanted.follow(documents):
            self._on_change()

    async def ready(self, references: Iterable[str]) -> None:
        """Wait until those that the grid ships are in the engine; SyncError when one fails, or patience ends."""
        wanted = self._wanted.by_name
        names = {canonical(reference) or "" for reference in references} & wanted.keys()
        for name in names:
            if self._is_present(name) and not await self._engine.holds(name, wanted[name]):
                self._wanted.tell(_waiting(name, wanted[name]))
                self._wanted.wake()
        lacking = await self._wanted.until(lambda: self._lacking(names), self._limits.patience)
        if lacking:
            raise SyncError(f"image {lacking[0]} is still on its way", hint="`gridctl image ls` shows how far it is")

    def _lacking(self, names: set[str]) -> list[str]:
        return [name for name in names & self._wanted.by_name.keys() if not self._is_present(name)]

    def _is_present(self, name: str) -> bool:
        status = self._wanted.status[name]
        return status.state is ImageState.PRESENT and status.id == self._wanted.by_name[name].id

    # -- doing ------------------------------------------------------------------------------------------------------

    async def _bring(self, name: str, image: Image) -> None:
        if not await self._engine.holds(name, image):
            self._check_room(image)
            self._tell(name, image, ImageState.FETCHING, 0, image.size)
            await self._fetch(lambda have, total: self._tell(name, image, ImageState.FETCHING, have, total)).run(
                image.root
            )
            self._tell(name, image, ImageState.LOADING, image.size, image.size)
            await self._keep({*self._came, Came(name, image)})
            await self._engine.load(archive(name, image, self._store.get))
            if not await self._engine.holds(name, image):
                raise SyncError(f"the engine made another image of {name} than {image.id[:12]}")
            log.info("image loaded", image=name, id=image.id, size=image.size)
        self._tell(name, image, ImageState.PRESENT, image.size, image.size)

    def _check_room(self, image: Image) -> None:
        if image.size > self._limits.max_size:
            raise SyncError(f"{image.size} bytes are more than this node takes, {self._limits.max_size}")
        free = self._free()
        if free < image.size + self._limits.reserve:
            needed = f"{image.size} bytes and {self._limits.reserve} in reserve"
            raise SyncError(f"{free} bytes are free on the disk, {needed} are needed", hint="free some space there")

    async def _remove_others(self) -> bool:
        """Whether some that came this way have to stay for now, since something uses them."""
        wanted = self._wanted.by_name
        for name in self._wanted.status.keys() - wanted.keys() - {one.name for one in self._came}:
            self._wanted.drop(name)
        others = [one for one in self._came if wanted.get(one.name) != one.image]
        for one in others:
            try:
                is_used = one.name in self._used() and one.name not in wanted
                if is_used or not await self._engine.remove(one.name, one.image):
                    self._tell_others(one, "in use")
                    continue
                await self._keep(self._came - {one})
                self._tell_others(one, None)
                log.info("image removed", image=one.name, id=one.image.id)
            except GridError as exc:
                log.warning("cannot remove an image", image=one.name, error=exc.message)
                self._tell_others(one, exc.message)
        return any(one in self._came for one in others)

    async def _keep(self, came: set[Came]) -> None:
        """Note what came this way, before it does and after it went."""
        ordered = sorted(came, key=lambda one: (one.name, one.image.id))
        try:
            await asyncio.to_thread(self._write, self._note, msgspec.msgpack.encode(ordered))
        except OSError as exc:
            raise SyncError(f"cannot write {self._note}: {exc.strerror or exc}") from exc
        self._came = came

    def _read_note(self) -> set[Came]:
        try:
            return set(_decode_came(self._note.read_bytes()))
        except FileNotFoundError:
            return set()
        except (OSError, msgspec.MsgspecError) as exc:
            log.warning("cannot read which images came from the grid", path=str(self._note), error=str(exc))
            return set()

    # -- telling ----------------------------------------------------------------------------------------------------

    def _tell(self, name: str, image: Image, state: ImageState, have: int = 0, total: int = 0) -> None:
        self._wanted.tell(ImageStatus(name, image.id, state, have, total))

    def _tell_others(self, one: Came, why: str | None) -> None:
        """Of an image that goes, unless another took its name; why: it has to stay, None when it is gone."""
        if one.name in self._wanted.by_name:
            return
        if why is None:
            self._wanted.drop(one.name)
        else:
            self._wanted.tell(ImageStatus(one.name, one.image.id, ImageState.REMOVING, error=why[:_MAX_ERROR]))


def _waiting(name: str, image: Image) -> ImageStatus:
    return ImageStatus(name, image.id, ImageState.WAITING)
