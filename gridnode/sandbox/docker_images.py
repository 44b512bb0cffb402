"""Images in a Docker engine: whether it has one, `docker load` from a stream, and removal."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import msgspec
from docker.api.client import APIClient  # type: ignore[import-untyped]
from docker.errors import APIError, ImageNotFound  # type: ignore[import-untyped]

from gridnode.errors import SandboxError
from gridnode.model import Image
from gridnode.sandbox.docker_engine import Engine

T = TypeVar("T")
DEFAULT_URL = "unix:///var/run/docker.sock"
_LOAD_TIMEOUT = 600.0
"""Seconds the engine may be silent while it unpacks."""
_CONFLICT = 409


class DockerImages:
    """An ImageEngine. timeout: seconds the engine may take to answer one request."""

    def __init__(self, url: str = DEFAULT_URL, timeout: float = 30.0) -> None:
        self._engine = Engine(url, timeout)

    def close(self) -> None:
        """Let go of the engine."""
        self._engine.close()

    async def holds(self, name: str, image: Image) -> bool:
        """Whether it has the image under this name, which is given to it where only that is lacking."""
        return await self._aside(lambda client: _holds(client, name, image))

    async def version(self) -> str:
        """Of the engine, and of its API: `20.10.24, API 1.41`."""
        said = await self._aside(lambda client: client.version())
        return f"{said.get('Version', '?')}, API {said.get('ApiVersion', '?')}"

    async def has(self, name: str) -> bool:
        """Whether it has an image of this name or id."""
        return await self._aside(lambda client: _inspect(client, name) is not None)

    async def load(self, parts: Iterator[bytes]) -> None:
        """Take an archive, piece by piece; what `parts` raises comes through, SandboxError when it is refused."""
        given_up = threading.Event()
        try:
            await self._aside(lambda client: _load(client, _until(given_up, parts)))
        finally:
            given_up.set()

    async def remove(self, name: str, image: Image) -> bool:
        """Take the name from it, and it away when it has no other; False while a container uses it."""
        return await self._aside(lambda client: _remove(client, name, image))

    async def _aside(self, function: Callable[[APIClient], T]) -> T:
        """In a thread of its own, which nobody joins: an engine that unpacks would hold up the exit."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()

        def settle(result: T | None, error: Exception | None) -> None:
            if answer.done():
                return
            if error:
                answer.set_exception(error)
            else:
                answer.set_result(result)  # type: ignore[arg-type]

        def run() -> None:
            result, error = None, None
            try:
                result = self._engine.run(function)
            except Exception as exc:
                error = exc
            try:
                loop.call_soon_threadsafe(settle, result, error)
            except RuntimeError:  # the loop is closed: nobody waits any more
                return

        threading.Thread(target=run, name="engine-images", daemon=True).start()
        return await answer


def _until(given_up: threading.Event, parts: Iterator[bytes]) -> Iterator[bytes]:
    for part in parts:
        if given_up.is_set():
            raise SandboxError("the image is no longer wanted")
        if part:  # an empty piece would end the request's body
            yield part


def _inspect(client: APIClient, name: str) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = client.inspect_image(name)
    except ImageNotFound:
        return None
    return found


def _ids(image: Image) -> tuple[str, str]:
    """What the engine may call it: by its configuration, or by its manifest where it keeps images in containerd."""
    return f"sha256:{image.id}", f"sha256:{image.manifest}"


def _is(row: dict[str, Any] | None, image: Image) -> bool:
    return row is not None and row["Id"] in _ids(image)


def _holds(client: APIClient, name: str, image: Image) -> bool:
    if _is(_inspect(client, name), image):
        return True
    for one in _ids(image):
        if _is(_inspect(client, one), image):
            repository, _, tag = name.rpartition(":")
            client.tag(one, repository, tag)
            return True
    return False


def _load(client: APIClient, parts: Iterator[bytes]) -> None:
    url = f"{client.base_url}/v{client.api_version}/images/load"
    headers = {"Content-Type": "application/x-tar"}
    with client.post(url, data=parts, headers=headers, params={"quiet": 0}, stream=True, timeout=_LOAD_TIMEOUT) as said:
        if said.status_code >= 400:
            raise SandboxError(f"the container engine does not take the image: {said.text[:500]}")
        for line in said.iter_lines():
            _raise_refused(line)


def _raise_refused(line: bytes) -> None:
    try:
        told = msgspec.json.decode(line, type=dict[str, Any]) if line.strip() else {}
    except msgspec.MsgspecError:
        return
    if "error" in told:
        raise SandboxError(f"the container engine does not take the image: {str(told['error'])[:500]}")


def _remove(client: APIClient, name: str, image: Image) -> bool:
    """A name that means another image by now is left alone, and so is an image that somebody named otherwise."""
    if _is(_inspect(client, name), image):
        return _untag(client, name)
    for one in _ids(image):
        row = _inspect(client, one)
        if _is(row, image) and row and not row["RepoTags"]:
            return _untag(client, one)
    return True


def _untag(client: APIClient, what: str) -> bool:
    try:
        client.remove_image(what)
    except ImageNotFound:
        return True
    except APIError as exc:
        if exc.status_code == _CONFLICT:
            return False
        raise
    return True
