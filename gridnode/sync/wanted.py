"""What the ledger wants on this node: brought one after the other, each with a status that can be waited for."""

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from contextlib import suppress
from typing import Any, Generic, TypeVar

import structlog

from gridnode.errors import GridError, LedgerError, SyncError
from gridnode.ledger import Document
from gridnode.model import ImageState, ImageStatus

__all__ = ["Wanted"]

log = structlog.get_logger()

T = TypeVar("T")

_RETRY = 5.0
_LOOK_EVERY = 60.0
"""Seconds after which it is looked again whether something went that was there, or can go."""
_MAX_ERROR = 2000


class Wanted(Generic[T]):
    """kind: what one is called; read: it from its document, None for one that is removed; status_of: at its start.

    bring: has one here, and says how far it is; tidy: removes others, and says whether some stay for now.
    """

    def __init__(
        self,
        kind: str,
        read: Callable[[Document], T | None],
        status_of: Callable[[str, T], ImageStatus],
        bring: Callable[[str, T], Coroutine[Any, Any, None]],
        tidy: Callable[[], Coroutine[Any, Any, bool]],
    ) -> None:
        self.by_name: dict[str, T] = {}
        self.status: dict[str, ImageStatus] = {}
        self._kind = kind
        self._read = read
        self._status_of = status_of
        self._bring = bring
        self._tidy = tidy
        self._news = asyncio.Event()
        self._told = asyncio.Event()
        self._under_way: tuple[str, T, asyncio.Task[None]] | None = None

    def follow(self, documents: Iterable[Document]) -> bool:
        """What the ledger holds now; whether that is something else than before."""
        wanted = {}
        for document in documents:
            try:
                one = self._read(document)
            except LedgerError as exc:
                log.error(
                    "a document that this version cannot read", kind=self._kind, name=document.name, error=exc.message
                )
                continue
            if one:
                wanted[document.name] = one
        if wanted == self.by_name:
            return False
        self.by_name = wanted
        for name, one in wanted.items():
            self.expect(name, one)
        if self._under_way and wanted.get(self._under_way[0]) != self._under_way[1]:
            self._under_way[2].cancel()
        self._news.set()
        return True

    def expect(self, name: str, one: T) -> None:
        """Show its status at the start, unless that of this very one is known."""
        status = self._status_of(name, one)
        if status.state is not ImageState.WAITING or name not in self.status or self.status[name].id != status.id:
            self.tell(status)

    def wake(self) -> None:
        """Look again at once."""
        self._news.set()

    def tell(self, status: ImageStatus) -> None:
        """Say how far one is, and wake those who wait."""
        self.status[status.name] = status
        self._stir()

    def drop(self, name: str) -> None:
        """There is nothing to say of it any more."""
        if self.status.pop(name, None):
            self._stir()

    async def until(self, lacking: Callable[[], list[str]], patience: float) -> list[str]:
        """Wait until nothing is lacking; what is when patience ends. SyncError when one of them did not arrive."""
        names: list[str] = []
        with suppress(TimeoutError):
            async with asyncio.timeout(patience):
                while names := lacking():
                    for name in names:
                        self._raise_failed(name)
                    await self._told.wait()
        return names

    async def run(self) -> None:
        """Until cancelled: bring what is wanted, one after the other, and remove what is not."""
        try:
            while True:
                self._news.clear()
                failed = [name for name, one in list(self.by_name.items()) if not await self._try(name, one)]
                waiting = await self._tidy()
                with suppress(TimeoutError):
                    async with asyncio.timeout(_RETRY if failed or waiting else _LOOK_EVERY):
                        await self._news.wait()
        finally:
            if self._under_way:
                self._under_way[2].cancel()

    def _raise_failed(self, name: str) -> None:
        status = self.status[name]
        if status.state is ImageState.FAILED:
            raise SyncError(f"{self._kind} {name}: did not arrive: {status.error}")

    async def _try(self, name: str, one: T) -> bool:
        """Whether it is there, or nobody wants it any more."""
        if self.by_name.get(name) != one:
            return True
        job = asyncio.create_task(self._bring(name, one), name=self._kind)
        self._under_way = (name, one, job)
        await asyncio.wait({job})
        self._under_way = None
        if job.cancelled():
            return True
        error = job.exception()
        if error is None:
            return True
        if isinstance(error, GridError):
            said = f"{error.message} ({error.hint})" if error.hint else error.message
            log.warning("not there yet", kind=self._kind, name=name, error=said)
        else:
            said = f"internal error: {type(error).__name__}: see the node's log"
            log.error("not there yet", kind=self._kind, name=name, exc_info=error)
        begun = self._status_of(name, one)
        self.tell(ImageStatus(name, begun.id, ImageState.FAILED, 0, begun.total, said[:_MAX_ERROR]))
        return False

    def _stir(self) -> None:
        told, self._told = self._told, asyncio.Event()
        told.set()
