"""Where a node's sandboxes run: what all of them have in common, and the spec of one from a release's task."""

from dataclasses import dataclass
from pathlib import Path

from gridnode.model import InstanceId, NodeId, Release, TaskSpec
from gridnode.sandbox import SandboxSpec


@dataclass(frozen=True, slots=True)
class Place:
    """image: the Python runtime's, for tasks that name none; run_dir: the host's path for sockets, short."""

    node: NodeId
    name: str
    grid: str
    image: str
    run_dir: Path

    def spec(self, instance: InstanceId, release: Release, task: TaskSpec, directory: Path) -> SandboxSpec:
        """One instance of this task. directory: the release's."""
        return SandboxSpec(
            instance=instance,
            node=self.node,
            node_name=self.name,
            grid=self.grid,
            release=release.root,
            task=task.name,
            file=task.file,
            runtime=task.runtime,
            image=task.image or self.image,
            release_dir=str(directory),
            socket_dir=str(self.run_dir / instance),
            memory=task.memory,
            cpu=task.cpu,
            concurrency=task.concurrency,
            network=task.network,
            env=task.env,
            runtime_class=task.runtime_class,
        )
