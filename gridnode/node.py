"""The composition root: one node, put together and run. Alone it names adapters."""

import asyncio
import secrets
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial

import structlog

from gridnode.api import Api
from gridnode.broadcast import Broadcasts
from gridnode.doctor import Doctor, Look
from gridnode.errors import LinkClosed, SandboxError
from gridnode.event_stream import EventStreams
from gridnode.events import Events
from gridnode.fast_door import FastDoor
from gridnode.files import node_key, write_durably
from gridnode.finding import Finding, own_places
from gridnode.gate import Gate
from gridnode.gossip import sign_record
from gridnode.gridfile import Card
from gridnode.http_stream import HttpStreams
from gridnode.identity import Credentials
from gridnode.kept_logs import KeptLogs
from gridnode.keyed import Keyed
from gridnode.ledger import RELEASE, open_release, verifier
from gridnode.ledger_sync import LedgerSync
from gridnode.link import Cancel, Invoker, LinkEnd, LinkLimits
from gridnode.link.client import RemoteInvoker, dial
from gridnode.link.door import Door
from gridnode.link.local import SOCKET, by_permission, listening_locally
from gridnode.link.pool import BulkLinks, LinkPool
from gridnode.link.protocol import Link
from gridnode.link.server import BulkEnd, LinkServer
from gridnode.logs import Logs
from gridnode.looks import looks
from gridnode.membership import Membership
from gridnode.mesh import Mesh
from gridnode.messages import MAX_LOG_SIZE
from gridnode.model import Address, Done, Invocation, NodeId, Release, ReleaseState, ReleaseStatus, Role, Root
from gridnode.node_orders import NodeOrders
from gridnode.on_demand import OnDemand
from gridnode.operations import Operations, invokes, takes
from gridnode.own_card import OwnCard
from gridnode.own_log import read_own_log
from gridnode.processes import Processes
from gridnode.receipts import Receipts
from gridnode.room import Room
from gridnode.round_trips import RoundTrips
from gridnode.router import Router, RouterLimits, Target
from gridnode.sandbox.docker import DockerSandbox
from gridnode.sandbox.docker_images import DockerImages
from gridnode.sandbox.nested import Onward
from gridnode.sandbox.place import Place
from gridnode.sandbox.pool import Pool
from gridnode.sandbox.runtime_files import lay_out
from gridnode.sandbox.spec import SANDBOX_USER
from gridnode.secrets import Secrets
from gridnode.settings import Settings
from gridnode.shipped import open_files, open_images
from gridnode.start import listening, make_private, own_name, own_record, pool_limits
from gridnode.sync.disk import FilesDisk, ReleaseDisk
from gridnode.sync.exchange import Exchange
from gridnode.sync.images import Images
from gridnode.sync.release import Releases
from gridnode.sync.scrub import Scrub
from gridnode.sync.store import DiskChunkStore
from gridnode.sync.sweep import ChunkSweep, Transfers
from gridnode.sync.transfer import ChunkOps, Fetch, Progress, Sources
from gridnode.terms import Terms
from gridnode.wire import Frame, Op

log = structlog.get_logger()
_PART_WITHIN = 1.0


class Node:
    """One server's part of the grid. Built inside a running loop; adapters are opened by `run`."""

    def __init__(self, settings: Settings, card: Card) -> None:
        self._settings = settings
        self._card = card
        make_private(settings.data_dir, "GRIDNODE_DATA_DIR")
        self._own = OwnCard(card, settings.data_dir, time.time)
        credentials = self._own.credentials
        self.id = credentials.node
        self._gate = Gate(time.time, credentials.issuer, credentials.until)
        self._name = own_name(settings, self.id)
        self._link_limits = LinkLimits()
        self._terms = Terms(settings.call_timeout)
        limits = RouterLimits(settings.max_calls, settings.max_calls_size)
        self._router = Router(self._targets, limits, self._terms.is_idempotent, self.id)
        self._secrets = Secrets(card.network_key, SANDBOX_USER)
        self._links = LinkPool(self.id, settings.silent_after)
        self._bulk = BulkLinks(self._dial_bulk)
        self._mesh = Mesh(
            own_record(credentials, self._name.text, settings, card, own_places(settings)),
            Membership(self.id, settings.membership, secrets.token_bytes(16)),
            self._links,
            dialler=lambda address: self._dial(address, self._server),
            on_change=self._router.refresh,
            on_link=self._on_link,
            on_event=self._heard,
            sign=partial(sign_record, node_key(settings.data_dir / "node.key")),
        )
        self._finding = Finding(settings, card, credentials, self._mesh)
        self._own.on_renewed = self._on_renewed
        self._orders = NodeOrders(self.id, self._on_drain, self._on_forget)
        self._events = Events(
            card.labels,
            self._links.get,
            self._mesh.tell,
            lambda version: self._mesh.update(interest=version),
            self._router.route,
            self._run_here,
        )
        self._streams = EventStreams(self._events)
        router, longest = self._router, settings.max_call_timeout
        self._broadcasts = Broadcasts(self._mesh.members, router.route, router.check, self._terms.timeout, longest)

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop` is set, then let calls finish and leave the grid; sandboxes go on for the next life."""
        async with AsyncExitStack() as stack:
            store = DiskChunkStore(self._settings.data_dir)
            stack.callback(store.close)
            settings = self._settings
            kept = KeptLogs(settings.log_dir / "tasks", settings.kept_log_size, settings.kept_logs_size)
            sandbox = DockerSandbox(
                self.id, keep=kept.keep, image=settings.sandbox_image, ports=[settings.port] if settings.port else []
            )
            self._logs = Logs(sandbox, kept.read, partial(read_own_log, settings.own_log, 2 * MAX_LOG_SIZE))
            stack.push_async_callback(sandbox.close)
            self._pool = await self._open_pool(sandbox)
            self._keyed = Keyed(self._pool, Receipts(settings.key_window, settings.max_keys, settings.max_keys_size))
            stack.push_async_callback(self._pool.leave)
            stack.callback(self._events.close)
            disk = ReleaseDisk(store, self._settings.data_dir)
            self._transfers = Transfers(asyncio.get_running_loop().time, settings.upload_quiet)
            self._sweep = ChunkSweep(store, self._transfers, self._roots)
            self._exchange = Exchange(store, self._mesh.tell, self._links.get)
            self._engine = DockerImages()
            stack.callback(self._engine.close)
            self._images = self._open_images(store)
            fetcher = self._fetcher(store)
            trees = FilesDisk(store, settings.data_dir)
            self._files = open_files(settings, trees, fetcher, self._pool, self._sweep.wake)
            self._scrub = Scrub(store, lambda root: fetcher(lambda have, total: None).run(root), self._roots)
            store.on_invalid = self._scrub.found_bad
            ready = self._images.ready, self._files.ready
            self._releases = Releases(self.id, disk, self._pool, fetcher, self._on_status, *ready)
            self._ledger = self._open_ledger()
            self._ledger.load()
            self._server = self._open_server(store)
            stack.push_async_callback(self._mesh.leave)
            stack.callback(self._bulk.close)
            await self._listen(stack)
            await self._serve_api(stack)
            await self._run_jobs(disk.load_active(), stack, stop)

    # -- putting together -------------------------------------------------------------------------------------------

    async def _open_pool(self, sandbox: DockerSandbox) -> Pool:
        settings = self._settings
        image = settings.sandbox_image or await sandbox.own_image()
        python = "" if settings.sandbox_image else settings.sandbox_python
        if not image:
            raise SandboxError("gridnode runs in no container here", hint="set GRIDNODE_SANDBOX_IMAGE to its image")
        run_dir = settings.run_dir / self.id[:8]
        make_private(run_dir, "GRIDNODE_RUN_DIR")
        runtimes = await asyncio.to_thread(lay_out, settings.data_dir / "runtimes")
        secret_files, node_image = self._secrets.mount, settings.node_image
        about = self.id, self._name.text, self._card.tag, image, run_dir, secret_files, node_image, runtimes, python
        place = Place(*about, lambda name: self._files.directory(name))  # noqa: PLW0108 - they are opened later
        onward = Onward(self._router.route, self._terms.timeout, self._events.publish)
        pool = Pool(place, self._card.labels, sandbox, pool_limits(settings), self._on_tasks, onward)
        await pool.find()
        return pool

    def _open_images(self, store: DiskChunkStore) -> Images:
        references = lambda: [task.image for release in self._kept_releases() for task in release.tasks]  # noqa: E731
        return open_images(self._settings, self._engine, store, self._fetcher(store), references, self._sweep.wake)

    def _open_ledger(self) -> LedgerSync:
        return LedgerSync(
            self._settings.data_dir / "ledger",
            verifier(self._card.deploy_key),
            write_durably,
            self._mesh.tell,
            self._on_release,
            self._pool.order,
            self._secrets.follow,
            self._images.follow,
            self._gate.follow,
            self._own.follow,
            self._orders.follow,
            self._files.follow,
        )

    def _open_server(self, store: DiskChunkStore) -> LinkServer:
        chunks = ChunkOps(store, self._transfers.upload)
        sequences = self._ledger.order_sequences
        processes = Processes(self.id, self._mesh.members, self._mesh.reach, self._pool.processes, sequences)
        operations = Operations(
            self.id,
            self._mesh.members,
            self._mesh.reach,
            self._releases.report,
            self._ledger,
            chunks,
            processes,
            self._logs.answer,
            self._images.here,
            self._scrub.answer,
            lambda: self._own.card.issuer,
            Doctor(self._looks()).answer,
            RoundTrips(self.id, self._mesh.members, self._links.get).answer,
            self._files.here,
        )
        routes = invokes(self._keyed, self._router)
        events = takes(self._events, self._broadcasts) | self._exchange.takes()
        longest, on_seen = self._settings.max_call_timeout, self._finding.seen_at
        ops = operations.table() | {(Role.NODE, Op.TASKS): self._mesh.task_list}
        return LinkServer(self._mesh, ops, routes, self._terms.timeout, longest, events, on_seen)

    def _looks(self) -> dict[str, Look]:
        image, ledger = self._pool.image, self._ledger
        return looks(self._settings, self._finding, self._mesh, self._engine, image, ledger, self._dial_bulk)

    def _fetcher(self, store: DiskChunkStore) -> Callable[[Progress], Fetch]:
        sources = Sources(lambda: [record.id for record, _ in self._mesh.alive()], self._bulk_link)
        settings = self._settings
        at_once, patience, holding = settings.fetches_at_once, settings.fetch_timeout, self._transfers.fetch
        return lambda progress: Fetch(store, sources, self._exchange, at_once, patience, progress, holding)

    # -- opening to the world ---------------------------------------------------------------------------------------

    async def _listen(self, stack: AsyncExitStack) -> None:
        host, port, limits = self._settings.listen, self._settings.port, self._link_limits
        with listening(host or "every address", port, "GRIDNODE_PORT"):
            new = partial(Link, self._server, limits, self._gate.identify)
            self._door = Door(host, port, new, self._own.server_context, limits.hello_timeout)
        stack.callback(self._door.close)
        log.info("link listening", port=self._door.port)
        run_dir, group = self._settings.run_dir, self._settings.client_group
        make = partial(Link, self._server, self._link_limits, by_permission)
        await stack.enter_async_context(listening_locally(run_dir / SOCKET, run_dir / self.id[:8], group, make))

    async def _serve_api(self, stack: AsyncExitStack) -> None:
        api = Api(
            self._router.route,
            self._terms.timeout,
            self._settings.max_call_timeout,
            self._mesh.members,
            lambda: self._router.tasks,
            self._streams,
            Room(self._settings.max_requests, self._settings.max_requests_size),
            self._broadcasts.route,
            HttpStreams(self._settings.stream_items, self._settings.stream_size),
        )
        thorough = api.server()
        stack.push_async_callback(thorough.shutdown, 1.0)
        door = FastDoor(api.calls, thorough)
        stack.callback(door.close)
        with listening("127.0.0.1", self._settings.api_port, "GRIDNODE_API_PORT"):
            server = await asyncio.get_running_loop().create_server(door, "127.0.0.1", self._settings.api_port)
        stack.callback(server.close)
        log.info("api listening", host="127.0.0.1", port=self._settings.api_port)

    async def _run_jobs(self, resume: Release | None, stack: AsyncExitStack, stop: asyncio.Event) -> None:
        async with asyncio.TaskGroup() as group:
            jobs = [
                group.create_task(self._releases.run(resume), name="releases"),
                group.create_task(self._mesh.run(self._settings.tick), name="mesh"),
                group.create_task(self._report_load(), name="load"),
                group.create_task(self._pool.sweep(), name="sweep"),
                group.create_task(self._images.run(), name="images"),
                group.create_task(self._files.run(), name="files"),
                group.create_task(self._sweep.run(), name="sweep-chunks"),
                group.create_task(self._scrub.run(), name="scrub"),
                group.create_task(self._finding.run(), name="finding"),
            ]
            await self._finding.start(stack)  # announcing takes a second or two: what served before serves meanwhile
            await stop.wait()
            jobs[0].cancel()
            await self._drain()
            for job in jobs:
                job.cancel()

    async def _drain(self) -> None:
        """Let no more calls in, and those inside finish, for at most leave_timeout."""
        log.info("draining")
        self._door.close()
        self._pool.drain()
        self._streams.close()
        try:
            async with asyncio.timeout(self._settings.leave_timeout):
                await self._mesh.drain()
                await self._server.part(_PART_WITHIN)
                await self._pool.finished()
                await self._router.drained()
        except TimeoutError:
            log.warning("leaving with calls inside", calls=self._pool.load.in_flight)

    # -- what happens -----------------------------------------------------------------------------------------------

    async def _dial(self, address: Address, end: LinkEnd) -> Link:
        return await dial(address, end, self._own.client_context, self._gate.identify, self._link_limits)

    async def _dial_bulk(self, address: Address) -> Link:
        return await self._dial(address, BulkEnd())

    async def _bulk_link(self, node: NodeId) -> Link:
        main, member = self._links.get(node), self._mesh.get(node)
        if main is None or member is None:
            raise LinkClosed(f"{node[:12]} is not linked")
        return await self._bulk.get(node, member.record.addresses, main)

    def _targets(self) -> list[Target]:
        """Where calls can go now."""
        peers = [Target(record, self._remote(link, record.id)) for record, link in self._mesh.alive()]
        apart = [Target(record, OnDemand(record.id, self._dial_for_call)) for record in self._mesh.apart()]
        return [Target(self._mesh.record(), self._keyed), *peers, *apart]

    def _remote(self, link: Link, node: NodeId) -> RemoteInvoker:
        return RemoteInvoker(link, node, asyncio.get_running_loop().time)

    async def _dial_for_call(self, node: NodeId) -> Invoker:
        return self._remote(await self._mesh.reach(node), node)

    def _on_link(self, link: Link) -> None:
        self._ledger.linked(link)
        self._events.linked(link)
        self._exchange.linked(link)

    def _run_here(self, call: Invocation, done: Done) -> Cancel:
        return self._pool.invoke(call, done)

    def _heard(self, node: NodeId, frame: Frame) -> None:
        if not self._events.heard(node, frame) and not self._exchange.heard(node, frame):
            self._ledger.heard(node, frame, self._links.get(node))

    def _on_release(self, release: Release) -> None:
        self._terms.follow(release)
        self._releases.follow(release)
        if self._pool.release is None:
            self._events.follow(release.tasks)

    def _kept_releases(self) -> list[Release]:
        """The grid's, and the one that serves here."""
        return [release for release in (self._ledger.release, self._pool.release) if release]

    def _roots(self) -> list[Root]:
        """Of every tree that stays: releases, those before them, and images."""
        known = [open_release(document) for document in self._ledger.documents(RELEASE)]
        return [release.root for release in (*known, *self._kept_releases())] + self._images.roots + self._files.roots

    def _on_renewed(self, credentials: Credentials) -> None:
        self._gate.renew(credentials.until)
        self._finding.renew(credentials)
        self._mesh.update(at_once=True, until=int(credentials.until))
        self._mesh.dial_anew()

    def _on_drain(self, wanted: bool) -> None:
        self._pool.hold(wanted)
        self._mesh.update(True, draining=self._pool.is_draining, drained=wanted, load=self._pool.load)

    def _on_forget(self, node: NodeId, incarnation: int) -> None:
        self._mesh.forget(node, incarnation)
        self._finding.forget(node)

    def _on_tasks(self) -> None:
        self._mesh.update(at_once=True, tasks=self._pool.tasks)

    def _on_status(self, status: ReleaseStatus) -> None:
        at_once = status.state is not ReleaseState.FETCHING
        self._mesh.update(at_once, release=status, tasks=self._pool.tasks)
        if status.state in (ReleaseState.ACTIVE, ReleaseState.FAILED):
            self._sweep.wake()  # it may have failed for want of room
        if status.state is ReleaseState.ACTIVE:
            self._bulk.close()
            self._events.follow(self._pool.release.tasks if self._pool.release else ())

    async def _report_load(self) -> None:
        while True:
            self._mesh.update(load=self._pool.load)
            self._mesh.update(name=self._name.compare(self._mesh.record(), [one for one, _ in self._mesh.alive()]))
            self._orders.tick()
            self._gate.tick()
            self._server.tick(asyncio.get_running_loop().time())
            self._events.compare(record for record, _ in self._mesh.alive())
            await asyncio.sleep(self._settings.tick)
