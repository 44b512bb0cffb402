"""The gridnode image on this side: from the local engine or a file, compressed once for all servers."""

import asyncio
import hashlib
import json
import os
import tempfile
import zlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

from gridctl.steps import IMAGE_FORMAT
from gridnode.errors import UsageError

__all__ = ["LocalImage", "PackedImage", "find_image"]

_BLOCK = 1024 * 1024
_HINT = "build it with scripts/image, or name a registry's in the Gridfile: image = 'example.com/gridnode:1'"


@dataclass(frozen=True, slots=True)
class LocalImage:
    """An image of the local engine. mark: SHA-256 of its IMAGE_FORMAT as the engine prints it."""

    name: str
    id: str
    mark: str
    architecture: str


async def find_image(name: str) -> LocalImage:
    """The image of that name in the local engine; UsageError where there is none."""
    described = json.loads(await _docker("image", "inspect", "-f", "[{{json .Id}},{{json .Architecture}}]", name))
    output = await _docker("image", "inspect", "-f", IMAGE_FORMAT, described[0])  # the name may move on meanwhile
    return LocalImage(name, described[0], hashlib.sha256(output).hexdigest(), described[1])


async def _docker(*argv: str) -> bytes:
    try:
        process = await asyncio.create_subprocess_exec(
            "docker", *argv, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
    except FileNotFoundError as exc:
        raise UsageError("this machine has no docker command, so there is no image to send", hint=_HINT) from exc
    output, errors = await process.communicate()
    if process.returncode:
        raise UsageError(f"no image {argv[-1]} to send: {errors.decode(errors='replace').strip()[-300:]}", hint=_HINT)
    return output


class PackedImage:
    """`docker save` compressed into a temporary file, begun when the first server asks, read by all while it grows."""

    def __init__(self, image: str) -> None:
        self._image = image
        self._file = tempfile.TemporaryFile(prefix="gridctl-")  # noqa: SIM115
        self._job: asyncio.Task[None] | None = None
        self._size = 0
        self._over = False
        self._changed = asyncio.Condition()

    async def stream(self) -> AsyncIterator[bytes]:
        """All of it; UsageError when the engine cannot save it."""
        job = self._job = self._job or asyncio.create_task(self._pack(), name="pack image")
        sent = 0
        while sent < self._size or not self._over:
            async with self._changed:
                while sent == self._size and not self._over:
                    await self._changed.wait()
            while block := os.pread(self._file.fileno(), min(_BLOCK, self._size - sent), sent):
                sent += len(block)
                yield block
        await job

    async def close(self) -> None:
        """Stop packing, and let the file go."""
        if self._job:
            self._job.cancel()
            await asyncio.gather(self._job, return_exceptions=True)
        self._file.close()

    async def _pack(self) -> None:
        process = await asyncio.create_subprocess_exec(
            "docker", "save", self._image, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, limit=_BLOCK
        )
        assert process.stdout
        assert process.stderr
        packer = zlib.compressobj(1, wbits=31)
        try:
            while block := await process.stdout.read(_BLOCK):
                await self._add(await asyncio.to_thread(packer.compress, block))
            await self._add(packer.flush())
            errors = await process.stderr.read()
            if await process.wait():
                raise UsageError(
                    f"the local engine cannot save {self._image}: {errors.decode(errors='replace')[-300:]}"
                )
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
            async with self._changed:
                self._over = True
                self._changed.notify_all()

    async def _add(self, block: bytes) -> None:
        self._file.write(block)
        self._file.flush()
        async with self._changed:
            self._size += len(block)
            self._changed.notify_all()
