"""What nodes serve, by digest: the nodes of one release serve the same tasks, so the list is told once and shared."""

import hashlib
from collections.abc import Collection, Iterable

from gridnode.errors import BodyInvalid
from gridnode.model import TaskName

__all__ = ["TaskLists", "digest_of"]

_MOST = 1 << 22
"""Characters of all lists that peers told, four of the longest."""


def digest_of(tasks: Collection[TaskName]) -> str:
    """32 hex digits of the names in their order, nothing for none."""
    return hashlib.sha256("\n".join(tasks).encode()).hexdigest()[:32] if tasks else ""


class TaskLists:
    """Our own list, and those that peers told: these are bounded, the oldest go first."""

    def __init__(self) -> None:
        self._own: tuple[str, tuple[TaskName, ...]] = ("", ())
        self._told: dict[str, tuple[TaskName, ...]] = {}

    def get(self, digest: str) -> tuple[TaskName, ...] | None:
        if not digest:
            return ()
        return self._own[1] if digest == self._own[0] else self._told.get(digest)

    def serve(self, tasks: tuple[TaskName, ...]) -> None:
        """This is our own from now on; the one before may still be a peer's."""
        self._told[self._own[0]] = self._own[1]
        self._own = (digest_of(tasks), tasks)

    def take(self, digest: str, tasks: tuple[TaskName, ...]) -> None:
        """Keep one that a peer told; BodyInvalid when it is not what was asked for."""
        if digest_of(tasks) != digest:
            raise BodyInvalid("a list of tasks that is not the one asked for")
        self._told[digest] = tasks
        size = sum(_size(told) for told in self._told.values())
        while size > _MOST and len(self._told) > 1:
            size -= _size(self._told.pop(next(iter(self._told))))

    def keep(self, wanted: Iterable[str]) -> None:
        """Forget those that no record names any more."""
        kept = set(wanted)
        self._told = {digest: tasks for digest, tasks in self._told.items() if digest in kept}


def _size(tasks: tuple[TaskName, ...]) -> int:
    return sum(map(len, tasks))
