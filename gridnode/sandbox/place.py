"""Where a node's sandboxes run: what all of them have in common, and the spec of one from a release's task."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gridnode.errors import SandboxError
from gridnode.model import InstanceId, NodeId, Release, TaskSpec
from gridnode.sandbox import SandboxSpec

MAX_TMP: Final = 64 * 1024 * 1024
"""Bytes of /tmp, which count as the sandbox's memory; half of that where it is small."""


SECRETS = "secrets"

MountSecrets = Callable[[Path, tuple[str, ...]], None]
"""Keeps the secrets of these names as files in the directory; raises SandboxError."""


def _no_secrets(directory: Path, names: tuple[str, ...]) -> None:
    raise SandboxError("this node keeps no secrets")


def _no_files(name: str) -> Path:
    raise SandboxError(f"this node keeps no files {name}")


@dataclass(frozen=True, slots=True)
class Place:
    """image, node_image: for tasks that name none; runtimes_dir: what is mounted into them, or the images' own.

    run_dir: the host's path for sockets, short. python: the version in `image`, where that is the node's own.
    files: where the grid's directory of a name is; raises a GridError.
    """

    node: NodeId
    name: str
    grid: str
    image: str
    run_dir: Path
    mount_secrets: MountSecrets = _no_secrets
    node_image: str = ""
    runtimes_dir: Path | None = None
    python: str = ""
    files: Callable[[str], Path] = _no_files

    def spec(self, instance: InstanceId, release: Release, task: TaskSpec, directory: Path) -> SandboxSpec:
        """One instance of this task. directory: the release's."""
        image = task.image or self._image(task.runtime)
        return SandboxSpec(
            instance=instance,
            node=self.node,
            node_name=self.name,
            grid=self.grid,
            release=release.root,
            task=task.name,
            file=task.file,
            runtime=task.runtime,
            image=image,
            release_dir=str(directory),
            socket_dir=str(self.run_dir / instance),
            memory=task.memory,
            cpu=task.cpu,
            concurrency=task.concurrency,
            network=task.network,
            env=task.env,
            secrets_dir=str(self.run_dir / instance / SECRETS) if task.secrets else "",
            runtimes_dir=str(self.runtimes_dir or ""),
            runtime_class=task.runtime_class,
            health=task.health,
            code=task.code,
            python=self.python if image == self.image else "",
            files={name: str(self.files(name)) for name in task.files},
            tmp_size=min(MAX_TMP, task.memory // 2),
        )

    def _image(self, runtime: str) -> str:
        """None for `image`: such a task names its own."""
        return {"node": self.node_image, "image": ""}.get(runtime, self.image)

    def furnish(self, spec: SandboxSpec, task: TaskSpec) -> None:
        """Put its secrets where this instance of the task finds them; they go with its socket."""
        if spec.secrets_dir:
            self.mount_secrets(Path(spec.secrets_dir), task.secrets)
