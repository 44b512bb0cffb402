"""Gets an image out of this machine's container engine, by the `docker` command."""

import subprocess
from collections.abc import Callable
from typing import IO, Final

from gridnode.errors import UsageError
from gridnode.task_bounds import is_image

__all__ = ["save"]

_PIECE: Final = 1024 * 1024
_TIMEOUT: Final = 60.0


def save(name: str, file: IO[bytes], limit: int, on_progress: Callable[[int, int], None]) -> None:
    """Write the engine's image to `file`, as `docker save`; UsageError when there is no such image or engine.

    on_progress: bytes so far, and of the image as the engine states them.
    """
    if not is_image(name):
        raise UsageError(f"{name!r:.80} is neither a file nor the name of an image")
    total = _size(name)
    if total > limit:
        raise UsageError(f"{name} has {total} bytes, at most {limit} are taken", hint="--max-size allows more")
    with subprocess.Popen(["docker", "image", "save", name], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as saving:
        assert saving.stdout
        assert saving.stderr
        done = 0
        while piece := saving.stdout.read(_PIECE):
            file.write(piece)
            done += len(piece)
            on_progress(done, max(done, total))
        said = saving.stderr.read(4096).decode(errors="replace").strip()
    if saving.returncode:
        raise UsageError(f"docker cannot save {name}: {said}")
    file.flush()


def _size(name: str) -> int:
    """Bytes, as the engine states them."""
    try:
        ended = subprocess.run(
            ["docker", "image", "inspect", "--format", "{{.Size}}", name],
            check=False,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT,
        )
    except FileNotFoundError as exc:
        hint = "install docker here, or give the file that `docker save IMAGE -o FILE` made elsewhere"
        raise UsageError("there is no docker command on this machine", hint=hint) from exc
    except subprocess.TimeoutExpired as exc:
        raise UsageError(f"the container engine does not answer within {_TIMEOUT:g} s") from exc
    if ended.returncode:
        hint = "`docker images` lists those it has; a file that `docker save` made does as well"
        raise UsageError(f"no image {name} on this machine: {ended.stderr.strip()[:300]}", hint=hint)
    return int(ended.stdout)
