"""What a client asks of the grid as a whole: its nodes, releases, orders, secrets, images, logs and chunks."""

import secrets
import time
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from gridctl.author import author
from gridctl.links import Links
from gridnode import messages
from gridnode.audit import AUDIT, AuditEntry, open_audit, sign_audit
from gridnode.diagnosis import Diagnosis, RoundTrip, decode_diagnosis, decode_round_trips
from gridnode.errors import Forbidden, GridError, LedgerError, LinkClosed, SignatureInvalid
from gridnode.files_document import FILES, open_files, sign_files
from gridnode.identity import NONCE_SIZE, Authority, host_prefix, public_key_of, seal_secret
from gridnode.image_document import IMAGE, open_image, sign_image
from gridnode.ledger import (
    CURRENT,
    ORDER,
    RELEASE,
    Document,
    SealedSecret,
    decode_documents,
    encode_documents,
    history_name,
    open_order,
    open_release,
    sign_order,
    sign_release,
    sign_secret,
    verifier,
)
from gridnode.link.protocol import Link
from gridnode.messages import SCRUB_START, ChunkPart, LogQuery, LogReply, ProcessReport, ScrubReport
from gridnode.model import (
    ChunkHash,
    FileSet,
    Image,
    ImageStatus,
    Member,
    MemberState,
    NodeId,
    Order,
    Release,
    ReleaseReport,
)
from gridnode.node_document import NODE, NodeOrder, open_node_order, sign_node_order
from gridnode.renewal import RENEWAL, issuer_id, renew_issuer, sign_renewal
from gridnode.revocation import REVOCATION, Revocation, open_revocation, sign_revocation
from gridnode.wire import Op

__all__ = ["Control", "Renewed"]

RECONNECT = 3.0
"""Seconds to wait for a lost link to come back."""
_OP_TIMEOUT = 15.0
_AUDIT_ATTEMPTS = 5
_PUT_TIMEOUT = 60.0


class Renewed(NamedTuple):
    """Names of nodes whose cards last longer now, and why those of others do not."""

    nodes: list[str]
    failed: dict[str, GridError]


class Control:
    """The half of a Grid that is no calls and no events. Errors are gridnode.errors types.

    authority: what the Gridfile's secret makes; None on a connection without one, which cannot sign or verify.
    """

    def __init__(self, links: Links, authority: Authority | None) -> None:
        self._links = links
        self._held = authority

    @property
    def _authority(self) -> Authority:
        if self._held is None:
            hint = "this takes an operator's Gridfile: Grid.connect(gridfile), or $GRIDCTL_GRIDFILE"
            raise Forbidden("a node's local socket and a user's Gridfile let in calls and events only", hint=hint)
        return self._held

    @property
    def is_operator(self) -> bool:
        """Whether it may see and change what the ledger holds: releases, orders, secrets, images."""
        return self._held is not None

    @property
    def _link(self) -> Link:
        """The oldest open one; raises LinkClosed while there is none."""
        return self._links.main.link

    async def nodes(self) -> list[Member]:
        """Every node that the one we are linked to knows, itself included."""
        return messages.decode_members(await self._ask(Op.NODES))

    async def release(self) -> Release | None:
        """The grid's current release; SignatureInvalid when it is not this Gridfile's."""
        documents = await self.documents(RELEASE)
        return next((open_release(document) for document in documents if document.name == CURRENT), None)

    async def releases(self) -> list[Release]:
        """The current release and those before it that the ledger remembers, newest first."""
        found: dict[int, Release] = {}
        for document in await self.documents(RELEASE):
            if document.name == CURRENT or document.sequence not in found:
                found[document.sequence] = open_release(document)
        return sorted(found.values(), key=lambda release: -release.sequence)

    async def documents(self, kind: str) -> list[Document]:
        """The ledger's documents of one kind, newest first, 4 MiB at most; SignatureInvalid for one of a stranger."""
        verified = verifier(public_key_of(self._authority.deploy_key))
        documents = decode_documents(await self._ask(Op.LEDGER_GET, name=kind))
        for document in documents:
            if document.kind == kind and not verified(document):
                raise SignatureInvalid(f"the node shows a {kind} that is not signed by this Gridfile")
        return [document for document in documents if document.kind == kind]

    async def orders(self) -> dict[str, tuple[Order, int]]:
        """What operators want of tasks, and the sequence of each order, by task file's name."""
        documents = await self.documents(ORDER)
        return {document.name: (open_order(document), document.sequence) for document in documents}

    async def put_order(self, task: str, order: Order, sequence: int) -> None:
        """Sign what is wanted of a task file and tell the grid; LedgerError unless `sequence` is a new one."""
        await self._put(sign_order(self._authority.deploy_key, task, order, sequence))

    async def put_secret(self, name: str, value: bytes | None, sequence: int) -> None:
        """Seal and sign a secret, None to remove it, and tell the grid; LedgerError unless `sequence` is a new one."""
        sealed = None
        if value is not None:
            nonce = secrets.token_bytes(NONCE_SIZE)
            sealed = SealedSecret(int(time.time()), seal_secret(self._authority.network_key, name, value, nonce))
        await self._put(sign_secret(self._authority.deploy_key, name, sealed, sequence))

    async def images(self) -> dict[str, tuple[Image | None, int]]:
        """The images that the grid ships, None for removed ones, and the sequence of each, by name."""
        documents = await self.documents(IMAGE)
        return {document.name: (open_image(document), document.sequence) for document in documents}

    async def put_image(self, name: str, image: Image | None, sequence: int) -> None:
        """Sign an image, None to remove it, and tell the grid; LedgerError unless `sequence` is a new one."""
        await self._put(sign_image(self._authority.deploy_key, name, image, sequence))

    async def revocations(self) -> dict[str, tuple[Revocation, int]]:
        """Whom the grid shuts out, and the sequence of each document, by host_prefix."""
        documents = await self.documents(REVOCATION)
        return {document.name: (open_revocation(document), document.sequence) for document in documents}

    async def put_revocation(self, revocation: Revocation) -> list[Document]:
        """Shut out what `revocation.what` names; what was put, for other nodes to be told of it too."""
        prefix = host_prefix(self._authority, revocation.what)
        known = (await self.revocations()).get(prefix)
        document = sign_revocation(self._authority.deploy_key, prefix, revocation, known[1] + 1 if known else 1)
        return [document, await self._put(document)]

    async def tell(self, change: Sequence[Document]) -> None:
        """Put on this node too what another has taken: the document, and unless it knows better, who did it."""
        try:
            await self._ask(Op.LEDGER_PUT, encode_documents(change))
        except LedgerError:
            await self._put_silently(change[0])

    async def renew_cards(self, hosts: Iterable[str], before: float, ttl: float) -> Renewed:
        """Make cards of `hosts` that end before then (unix seconds) good for `ttl` more.

        Those of nodes that are linked to the one we are linked to; others at another time. None holds up another.
        """
        prefixes = {host_prefix(self._authority, host) for host in hosts}
        due = [row for row in await self.nodes() if row.state is MemberState.ALIVE and 0 < row.record.until < before]
        sequences = {document.name: document.sequence for document in await self.documents(RENEWAL)} if due else {}
        renewed, done = Renewed([], {}), set()
        for row in due:
            try:
                pem = await self.issuer(row.record.id)
                issuer = issuer_id(pem)
                if issuer.partition("-")[0] not in prefixes:
                    continue
                if issuer not in done:
                    der = renew_issuer(self._authority, pem, time.time(), ttl)
                    await self._put(sign_renewal(self._authority.deploy_key, der, sequences.get(issuer, 0) + 1))
                    done.add(issuer)
                renewed.nodes.append(row.record.name)
            except GridError as exc:
                renewed.failed[row.record.name] = exc
        return renewed

    async def issuer(self, node: NodeId) -> str:
        """The certificate (PEM) that a node says its card holds: its id begins with the host_prefix of a host."""
        return (await self._ask(Op.ISSUER, name=node)).decode("ascii", "replace")

    def is_of(self, pem: str, host: str) -> bool:
        """Whether an issuer was minted for this host."""
        return issuer_id(pem).partition("-")[0] == host_prefix(self._authority, host)

    async def node_orders(self) -> dict[str, tuple[NodeOrder, int]]:
        """What operators want of nodes, and the sequence of each document, by id."""
        documents = await self.documents(NODE)
        return {document.name: (open_node_order(document), document.sequence) for document in documents}

    async def put_node_order(self, node: NodeId, order: NodeOrder, sequence: int) -> None:
        """Sign what is wanted of a node and tell the grid; LedgerError unless `sequence` is a new one."""
        await self._put(sign_node_order(self._authority.deploy_key, node, order, sequence))

    async def diagnose(self, node: NodeId) -> Diagnosis:
        """What one node finds when it looks at itself."""
        return decode_diagnosis(await self._ask(Op.DOCTOR, name=node))

    async def round_trips(self, node: NodeId, count: int = 1) -> tuple[RoundTrip, ...]:
        """How long questions take from that node to every other and back."""
        return decode_round_trips(await self._ask(Op.ROUND_TRIPS, messages.encode(count), name=node))

    async def ping(self, node: NodeId) -> float:
        """Seconds to that node and back, through the one we are linked to."""
        began = time.perf_counter()
        await self._ask(Op.PING, name=node)
        return time.perf_counter() - began

    async def files(self) -> dict[str, tuple[FileSet | None, int]]:
        """The directories that the grid keeps, None for removed ones, and the sequence of each, by name."""
        documents = await self.documents(FILES)
        return {document.name: (open_files(document), document.sequence) for document in documents}

    async def put_files(self, name: str, files: FileSet | None, sequence: int) -> None:
        """Sign a directory, None to remove it, and tell the grid; LedgerError unless `sequence` is a new one."""
        await self._put(sign_files(self._authority.deploy_key, name, files, sequence))

    async def files_status(self, node: NodeId) -> list[ImageStatus]:
        """How far one node is with each directory."""
        return messages.decode(await self._ask(Op.FILES, name=node), list[ImageStatus])

    async def image_status(self, node: NodeId) -> list[ImageStatus]:
        """How far one node is with each image."""
        return messages.decode(await self._ask(Op.IMAGES, name=node), list[ImageStatus])

    async def scrub(self, node: NodeId, *, start: bool = False) -> ScrubReport:
        """How far one node is with looking through its chunks; `start` has it begin, unless it is at it."""
        body = SCRUB_START if start else b""
        return messages.decode(await self._ask(Op.SCRUB, body, name=node), ScrubReport)

    async def processes(self, task: str = "") -> list[ProcessReport]:
        """Every node's instances, of one task file or of all."""
        return messages.decode(await self._ask(Op.PROCESSES, name=task), list[ProcessReport])

    async def logs(self, node: NodeId, query: LogQuery) -> LogReply:
        """Lines of one node: what its tasks printed, or what gridnode itself logs."""
        return messages.decode(await self._ask(Op.LOGS, messages.encode(query), name=node), LogReply)

    async def report(self, node: NodeId) -> ReleaseReport:
        """How far one node is with its release, and which task files failed."""
        return messages.decode(await self._ask(Op.RELEASE_STATUS, name=node), ReleaseReport)

    async def put_release(self, release: Release) -> None:
        """Sign the release and make it the grid's; LedgerError when the grid has a newer one."""
        await self._put(sign_release(self._authority.deploy_key, release))
        await self._put_silently(sign_release(self._authority.deploy_key, release, history_name(release.sequence)))

    async def put(self, document: Document) -> None:
        """Put a document that this Gridfile signed before, as it is; LedgerError when the grid has one as new."""
        await self._put(document)

    async def audit(self) -> list[tuple[int, AuditEntry]]:
        """Who changed what, each with its number, newest first."""
        documents = await self.documents(AUDIT)
        entries = ((document.sequence, open_audit(document)) for document in documents)
        return sorted(entries, key=lambda entry: -entry[0])

    async def _put(self, document: Document) -> Document:
        """Put a document, and with it who did; again with a later number when another change came in between."""
        for left in range(_AUDIT_ATTEMPTS, 0, -1):
            number = max((entry.sequence for entry in await self.documents(AUDIT)), default=0) + 1
            source = self._links.main.end.seen
            entry = AuditEntry(int(time.time()), author(), source, document.kind, document.name, document.sequence)
            audit = sign_audit(self._authority.deploy_key, entry, number)
            try:
                await self._ask(Op.LEDGER_PUT, encode_documents([document, audit]))
                return audit
            except LedgerError as exc:
                if left == 1 or not exc.message.startswith(f"{AUDIT} "):
                    raise
        raise AssertionError("unreachable")

    async def _put_silently(self, document: Document) -> None:
        """Put what belongs to a change that is told of already."""
        await self._ask(Op.LEDGER_PUT, encode_documents([document]))

    async def get_chunks(self, hashes: Sequence[ChunkHash]) -> list[ChunkPart]:
        """What the node has of them (at most messages.MAX_GET), as much as one reply holds, unverified."""
        return messages.decode(await self._ask(Op.CHUNKS_GET, messages.encode(hashes)), list[ChunkPart])

    async def missing_chunks(self, hashes: Sequence[ChunkHash]) -> list[ChunkHash]:
        """Which of them (at most messages.MAX_HASHES) the node lacks."""
        return messages.decode_hashes(await self._ask(Op.CHUNKS_MISSING, messages.encode(hashes)), len(hashes))

    async def put_chunks(self, parts: Sequence[ChunkPart]) -> None:
        """Store chunks on the node; ChunkInvalid when one is not what its hash says."""
        await self._ask(Op.CHUNKS_PUT, messages.encode(parts), timeout=_PUT_TIMEOUT)

    async def _ask(self, op: Op, body: bytes = b"", *, name: str = "", timeout: float = _OP_TIMEOUT) -> bytes:
        link = (await self._links.ready(RECONNECT)).link
        try:
            return await link.request(op, body, name=name, timeout=timeout)
        except TimeoutError as exc:
            raise LinkClosed(f"{link.address} did not answer within {timeout:g} s") from exc
