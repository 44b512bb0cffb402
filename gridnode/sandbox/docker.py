"""Sandboxes as containers of a Docker engine (API 1.41 and later). The Docker SDK is used in the docker*.py files only.

The SDK is synchronous: calls run on a few threads of their own. Exits of all instances come over one event stream,
read by one thread: a blocking wait per instance would take a thread and a connection each.
"""

import asyncio
import contextlib
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from docker.api.client import APIClient  # type: ignore[import-untyped]
from docker.errors import APIError, DockerException, NotFound  # type: ignore[import-untyped]
from requests.exceptions import RequestException

from gridnode.errors import SandboxError
from gridnode.model import InstanceId, Network, NodeId
from gridnode.sandbox import Exit, Held, Keep, Output, SandboxSpec
from gridnode.sandbox.docker_engine import Engine, Events
from gridnode.sandbox.docker_network import EgressNetwork
from gridnode.sandbox.egress import NETWORK
from gridnode.sandbox.output import STREAMS, last_lines
from gridnode.sandbox.spec import (
    LABEL_GRID,
    LABEL_INSTANCE,
    LABEL_RELEASE,
    LABEL_SHAPE,
    LABEL_TASK,
    container_config,
    container_id,
    container_name,
    node_filters,
)

T = TypeVar("T")
DEFAULT_URL = "unix:///var/run/docker.sock"
MAX_LOG_LINES = 1000
MAX_LOG = 64 * 1024
_MAX_RAW_LOG = 8 * 1024 * 1024
_FIRST_LINES = 64
_KEPT_LINES = 200
_EXIT_LOG_LINES = 50
_KILLED = 137
_MOUNTINFO = Path("/proc/self/mountinfo")


@dataclass(eq=False)
class _Waiter:
    stirred: asyncio.Event = field(default_factory=asyncio.Event)
    code: int | None = None


class DockerSandbox:
    """The Sandbox backend of one node. timeout: seconds the engine may take to answer one request.

    keep: gets the last lines of an instance before they go with its container. image: gridnode's own, for the rules
    of the egress network, where this process runs in no container. ports: of this node's links, closed there.
    """

    def __init__(
        self,
        node: NodeId,
        url: str = DEFAULT_URL,
        timeout: float = 30.0,
        threads: int = 4,
        keep: Keep | None = None,
        image: str = "",
        ports: Iterable[int] = (),
    ) -> None:
        self._node = node
        self._keep = keep
        self._image = image
        self._egress = EgressNetwork(ports)
        self._engine = Engine(url, timeout)
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="engine")
        self._ids: dict[InstanceId, str] = {}
        self._waiters: defaultdict[str, set[_Waiter]] = defaultdict(set)
        self._events: Events | None = None

    async def start(self, spec: SandboxSpec) -> None:
        """Create and start the container; leaves none behind when it fails or is cancelled."""
        name, config = container_name(spec), container_config(spec)
        starting = asyncio.ensure_future(self._call(lambda client: self._start(client, spec, name, config)))
        try:
            self._ids[spec.instance] = await asyncio.shield(starting)
        except asyncio.CancelledError:
            with contextlib.suppress(SandboxError):
                container = await starting
                await self._call(lambda client: _remove(client, container))
            raise

    async def wait(self, instance: InstanceId) -> Exit:
        """Wait until it ended, with its last log lines; SandboxError when there is no such instance."""
        container = await self._find(instance)
        if container is None:
            raise SandboxError(f"no sandbox of instance {instance}")
        code, oom = await self._wait_ended(container)
        text = await self._call(lambda client: _logs(client, container, _EXIT_LOG_LINES))
        return Exit(code, oom, text)

    async def stop(self, instance: InstanceId, grace: float) -> None:
        """SIGTERM, SIGKILL after `grace` seconds, and remove; an unknown instance is fine."""
        container = await self._find(instance)
        if container is None:
            return
        if grace > 0 and await self._call(lambda client: _terminate(client, container)):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace):
                    await self._wait_ended(container)
        await self._call(lambda client: self._keep_lines(client, container, instance))
        await self._call(lambda client: _remove(client, container))
        self._ids.pop(instance, None)

    async def logs(self, instance: InstanceId, lines: int) -> str:
        """Its last lines of output, 64 KiB at most; empty for an unknown instance."""
        container = await self._find(instance)
        return await self._call(lambda client: _logs(client, container, lines)) if container else ""

    async def log_lines(self, instance: InstanceId, since: int, lines: int) -> list[Output]:
        """Its newest `lines` later than `since` (unix nanoseconds), by time; none for an unknown instance."""
        container = await self._find(instance)
        return await self._call(lambda client: _log_lines(client, container, since, lines)) if container else []

    async def running(self) -> list[InstanceId]:
        """Instances of this node that the engine holds, ended ones included."""
        return [one.instance for one in await self.held()]

    async def held(self) -> list[Held]:
        """The same, with what each was started as."""
        rows = await self._list(None)
        self._ids |= {InstanceId(row["Labels"][LABEL_INSTANCE]): row["Id"] for row in rows}
        return [_held(row) for row in rows]

    async def sweep(self, grid: str, age: float) -> int:
        """Remove what ended more than `age` seconds ago, of any node of the grid; how many."""
        return await self._call(lambda client: self._sweep(client, grid, time.time() - age))

    async def own_image(self) -> str | None:
        """Id of the image this process itself runs from; None when it is in no container of this engine."""
        return await self._call(_own_image)

    async def close(self) -> None:
        """Let go of the engine; sandboxes stay."""
        if self._events:
            await asyncio.to_thread(self._events.close)
            self._events = None
        await asyncio.to_thread(self._threads.shutdown, cancel_futures=True)  # what waits behind a mute engine waits on
        self._engine.close()

    async def _call(self, function: Callable[[APIClient], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._engine.run, function)

    async def _find(self, instance: InstanceId) -> str | None:
        if instance not in self._ids:
            found = await self._list(instance)
            if not found:
                return None
            self._ids[instance] = found[0]["Id"]
        return self._ids[instance]

    async def _list(self, instance: InstanceId | None) -> list[dict[str, Any]]:
        wanted = {"label": [*node_filters(self._node, instance), LABEL_INSTANCE]}
        return await self._call(lambda client: list(client.containers(all=True, filters=wanted)))

    async def _wait_ended(self, container: str) -> tuple[int, bool]:
        """(exit code, killed for memory), also of one that is removed meanwhile."""
        self._watch()
        waiter = _Waiter()
        self._waiters[container].add(waiter)
        try:
            while True:
                state = await self._call(lambda client: _state(client, container))
                if state is None:
                    return (_KILLED if waiter.code is None else waiter.code), False
                if state["Status"] in ("exited", "dead"):
                    return int(state["ExitCode"]), bool(state["OOMKilled"])
                await waiter.stirred.wait()
                waiter.stirred.clear()
        finally:
            self._waiters[container].discard(waiter)
            if not self._waiters[container]:
                del self._waiters[container]

    def _start(self, client: APIClient, spec: SandboxSpec, name: str, config: dict[str, Any]) -> str:
        if spec.network is not Network.EGRESS:
            return _start(client, name, config)
        self._close_egress(client)
        try:
            return _start(client, name, config)
        except APIError:
            self._egress.forget()  # its network may have been removed
            raise

    def _sweep(self, client: APIClient, grid: str, before: float) -> int:
        count = _sweep(client, grid, before)
        rows = client.containers(filters={"label": node_filters(self._node)})
        if any(row.get("HostConfig", {}).get("NetworkMode") == NETWORK for row in rows):
            self._close_egress(client)  # a firewall that was reloaded may have dropped its rules
        return count

    def _close_egress(self, client: APIClient) -> None:
        """Shut the egress network off from all but the world outside."""
        image = _own_image(client) or self._image
        if not image:
            raise SandboxError("gridnode runs in no container here", hint="set GRIDNODE_SANDBOX_IMAGE to its image")
        self._egress.ensure(client, image)

    def _keep_lines(self, client: APIClient, container: str, instance: InstanceId) -> None:
        if self._keep:
            with contextlib.suppress(DockerException, RequestException):  # it is to go, whatever becomes of its lines
                task = client.inspect_container(container)["Config"]["Labels"][LABEL_TASK]
                self._keep(task, instance, _log_lines(client, container, 0, _KEPT_LINES))

    def _watch(self) -> None:
        if self._events is None:
            loop = asyncio.get_running_loop()

            def stir(container: str | None, code: int | None) -> None:
                with contextlib.suppress(RuntimeError):  # the loop is closed
                    loop.call_soon_threadsafe(self._stir, container, code)

            self._events = Events(self._engine, node_filters(self._node), stir)
            self._events.start()

    def _stir(self, container: str | None, code: int | None) -> None:
        """Have the waiters of one container, or all of them, look again."""
        for key in [container] if container else list(self._waiters):
            for waiter in self._waiters.get(key, ()):
                waiter.code = waiter.code if code is None else code
                waiter.stirred.set()


def _start(client: APIClient, name: str, config: dict[str, Any]) -> str:
    container: str = client.create_container_from_config(config, name)["Id"]
    try:
        client.start(container)
    except (DockerException, RequestException):
        _remove(client, container)
        raise
    return container


def _terminate(client: APIClient, container: str) -> bool:
    """False when it has ended already."""
    try:
        client.kill(container, "SIGTERM")
    except APIError as exc:
        if exc.status_code in (404, 409):
            return False
        raise
    return True


def _remove(client: APIClient, container: str) -> None:
    try:
        client.remove_container(container, v=True, force=True)
    except APIError as exc:
        if exc.status_code not in (404, 409):  # 409: its removal is under way
            raise


def _state(client: APIClient, container: str) -> dict[str, Any] | None:
    try:
        state: dict[str, Any] = client.inspect_container(container)["State"]
    except NotFound:
        return None
    return state


def _logs(client: APIClient, container: str, lines: int) -> str:
    try:
        output: bytes = client.logs(container, tail=min(max(lines, 0), MAX_LOG_LINES))
    except APIError as exc:
        if exc.status_code in (404, 409):
            return ""
        raise
    return output[-MAX_LOG:].decode(errors="replace")


def _log_lines(client: APIClient, container: str, since: int, lines: int) -> list[Output]:
    """Reads from the end, and further back only while that is not all that is asked for: the engine has no index."""
    count = (min(_FIRST_LINES, lines) if since else lines) + len(STREAMS)
    while True:
        output, is_all = last_lines(_raw_log(client, container, since, count), count)
        found = sorted((line for line in output if line.time > since), key=lambda line: line.time)
        if is_all or len(found) >= lines:
            return found[-lines:]
        count *= 8


def _raw_log(client: APIClient, container: str, since: int, lines: int) -> bytes:
    """As the engine sends it: the SDK would drop which stream a line came from. Nothing of one that is gone."""
    url = f"{client.base_url}/v{client.api_version}/containers/{container}/logs"
    after = f"{since // 1_000_000_000}.{since % 1_000_000_000:09d}"
    asked: dict[str, str | int] = {"stdout": 1, "stderr": 1, "timestamps": 1, "tail": lines, "since": after}
    with client.get(url, params=asked, stream=True, timeout=client.timeout) as response:
        if response.status_code in (404, 409):
            return b""
        response.raise_for_status()
        raw = bytearray()
        for piece in response.iter_content(64 * 1024):
            raw += piece
            if len(raw) > _MAX_RAW_LOG:
                break
    return bytes(raw)


def _held(row: dict[str, Any]) -> Held:
    labels = row["Labels"]
    release, task, alike = (str(labels.get(label, "")) for label in (LABEL_RELEASE, LABEL_TASK, LABEL_SHAPE))
    return Held(InstanceId(labels[LABEL_INSTANCE]), release, task, alike, row.get("State") == "running")


def _sweep(client: APIClient, grid: str, before: float) -> int:
    wanted = {"label": [f"{LABEL_GRID}={grid}", LABEL_INSTANCE], "status": ["created", "exited", "dead"]}
    rows = client.containers(all=True, filters=wanted)
    ended = [row["Id"] for row in rows if row["Created"] < before and _ended(client, row["Id"]) < before]
    for container in ended:
        _remove(client, container)
    return len(ended)


def _ended(client: APIClient, container: str) -> float:
    """When, in unix seconds: 0 when it never ran, infinity when it runs after all or is gone."""
    state = _state(client, container)
    if state is None or state["Status"] not in ("created", "exited", "dead"):
        return math.inf
    finished = datetime.fromisoformat(state["FinishedAt"][:19] + "+00:00")
    return max(0.0, finished.timestamp())


def _own_image(client: APIClient) -> str | None:
    container = container_id(_MOUNTINFO.read_text(errors="replace"))
    if container is None:
        return None
    try:
        image: str = client.inspect_container(container)["Image"]
    except NotFound:
        return None
    return image
