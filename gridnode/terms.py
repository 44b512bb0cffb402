"""What the grid's releases say of their tasks that callers have to know: timeouts, and which may be run twice."""

from gridnode.model import Release, TaskName, TaskSpec

_REMEMBERED = 8


class Terms:
    """default: seconds for a task whose release says nothing."""

    def __init__(self, default: float) -> None:
        self._default = default
        self._newest: dict[str, TaskSpec] = {}
        self._idempotent: dict[int, frozenset[str]] = {}

    def follow(self, release: Release) -> None:
        """The grid's release from now on; what those before it said is remembered for nodes that serve them still."""
        self._newest = {task.name: task for task in release.tasks}
        self._idempotent[release.sequence] = frozenset(task.name for task in release.tasks if task.idempotent)
        while len(self._idempotent) > _REMEMBERED:
            del self._idempotent[min(self._idempotent)]

    def timeout(self, task: TaskName) -> float:
        """Seconds a call of this task may take when its caller does not say."""
        spec = self._newest.get(task) or self._newest.get(_file(task))
        return spec.timeout if spec else self._default

    def is_idempotent(self, task: TaskName, sequence: int) -> bool:
        """Whether running a call of it twice does no harm, by the release of this sequence."""
        names = self._idempotent.get(sequence, frozenset())
        return task in names or _file(task) in names


def _file(task: str) -> str:
    """The name of the task file that has this function."""
    return task.rpartition(".")[0]
