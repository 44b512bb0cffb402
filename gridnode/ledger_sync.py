"""Keeps this node's ledger on disk and equal to its peers': digests on each new link, news at once to all."""

import asyncio
from collections.abc import Callable, Iterable
from pathlib import Path

import structlog

from gridnode.audit import check_pair
from gridnode.errors import GridError, LedgerError
from gridnode.files_document import FILES, open_files
from gridnode.image_document import IMAGE, open_image
from gridnode.ledger import (
    CURRENT,
    MAX_BATCH,
    ORDER,
    RELEASE,
    SECRET,
    Document,
    Ledger,
    decode_digest,
    decode_documents,
    encode_digest,
    encode_documents,
    open_order,
    open_release,
    open_sealed,
)
from gridnode.link.protocol import Link
from gridnode.model import NodeId, Order, Release
from gridnode.node_document import NODE, open_node_order
from gridnode.renewal import RENEWAL, open_renewal
from gridnode.revocation import REVOCATION, open_revocation
from gridnode.wire import Frame, Op

log = structlog.get_logger()

Tell = Callable[[Op, bytes, NodeId | None], None]
"""Send an event to every linked peer but one."""
_CHECKS: dict[str, Callable[[Document], object]] = {
    RELEASE: open_release,
    ORDER: open_order,
    SECRET: open_sealed,
    IMAGE: open_image,
    REVOCATION: open_revocation,
    RENEWAL: open_renewal,
    NODE: open_node_order,
    FILES: open_files,
}
"""What an operator may put is what this version can read, of the kinds it knows."""


class LedgerSync:
    """write: replaces the ledger's file durably, called in a thread; on_release: a newer release is known.

    on_orders: what operators want of tasks, by task file's name; called before on_release, as are the others.
    """

    def __init__(
        self,
        path: Path,
        verified: Callable[[Document], bool],
        write: Callable[[Path, bytes], None],
        tell: Tell,
        on_release: Callable[[Release], None],
        on_orders: Callable[[dict[str, Order]], None],
        on_secrets: Callable[[list[Document]], None] = lambda documents: None,
        on_images: Callable[[list[Document]], None] = lambda documents: None,
        on_revocations: Callable[[list[Document]], None] = lambda documents: None,
        on_renewals: Callable[[list[Document]], None] = lambda documents: None,
        on_node_orders: Callable[[list[Document]], None] = lambda documents: None,
        on_files: Callable[[list[Document]], None] = lambda documents: None,
    ) -> None:
        self._path = path
        self._verified = verified
        self._write = write
        self._tell = tell
        self._on_release = on_release
        self._on_orders = on_orders
        self._on_secrets = on_secrets
        self._on_images = on_images
        self._on_revocations = on_revocations
        self._on_renewals = on_renewals
        self._on_node_orders = on_node_orders
        self._on_files = on_files
        self._ledger = Ledger()
        self._saving = asyncio.Lock()
        self._saves: set[asyncio.Task[None]] = set()

    def load(self) -> None:
        """Read the file of an earlier life; what is not signed by this grid's operator is left out."""
        if self._path.exists():
            try:
                self._ledger.merge(decode_documents(self._path.read_bytes()), self._verified)
            except (OSError, GridError) as exc:
                log.error("cannot read the ledger; peers will send it again", path=str(self._path), error=str(exc))
        self._follow()

    @property
    def release(self) -> Release | None:
        """The grid's current release."""
        document = self._ledger.latest(RELEASE, CURRENT)
        return open_release(document) if document else None

    @property
    def orders(self) -> dict[str, Order]:
        """What operators want of tasks, by task file's name."""
        orders = {}
        for document in self._ledger.documents(ORDER):
            try:
                orders[document.name] = open_order(document)
            except LedgerError as exc:
                log.error("an order cannot be read by this version", task=document.name, error=exc.message)
        return orders

    def order_sequences(self) -> dict[str, int]:
        """Of the order for each task file."""
        return {document.name: document.sequence for document in self._ledger.documents(ORDER)}

    def documents(self, kind: str = "") -> list[Document]:
        """All of them, or those of one kind."""
        return self._ledger.documents(kind)

    async def put(self, document: Document, audit: Document | None = None) -> None:
        """Take an operator's document, and its audit entry: on disk before this returns; LedgerError when not newer."""
        check = _CHECKS.get(document.kind)
        if check:
            check(document)
        check_pair(document, audit)
        documents = [document, audit] if audit else [document]
        for one in documents:
            self._check_new(one)
        self._merge(documents, None)
        await self._save()

    def _check_new(self, document: Document) -> None:
        """LedgerError when one as new is held."""
        held = self._ledger.latest(document.kind, document.name)
        if held and held != document and held.sequence >= document.sequence:
            again = "deployed in the meantime: deploy" if document.kind == RELEASE else "was quicker: look, then do it"
            raise LedgerError(
                f"{document.kind} {document.sequence} is not newer than {held.sequence}, which the grid has",
                hint=f"somebody {again} again",
            )

    def linked(self, link: Link) -> None:
        """A new peer: show it what we hold, and it will send what we lack."""
        link.event(Op.LEDGER_DIGEST, encode_digest(self._ledger.digest()))

    def heard(self, node: NodeId, frame: Frame, link: Link | None) -> None:
        """A peer's digest or documents; what breaks a bound or a signature is dropped, and said."""
        try:
            if frame.op == Op.LEDGER_DIGEST and link:
                lacking = self._ledger.newer_than(decode_digest(frame.body), MAX_BATCH)
                if lacking:
                    link.event(Op.LEDGER_DOCUMENTS, encode_documents(lacking))
            elif frame.op == Op.LEDGER_DOCUMENTS and self._merge(decode_documents(frame.body, MAX_BATCH), node):
                self._save_soon()
        except GridError as exc:
            log.warning("refused a peer's ledger message", peer=node, error=exc.message)

    def _merge(self, documents: Iterable[Document], source: NodeId | None) -> list[Document]:
        accepted = self._ledger.merge(documents, self._verified)
        if accepted:
            self._tell(Op.LEDGER_DOCUMENTS, encode_documents(accepted), source)
            self._follow()
        return accepted

    def _follow(self) -> None:
        self._on_revocations(self._ledger.documents(REVOCATION))
        self._on_renewals(self._ledger.documents(RENEWAL))
        self._on_node_orders(self._ledger.documents(NODE))
        self._on_secrets(self._ledger.documents(SECRET))
        self._on_images(self._ledger.documents(IMAGE))
        self._on_files(self._ledger.documents(FILES))
        self._on_orders(self.orders)
        try:
            release = self.release
        except LedgerError as exc:
            log.error("the grid's release cannot be read by this version", error=exc.message)
            return
        if release:
            self._on_release(release)

    def _save_soon(self) -> None:
        job = asyncio.create_task(self._try_to_save(), name="save-ledger")
        self._saves.add(job)
        job.add_done_callback(self._saves.discard)

    async def _try_to_save(self) -> None:
        try:
            await self._save()
        except LedgerError as exc:
            log.error("heard news that are not on disk yet", error=exc.message)

    async def _save(self) -> None:
        async with self._saving:
            content = encode_documents(self._ledger.documents())
            try:
                await asyncio.to_thread(self._write, self._path, content)
            except OSError as exc:
                raise LedgerError(f"cannot save the ledger at {self._path}: {exc.strerror or exc}") from exc
