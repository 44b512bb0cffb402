"""What this node is called: as it is told, else as its host, else by a name made up once and kept on disk."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import structlog

from gridnode.files import write_durably
from gridnode.model import NodeId, NodeRecord
from gridnode.naming import MAX_NAME, gives_way, is_name, made_name, says_nothing

__all__ = ["OwnName"]

log = structlog.get_logger()

MAX_CHANGES: Final = 4
"""Times that others can make this node take another name in one life."""


class OwnName:
    """path: where a name that was made up is kept. given: the one it is told, which it keeps; empty: none."""

    def __init__(self, path: Path, node: NodeId, given: str, hostname: str) -> None:
        self._path = path
        self._node = node
        self._is_given = bool(given)
        self._changes = 0
        self.text = given or self._kept() or hostname
        if not given and says_nothing(self.text):
            self.text = made_name(node)
            self._keep()

    def compare(self, own: NodeRecord, others: Sequence[NodeRecord]) -> str:
        """The name from now on: another one when a node that was there before has the same. Writes to disk then."""
        if self._is_given or self._changes >= MAX_CHANGES or not any(gives_way(own, other) for other in others):
            return self.text
        self._changes += 1
        before, self.text = self.text, made_name(self._node, {other.name for other in others})
        log.warning("another node has this name", was=before, now=self.text, hint="GRIDNODE_NAME gives it one for good")
        self._keep()
        return self.text

    def _kept(self) -> str:
        try:
            with self._path.open() as file:
                text = file.read(MAX_NAME + 2).strip()
        except FileNotFoundError:
            return ""
        except (OSError, ValueError) as exc:
            log.warning("the name of this node cannot be read", path=str(self._path), error=str(exc))
            return ""
        return text if is_name(text) else ""

    def _keep(self) -> None:
        try:
            write_durably(self._path, f"{self.text}\n".encode())
        except OSError as exc:
            log.warning("the name of this node cannot be kept on disk", path=str(self._path), error=str(exc))
