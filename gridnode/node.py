"""The composition root: one node, put together and run. Alone it names adapters."""

import asyncio
import secrets
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial

import structlog
from aiohttp import web

from gridnode import __version__
from gridnode.api import Api
from gridnode.discovery.interfaces import own_addresses
from gridnode.discovery.mdns import MdnsDiscovery
from gridnode.errors import CardInvalid, LinkClosed, SandboxError
from gridnode.files import node_key, write_durably
from gridnode.gridfile import Card, parse_address, parse_card, parse_gridfile
from gridnode.identity import PeerIdentity, authority_of, issue_leaf, mint_card, seal, unseal
from gridnode.kept_logs import KeptLogs
from gridnode.ledger import ORDER, verifier
from gridnode.ledger_sync import LedgerSync
from gridnode.link import LinkEnd, LinkLimits
from gridnode.link.client import RemoteInvoker, dial
from gridnode.link.pool import BulkLinks, LinkPool
from gridnode.link.protocol import Link
from gridnode.link.server import BulkEnd, LinkServer
from gridnode.link.tls import client_context, peer_identity, server_context
from gridnode.logs import Logs
from gridnode.membership import Membership, MembershipLimits
from gridnode.mesh import Mesh
from gridnode.messages import MAX_LOG_SIZE
from gridnode.model import Address, NodeId, NodeRecord, Release, ReleaseState, ReleaseStatus, Sighting, TaskName
from gridnode.operations import Operations, invokes
from gridnode.own_log import read_own_log
from gridnode.processes import Processes
from gridnode.router import Router, Target
from gridnode.sandbox.docker import DockerSandbox
from gridnode.sandbox.nested import Onward
from gridnode.sandbox.place import Place
from gridnode.sandbox.pool import Pool
from gridnode.sandbox.roster import RestartPolicy
from gridnode.sandbox.runtime_files import lay_out
from gridnode.sandbox.spec import SANDBOX_USER
from gridnode.sandbox.task_pool import PoolLimits
from gridnode.secrets import Secrets
from gridnode.settings import Settings
from gridnode.sync.disk import ReleaseDisk
from gridnode.sync.release import Releases
from gridnode.sync.store import DiskChunkStore
from gridnode.sync.transfer import ChunkOps, Fetch, Progress, Sources

log = structlog.get_logger()

_YEAR = 365 * 24 * 3600.0


def read_card(settings: Settings) -> Card:
    """The card this node serves by; a whole Gridfile makes it its own operator. Raises CardInvalid."""
    path = settings.gridfile or settings.card
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as exc:
        hint = "make one with `gridctl card NAME -o Card`; GRIDNODE_CARD says where it is"
        raise CardInvalid(f"{path}: {exc}", hint=hint) from exc
    if path.stat().st_mode & 0o077:
        log.warning("others on this server can read the grid's secrets", path=str(path), hint=f"chmod 600 {path}")
    if not settings.gridfile:
        return parse_card(text, str(path))
    gridfile = parse_gridfile(text, str(path))
    entropy = secrets.token_bytes(32)
    return mint_card(authority_of(gridfile), settings.name, time.time(), _YEAR, entropy, gridfile.seeds)


def identify(transport: asyncio.BaseTransport) -> PeerIdentity:
    """Who the certificate says is at the other end; raises NotAuthenticated."""
    return peer_identity(transport.get_extra_info("ssl_object"))


class Node:
    """One server's part of the grid. Built inside a running loop; adapters are opened by `run`."""

    def __init__(self, settings: Settings, card: Card) -> None:
        self._settings = settings
        self._card = card
        settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        settings.data_dir.chmod(0o700)  # an engine that made it for a mount left it open to all
        self._credentials = issue_leaf(card, node_key(settings.data_dir / "node.key"), time.time())
        self.id = self._credentials.node
        self._server_context = server_context(self._credentials)
        self._client_context = client_context(self._credentials)
        self._link_limits = LinkLimits()
        self._timeouts: dict[str, float] = {}
        self._router = Router(self._targets)
        self._secrets = Secrets(card.network_key, SANDBOX_USER)
        self._links = LinkPool(self.id, settings.silent_after)
        self._bulk = BulkLinks(lambda address: self._dial(address, BulkEnd()))
        membership = Membership(self.id, MembershipLimits(suspect_after=settings.suspect_after))
        self._mesh = Mesh(
            self._record(settings.port),
            membership,
            self._links,
            dialler=lambda address: self._dial(address, self._server),
            on_change=self._router.refresh,
            on_link=self._on_link,
            on_event=lambda node, frame: self._ledger.heard(node, frame, self._links.get(node)),
        )

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop` is set, then let calls finish and leave the grid; sandboxes go on for the next life."""
        async with AsyncExitStack() as stack:
            store = DiskChunkStore(self._settings.data_dir)
            stack.callback(store.close)
            settings = self._settings
            kept = KeptLogs(settings.log_dir / "tasks", settings.kept_log_size, settings.kept_logs_size)
            sandbox = DockerSandbox(self.id, keep=kept.keep)
            self._logs = Logs(sandbox, kept.read, partial(read_own_log, settings.own_log, 2 * MAX_LOG_SIZE))
            stack.push_async_callback(sandbox.close)
            self._pool = await self._open_pool(sandbox)
            stack.push_async_callback(self._pool.leave)
            disk = ReleaseDisk(store, self._settings.data_dir)
            self._releases = Releases(self.id, disk, self._pool, self._fetcher(store), self._on_status)
            self._ledger = self._open_ledger()
            self._ledger.load()
            self._server = self._open_server(store)
            stack.push_async_callback(self._mesh.leave)
            stack.callback(self._bulk.close)
            await self._listen(stack)
            await self._serve_api(stack)
            await self._run_jobs(disk.load_active(), stack, stop)

    # -- putting together -------------------------------------------------------------------------------------------

    def _record(self, port: int) -> NodeRecord:
        now = time.time()
        given = [parse_address(text) for text in self._settings.advertise]
        addresses = tuple(address for address in given if address) or own_addresses(port)
        return NodeRecord(self.id, self._settings.name, int(now * 1000), 0, addresses, __version__, int(now))

    async def _open_pool(self, sandbox: DockerSandbox) -> Pool:
        settings = self._settings
        limits = PoolLimits(
            max_queued=settings.max_queued,
            cancel_grace=settings.cancel_grace,
            stop_grace=settings.stop_grace,
            drain_timeout=settings.drain_timeout,
            adopt_timeout=settings.adopt_timeout,
            restarts=RestartPolicy(settings.restart_first, settings.restart_last),
            start_timeout=settings.start_timeout,
            starts_at_once=settings.starts_at_once,
        )
        image = settings.sandbox_image or await sandbox.own_image()
        if not image:
            raise SandboxError("gridnode runs in no container here", hint="set GRIDNODE_SANDBOX_IMAGE to its image")
        run_dir = settings.run_dir / self.id[:8]
        run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        runtimes = await asyncio.to_thread(lay_out, settings.data_dir / "runtimes")
        secret_files, node_image = self._secrets.mount, settings.node_image
        place = Place(self.id, settings.name, self._card.tag, image, run_dir, secret_files, node_image, runtimes)
        onward = Onward(self._router.route, self._timeout_of)
        pool = Pool(place, self._card.labels, sandbox, limits, self._on_tasks, onward)
        await pool.find()
        return pool

    def _open_ledger(self) -> LedgerSync:
        return LedgerSync(
            self._settings.data_dir / "ledger",
            verifier(self._card.deploy_key),
            write_durably,
            self._mesh.tell,
            self._on_release,
            self._pool.order,
            self._secrets.follow,
        )

    def _open_server(self, store: DiskChunkStore) -> LinkServer:
        chunks = ChunkOps(store)
        processes = Processes(self.id, self._mesh.members, self._links.get, self._pool.processes, self._order_sequences)
        operations = Operations(
            self.id,
            self._mesh.members,
            self._links.get,
            self._releases.report,
            self._ledger,
            chunks,
            processes,
            self._logs.answer,
        )
        routes = invokes(self._pool, self._router)
        return LinkServer(self._mesh, operations.table(), routes, self._timeout_of, self._settings.max_call_timeout)

    def _fetcher(self, store: DiskChunkStore) -> Callable[[Progress], Fetch]:
        sources = Sources(lambda: [record.id for record, _ in self._mesh.alive()], self._bulk_link)
        settings = self._settings
        return lambda progress: Fetch(store, sources, settings.fetches_at_once, settings.fetch_timeout, progress)

    # -- opening to the world ---------------------------------------------------------------------------------------

    async def _listen(self, stack: AsyncExitStack) -> None:
        server = await asyncio.get_running_loop().create_server(
            lambda: Link(self._server, self._link_limits, identify),
            self._settings.listen or None,
            self._settings.port,
            ssl=self._server_context,
            ssl_handshake_timeout=self._link_limits.hello_timeout,
            ssl_shutdown_timeout=1.0,
        )
        stack.callback(server.close)
        log.info("link listening", port=server.sockets[0].getsockname()[1])

    async def _serve_api(self, stack: AsyncExitStack) -> None:
        api = Api(
            self._router.route,
            self._timeout_of,
            self._settings.max_call_timeout,
            self._mesh.members,
            lambda: self._router.tasks,
        )
        runner = web.ServerRunner(api.server(), shutdown_timeout=1.0)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, "127.0.0.1", self._settings.api_port).start()
        log.info("api listening", host="127.0.0.1", port=self._settings.api_port)

    async def _discover(self, stack: AsyncExitStack) -> None:
        for seed in self._card.seeds:
            self._mesh.sighted(Sighting(seed), seed=True)
        if not self._settings.mdns:
            return
        key = self._card.network_key
        mdns = MdnsDiscovery(
            self.id,
            lambda: self._mesh.record().addresses,
            lambda payload: seal(key, payload, time.time(), secrets.token_bytes(12)),
            lambda sealed: unseal(key, sealed, time.time()),
        )
        try:
            await mdns.start(self._mesh.sighted)
        except OSError as exc:
            log.warning("no multicast here; seeds alone find peers", error=str(exc))
            return
        stack.push_async_callback(mdns.close)

    async def _run_jobs(self, resume: Release | None, stack: AsyncExitStack, stop: asyncio.Event) -> None:
        async with asyncio.TaskGroup() as group:
            jobs = [
                group.create_task(self._releases.run(resume), name="releases"),
                group.create_task(self._mesh.run(self._settings.tick), name="mesh"),
                group.create_task(self._report_load(), name="load"),
                group.create_task(self._pool.sweep(), name="sweep"),
            ]
            await self._discover(stack)  # announcing takes a second or two: what served before serves meanwhile
            await stop.wait()
            jobs[0].cancel()
            await self._drain()
            for job in jobs:
                job.cancel()

    async def _drain(self) -> None:
        """Let no more calls in, and those inside finish, for at most leave_timeout."""
        log.info("draining")
        self._pool.drain()
        try:
            async with asyncio.timeout(self._settings.leave_timeout):
                await self._mesh.drain()
                await self._pool.finished()
                await self._router.drained()
        except TimeoutError:
            log.warning("leaving with calls inside", calls=self._pool.load.in_flight)

    # -- what happens -----------------------------------------------------------------------------------------------

    async def _dial(self, address: Address, end: LinkEnd) -> Link:
        return await dial(address, end, self._client_context, identify, self._link_limits)

    async def _bulk_link(self, node: NodeId) -> Link:
        main, member = self._links.get(node), self._mesh.get(node)
        if main is None or member is None:
            raise LinkClosed(f"{node[:12]} is not linked")
        return await self._bulk.get(node, member.record.addresses, main)

    def _targets(self) -> list[Target]:
        """Where calls can go now."""
        now = asyncio.get_running_loop().time
        peers = [Target(record, RemoteInvoker(link, record.id, now)) for record, link in self._mesh.alive()]
        return [Target(self._mesh.record(), self._pool), *peers]

    def _on_link(self, link: Link) -> None:
        self._ledger.linked(link)

    def _on_release(self, release: Release) -> None:
        self._timeouts = {task.name: task.timeout for task in release.tasks}
        self._releases.follow(release)

    def _order_sequences(self) -> dict[str, int]:
        return {document.name: document.sequence for document in self._ledger.documents(ORDER)}

    def _timeout_of(self, task: TaskName) -> float:
        stem = task.rpartition(".")[0]
        return self._timeouts.get(task) or self._timeouts.get(stem) or self._settings.call_timeout

    def _on_tasks(self) -> None:
        self._mesh.update(at_once=True, tasks=self._pool.tasks)

    def _on_status(self, status: ReleaseStatus) -> None:
        at_once = status.state is not ReleaseState.FETCHING
        self._mesh.update(at_once, release=status, tasks=self._pool.tasks)
        if status.state is ReleaseState.ACTIVE:
            self._bulk.close()
            self._pool.order(self._ledger.orders)  # those that came while it was being prepared

    async def _report_load(self) -> None:
        while True:
            self._mesh.update(load=self._pool.load)
            self._server.tick(asyncio.get_running_loop().time())
            await asyncio.sleep(self._settings.tick)
