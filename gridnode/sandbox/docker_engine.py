"""The connection to a Docker engine: the boundary where the SDK's errors end, and its stream of events."""

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from docker.api.client import APIClient  # type: ignore[import-untyped]
from docker.errors import APIError, DockerException, ImageNotFound  # type: ignore[import-untyped]
from requests.exceptions import RequestException

from gridnode.errors import EngineUnavailable, SandboxError

log = logging.getLogger(__name__)

T = TypeVar("T")
_EVENTS_OVERLAP = 5
_EVENTS_RETRY = 1.0
_CLOSE_WITHIN = 2.0


class Engine:
    """The connection to the engine, made at first use. timeout: seconds it may take to answer one request."""

    def __init__(self, url: str, timeout: float) -> None:
        self._url = url
        self._timeout = timeout
        self._lock = threading.Lock()
        self._client: APIClient | None = None

    def run(self, function: Callable[[APIClient], T]) -> T:
        """What the function makes of the SDK's client; its errors are SandboxError and EngineUnavailable."""
        try:
            return function(self._connected())
        except (DockerException, RequestException, OSError) as exc:
            raise self._translated(exc) from exc

    def close(self) -> None:
        if self._client:
            self._client.close()

    def _connected(self) -> APIClient:
        with self._lock:
            if self._client is None:
                self._client = APIClient(self._url, version="auto", timeout=self._timeout)
            return self._client

    def _translated(self, exc: Exception) -> SandboxError:
        if isinstance(exc, ImageNotFound):
            return SandboxError(
                f"the sandbox image is not on this server: {exc.explanation}",
                hint="`gridctl image push` ships it to every node; scripts/image --node makes that of JavaScript tasks",
            )
        if isinstance(exc, APIError):
            return SandboxError(f"the container engine refused: {exc.explanation or exc}")
        return EngineUnavailable(
            f"no container engine answers at {self._url}: {exc}", hint="is it running? systemctl status docker"
        )


class Events(threading.Thread):
    """Tells `stir` of every such container that ends, and of everything (None) whenever it begins to listen.

    labels: filters for the containers.
    """

    def __init__(self, engine: Engine, labels: list[str], stir: Callable[[str | None, int | None], None]) -> None:
        super().__init__(name="engine-events", daemon=True)
        self._engine = engine
        self._filters = {"type": "container", "event": ["die", "destroy"], "label": labels}
        self._stir = stir
        self._closed = threading.Event()
        self._stream: Any = None

    def run(self) -> None:
        while not self._closed.is_set():
            try:
                self._engine.run(self._listen)
            except Exception as exc:  # also what the SDK's stream parser raises: exits must go on being noticed
                log.warning("engine events: %s", exc)
            self._closed.wait(_EVENTS_RETRY)

    def close(self) -> None:
        self._closed.set()
        if self._stream:
            with contextlib.suppress(DockerException, OSError):
                self._stream.close()
        self.join(_CLOSE_WITHIN)  # an engine that does not answer the question has no stream to close yet

    def _listen(self, client: APIClient) -> None:
        # The engine sends its headers before it subscribes us: `since` replays what falls in between.
        since = int(time.time()) - _EVENTS_OVERLAP
        self._stream = client.events(decode=True, filters=self._filters, since=since)
        self._stir(None, None)
        if self._closed.is_set():
            self._stream.close()
        for event in self._stream:
            code = event.get("Actor", {}).get("Attributes", {}).get("exitCode")
            self._stir(event["id"], int(code) if code is not None else None)
