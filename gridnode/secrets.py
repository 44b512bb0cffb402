"""The grid's secrets on one node: opened in memory, and as files in memory for the instances whose task names them."""

import contextlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import structlog

from gridnode.errors import LedgerError, SandboxError
from gridnode.identity import open_secret
from gridnode.ledger import Document, open_sealed

log = structlog.get_logger()

_MOUNTINFO = Path("/proc/self/mountinfo")
_IN_MEMORY = {"tmpfs", "ramfs"}


class Secrets:
    """owner: uid and gid of every sandbox. Values never reach a log, an error or an environment."""

    def __init__(self, network_key: bytes, owner: tuple[int, int]) -> None:
        self._network_key = network_key
        self._owner = owner
        self._documents: dict[str, Document] = {}
        self._values: dict[str, bytes] = {}
        self._mounts: dict[Path, tuple[str, ...]] = {}
        self._looked = False

    @property
    def names(self) -> frozenset[str]:
        """Of the secrets the grid has."""
        return frozenset(self._values)

    def follow(self, documents: Iterable[Document]) -> None:
        """What the ledger holds now: instances see a change without a restart."""
        changed = set()
        for document in documents:
            if self._documents.get(document.name) != document:
                self._documents[document.name] = document
                self._open(document)
                changed.add(document.name)
        for directory, names in list(self._mounts.items()) if changed else ():
            if changed.intersection(names):
                self._rewrite(directory, names)

    def mount(self, directory: Path, names: tuple[str, ...]) -> None:
        """Keep these secrets as files in `directory`, until it is gone; SandboxError when they cannot be written."""
        self._look_once(directory.parent)
        lacking = sorted(set(names) - self.names)
        if lacking:
            log.warning("a task wants secrets that the grid does not have", names=lacking)
        try:
            directory.mkdir(mode=0o755, parents=True, exist_ok=True)
            self._write(directory, names)
        except OSError as exc:
            raise SandboxError(f"cannot write secrets to {directory}: {exc.strerror or exc}") from exc
        self._mounts = {path: these for path, these in self._mounts.items() if path.is_dir()} | {directory: names}

    def _open(self, document: Document) -> None:
        name = document.name
        self._values.pop(name, None)
        try:
            sealed = open_sealed(document)
        except LedgerError as exc:
            log.error("a secret cannot be read by this version", name=name, error=exc.message)
            return
        if sealed is None:
            return
        value = open_secret(self._network_key, name, sealed.box)
        if value is None:
            log.error(
                "a secret is sealed with another key than this grid's", name=name, hint=f"gridctl secret set {name}"
            )
        else:
            self._values[name] = value

    def _rewrite(self, directory: Path, names: tuple[str, ...]) -> None:
        try:
            self._write(directory, names)
        except FileNotFoundError:  # its instance has ended
            del self._mounts[directory]
        except OSError as exc:
            log.error("cannot rotate secrets", path=str(directory), error=exc.strerror or str(exc))

    def _write(self, directory: Path, names: tuple[str, ...]) -> None:
        write(directory, {name: self._values[name] for name in names if name in self._values}, self._owner)

    def _look_once(self, directory: Path) -> None:
        if not self._looked:
            self._looked = True
            if not is_in_memory(directory, _MOUNTINFO.read_text()):
                hint = "mount a tmpfs at GRIDNODE_RUN_DIR"
                log.warning("secrets are written to a disk, not to memory", path=str(directory), hint=hint)


def write(directory: Path, values: Mapping[str, bytes], owner: tuple[int, int]) -> None:
    """Make `directory` hold exactly these files, 0400 and the owner's, each replaced whole; raises OSError."""
    for path in directory.iterdir():
        if path.name not in values:
            path.unlink()
    for name, value in values.items():
        path = directory / name
        if not path.exists() or path.read_bytes() != value:
            _replace(path, value, owner)


def _replace(path: Path, value: bytes, owner: tuple[int, int]) -> None:
    aside = path.with_name(f".{path.name}.new")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o400)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(value)
            if os.geteuid() == 0:
                os.fchown(file.fileno(), *owner)
        os.replace(aside, path)
    except OSError:
        with contextlib.suppress(OSError):
            aside.unlink()
        raise


def is_in_memory(directory: Path, mountinfo: str) -> bool:
    """Whether the file system of `directory` is one that never reaches a disk. mountinfo: /proc/self/mountinfo's."""
    kinds: dict[str, str] = {}
    for line in mountinfo.splitlines():
        fields, _, source = line.partition(" - ")
        if len(fields.split()) > 4 and source:
            kinds[fields.split()[4].replace("\\040", " ")] = source.split()[0]
    above = (str(path) for path in (directory, *directory.parents))
    return next((kinds[path] in _IN_MEMORY for path in above if path in kinds), False)
