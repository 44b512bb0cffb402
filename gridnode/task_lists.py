"""What nodes serve, by digest: the nodes of one release serve the same tasks, so the list is told once and shared."""

import hashlib
from collections.abc import Collection, Iterable

from gridnode.errors import BodyInvalid
from gridnode.model import TaskName

__all__ = ["TaskLists", "digest_of"]

_MOST = 1 << 20
"""Characters of all lists that peers told."""


def digest_of(tasks: Collection[TaskName]) -> str:
    """32 hex digits of the names in their order, nothing for none."""
    return hashlib.sha256("\n".join(tasks).encode()).hexdigest()[:32] if tasks else ""


class TaskLists:
    """The lists that are known. The ones that peers told are bounded: past it those of no use go, then the oldest."""

    def __init__(self) -> None:
        self._lists: dict[str, tuple[TaskName, ...]] = {"": ()}

    def get(self, digest: str) -> tuple[TaskName, ...] | None:
        return self._lists.get(digest)

    def add(self, tasks: tuple[TaskName, ...]) -> str:
        """Keep one of our own; its digest."""
        digest = digest_of(tasks)
        self._lists.setdefault(digest, tasks)
        return digest

    def take(self, digest: str, tasks: tuple[TaskName, ...]) -> None:
        """Keep one that a peer told; BodyInvalid when it is not what was asked for."""
        if digest_of(tasks) != digest:
            raise BodyInvalid("a list of tasks that is not the one asked for")
        self._lists[digest] = tasks

    def keep(self, wanted: Iterable[str]) -> None:
        """Forget those that no record names any more."""
        kept = {"", *wanted}
        self._lists = {digest: tasks for digest, tasks in self._lists.items() if digest in kept}
        while sum(len(name) for tasks in self._lists.values() for name in tasks) > _MOST and len(self._lists) > 2:
            del self._lists[next(digest for digest in self._lists if digest)]
