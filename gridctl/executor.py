"""A concurrent.futures.Executor whose functions are tasks of the grid."""

import concurrent.futures
import inspect
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path, PurePath, PurePosixPath
from typing import Any, NamedTuple

from gridctl.connecting import Gridfiles
from gridctl.results import DEFAULT_CONCURRENCY
from gridctl.sync_client import SyncGrid
from gridctl.tasks import TASKS_DIR, function_name
from gridctl.window import MAX_CONCURRENCY
from gridnode.errors import GridError, ProjectInvalid, UsageError

__all__ = ["GridExecutor", "task_of"]

_HINT = "a task is named after its file, as 'words', or its file and function, as 'words.longest'"


class _Waiting(NamedTuple):
    """A call that waits for its turn."""

    future: "concurrent.futures.Future[Any]"
    task: str
    argument: Any


class GridExecutor(concurrent.futures.Executor):
    """Runs tasks on the grid wherever a program takes an Executor.

    A function has to be one of the project that is deployed: give its task's name, or the function itself, imported
    from the project's tasks/. Code of the calling program is never sent. A task takes one JSON-like argument.

    >>> from gridctl import GridExecutor
    >>> with GridExecutor() as executor:
    ...     print(executor.submit("words.longest", "to be or not").result())
    ...     print(list(executor.map("echo", [1, 2, 3])))
    not
    [1, 2, 3]
    """

    def __init__(
        self,
        grid: SyncGrid | None = None,
        *,
        gridfile: Gridfiles = None,
        concurrency: int = DEFAULT_CONCURRENCY,
        timeout: float | None = None,
    ) -> None:
        """grid: a connection to share; else one of its own, by `gridfile`. timeout: of each call, seconds.

        concurrency: calls under way at once; more wait here.
        """
        if not 0 < concurrency <= MAX_CONCURRENCY:
            raise UsageError(f"a concurrency of {concurrency} makes no sense", hint=f"1 to {MAX_CONCURRENCY}")
        self._own = None if grid else SyncGrid(gridfile)
        self._grid = grid or self._own
        self._concurrency = concurrency
        self._timeout = timeout
        self._lock = threading.Lock()
        self._waiting: deque[_Waiting] = deque()
        self._free = concurrency
        self._idle = threading.Condition(self._lock)
        self._shut = False

    def submit(
        self, fn: str | Callable[..., Any], /, argument: Any = None, *args: Any, **kwargs: Any
    ) -> "concurrent.futures.Future[Any]":
        """A call of the task; its future is pending until the result is there, and cancelling it gives the call up."""
        if args or kwargs:
            raise UsageError(f"a task takes one argument, not {1 + len(args) + len(kwargs)}", hint="put them in a dict")
        waiting = _Waiting(concurrent.futures.Future(), task_of(fn), argument)
        with self._lock:
            if self._shut:
                raise RuntimeError("cannot schedule new futures after shutdown")
            self._waiting.append(waiting)
        self._next()
        return waiting.future

    def map(
        self,
        fn: str | Callable[..., Any],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
    ) -> Iterator[Any]:
        """Results in the order of the items, which are read as results are taken. With several iterables: lists.

        timeout: of each call, seconds. chunksize: of no effect; calls travel together anyway.
        """
        items = iterables[0] if len(iterables) == 1 else map(list, zip(*iterables, strict=False))
        if self._shut or self._grid is None:
            raise RuntimeError("cannot schedule new futures after shutdown")
        return self._grid.map(task_of(fn), items, concurrency=self._concurrency, timeout=timeout or self._timeout)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """No more calls; wait for those under way, and close a connection of one's own."""
        with self._idle:
            self._shut = True
            dropped = list(self._waiting) if cancel_futures else []
            if cancel_futures:
                self._waiting.clear()
            while wait and (self._waiting or self._free < self._concurrency):
                self._idle.wait()
        for waiting in dropped:
            waiting.future.cancel()
            waiting.future.set_running_or_notify_cancel()
        if self._own and wait:
            self._own.close()
        elif self._own:
            threading.Thread(target=self.shutdown, name="grid-executor").start()

    # -- inside -----------------------------------------------------------------------------------------------------

    def _next(self) -> None:
        """Start what waits, as far as there is room."""
        while True:
            with self._lock:
                if not self._free or not self._waiting:
                    return
                waiting = self._waiting.popleft()
                self._free -= 1
            self._start(waiting)

    def _start(self, waiting: _Waiting) -> None:
        future = waiting.future
        if self._grid is None or future.cancelled():
            future.set_running_or_notify_cancel()
            self._over()
            return
        try:
            call = self._grid.submit(waiting.task, waiting.argument, timeout=self._timeout)
        except GridError as exc:
            if future.set_running_or_notify_cancel():
                future.set_exception(exc)
            self._over()
            return
        call.add_done_callback(partial(self._ended, future))
        future.add_done_callback(lambda _: future.cancelled() and call.cancel())

    def _ended(self, future: "concurrent.futures.Future[Any]", call: "concurrent.futures.Future[Any]") -> None:
        if not call.cancelled() and future.set_running_or_notify_cancel():
            if error := call.exception():
                future.set_exception(error)
            else:
                future.set_result(call.result())
        self._over()
        self._next()

    def _over(self) -> None:
        with self._idle:
            self._free += 1
            if self._free == self._concurrency and not self._waiting:
                self._idle.notify_all()


def task_of(function: str | Callable[..., Any]) -> str:
    """The task's name; UsageError unless a callable is a function at the top of a file in a project's tasks/."""
    if isinstance(function, str):
        return function
    plain = inspect.unwrap(function)
    code = getattr(plain, "__code__", None)
    name = getattr(plain, "__qualname__", repr(function))
    if code is None or not name.isidentifier() or name.startswith("_"):
        raise UsageError(f"{name:.80} is no function that a task can be: it is not sent to the grid", hint=_HINT)
    place = PurePath(Path(code.co_filename).absolute())
    if TASKS_DIR not in place.parts[:-1]:
        raise UsageError(f"{name} of {place} is no task: only functions in a project's {TASKS_DIR}/ are", hint=_HINT)
    at = len(place.parts) - 2 - place.parts[-2::-1].index(TASKS_DIR)
    try:
        return function_name(PurePosixPath(*place.parts[at:]), name, Path(place).read_bytes())
    except (ProjectInvalid, OSError) as exc:
        raise UsageError(f"{name} of {place} is no task: {exc}", hint=_HINT) from exc
