"""Releases on this node's disk: one read-only directory each, and a note of which one serves."""

from collections.abc import Set
from pathlib import Path

import msgspec
import structlog

from gridnode.errors import SyncError
from gridnode.files import write_durably
from gridnode.model import Release, Root
from gridnode.sync import ChunkStore
from gridnode.sync.materialise import materialise, remove

log = structlog.get_logger()


class FilesDisk:
    """A TreeDisk. directory: holds files/<root>/."""

    def __init__(self, store: ChunkStore, directory: Path) -> None:
        self._store = store
        self._trees = directory / "files"
        self._trees.mkdir(mode=0o755, parents=True, exist_ok=True)

    def has(self, root: Root) -> bool:
        return self.path(root).is_dir()

    def path(self, root: Root) -> Path:
        return self._trees / root

    def lay_out(self, root: Root) -> Path:
        return materialise(root, self._store, self._trees)

    def keep(self, roots: Set[Root]) -> None:
        for path in self._trees.iterdir():
            if path.name not in roots:
                remove(path)


class ReleaseDisk:
    """directory: holds releases/<root>/ and active.release."""

    def __init__(self, store: ChunkStore, directory: Path) -> None:
        self._store = store
        self._releases = directory / "releases"
        self._active = directory / "active.release"
        self._releases.mkdir(mode=0o755, parents=True, exist_ok=True)

    def materialise(self, release: Release) -> Path:
        """The release's directory, built if need be; raises SyncError."""
        return materialise(release.root, self._store, self._releases)

    def keep(self, roots: Set[Root]) -> None:
        """Remove the directories of all releases but these."""
        for path in self._releases.iterdir():
            if path.name not in roots:
                remove(path)

    def save_active(self, release: Release) -> None:
        """Remember, durably, that this one serves; raises SyncError when the disk refuses."""
        try:
            write_durably(self._active, msgspec.msgpack.encode(release))
        except OSError as exc:
            raise SyncError(f"{self._active}: {exc.strerror}") from exc

    def load_active(self) -> Release | None:
        """The release that served last, or None."""
        try:
            return msgspec.msgpack.decode(self._active.read_bytes(), type=Release)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.MsgspecError) as exc:
            log.warning("cannot read the last active release", path=str(self._active), error=str(exc))
            return None
