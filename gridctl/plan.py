"""What a deploy would change: the project here against the release that the grid has."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from msgspec.structs import replace

from gridctl.client import Connecting
from gridctl.packages import is_vendored, packages_of
from gridctl.project import Project
from gridctl.render import clean, size
from gridctl.task_settings import changed_settings
from gridctl.upload import missing_of
from gridnode.errors import ChunkMissing, ManifestInvalid
from gridnode.messages import MAX_GET, ChunkPart
from gridnode.model import ChunkHash, Release, Root, TaskSpec
from gridnode.sync.chunk import EncodedChunk, verify
from gridnode.sync.manifest import Directory, EntryKind, RootDirectory, decode_node, root_hash
from gridnode.sync.tree import DEFAULT_BOUNDS, iter_files

__all__ = ["Difference", "Plan", "compare", "fetch_tree", "make_plan", "plan_fields", "plan_lines"]

_SHOWN = 50
_MAX_TREE = 256 * 1024 * 1024


class Giver(Protocol):
    """A Grid's part in it."""

    async def get_chunks(self, hashes: Sequence[ChunkHash]) -> list[ChunkPart]: ...


@dataclass(frozen=True, slots=True)
class Difference:
    """Names that only one of two has, or both with different content."""

    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.added or self.changed or self.removed)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a deploy would change. settings: what differs, by task; to_send: bytes before compression.

    files: the project's own; packages: those that it asks for; versions: of each, as it would be.
    """

    project: Project
    current: Release | None
    files: Difference
    tasks: Difference
    settings: dict[str, list[str]]
    to_send: int
    packages: Difference = Difference()
    versions: Mapping[str, object] = field(default_factory=dict)

    @property
    def renamed(self) -> bool:
        """Whether another project would take over."""
        return self.current is not None and self.current.project != self.project.name

    @property
    def changes(self) -> bool:
        """Whether the deploy would make a new release."""
        return bool(self.files or self.packages or self.tasks or self.renamed or self.current is None)


async def make_plan(connecting: Connecting, project: Project) -> Plan:
    """Ask the grid what it has; ChunkMissing when the node that was asked has not fetched its release yet."""
    async with connecting as grid:
        current = await grid.release()
        lacking = await missing_of(grid, project.chunks)
        nodes = dict(project.manifest.nodes)
        if current:
            await fetch_tree(grid, current.root, nodes)
    return await asyncio.to_thread(_plan, project, current, nodes, sum(project.chunks[chunk] for chunk in lacking))


def _plan(project: Project, current: Release | None, nodes: Mapping[ChunkHash, bytes], to_send: int) -> Plan:
    before = _entries(current.root, nodes) if current else {}
    old: dict[str, object] = {task.name: replace(task, code="") for task in current.tasks} if current else {}
    new: dict[str, object] = {task.name: replace(task, code="") for task in project.tasks}
    tasks = compare(old, new)
    settings = {name: changed_settings(_spec(old[name]), _spec(new[name])) for name in tasks.changed}
    after = _entries(project.manifest.root, nodes)
    files = compare(_own(before), _own(after))
    versions = packages_of(after)
    return Plan(project, current, files, tasks, settings, to_send, compare(packages_of(before), versions), versions)


def _own(entries: Mapping[str, object]) -> dict[str, object]:
    return {path: entry for path, entry in entries.items() if not is_vendored(path)}


def _spec(task: object) -> TaskSpec:
    assert isinstance(task, TaskSpec)
    return task


def compare(before: Mapping[str, object], after: Mapping[str, object]) -> Difference:
    """How two sets of named things differ, by name."""
    both = before.keys() & after.keys()
    return Difference(
        added=tuple(sorted(after.keys() - before.keys())),
        changed=tuple(sorted(name for name in both if before[name] != after[name])),
        removed=tuple(sorted(before.keys() - after.keys())),
    )


def _entries(root: Root, nodes: Mapping[ChunkHash, bytes]) -> dict[str, object]:
    """Files and links by path: kind and content, by hash."""
    found = iter_files(root, nodes.__getitem__)
    return {path: (entry.kind, entry.ref) for path, entry in found if entry.kind is not EntryKind.DIRECTORY}


async def fetch_tree(giver: Giver, root: Root, nodes: dict[ChunkHash, bytes]) -> None:
    """Add the tree's directories to `nodes`, fetching those that are not there; ManifestInvalid past the bounds."""
    wanted = [root_hash(root)]
    room = _MAX_TREE
    seen: set[ChunkHash] = set()
    while wanted:
        for name in await _fetch(giver, [name for name in wanted if name not in nodes], nodes):
            room -= len(nodes[name])
        seen |= set(wanted)
        if len(seen) > DEFAULT_BOUNDS.entries or room < 0:
            raise ManifestInvalid("the current release has more directories than can be compared")
        below = (name for above in wanted for name in _directories(nodes[above]))
        wanted = [name for name in dict.fromkeys(below) if name not in seen]


def _directories(content: bytes) -> Iterator[ChunkHash]:
    node = decode_node(content)
    if not isinstance(node, RootDirectory | Directory):
        raise ManifestInvalid("a directory's place holds something else")
    for entry in node.entries:
        if entry.kind is EntryKind.DIRECTORY and isinstance(entry.ref, bytes):
            yield ChunkHash(entry.ref)


async def _fetch(giver: Giver, names: list[ChunkHash], nodes: dict[ChunkHash, bytes]) -> list[ChunkHash]:
    left = dict.fromkeys(names)
    while left:
        asked = list(left)[:MAX_GET]
        parts = [part for part in await giver.get_chunks(asked) if part.hash in left]
        if not parts:
            raise ChunkMissing(
                "the node that was asked lacks parts of the current release",
                hint="it may be fetching them still: `gridctl ls` shows how far it is",
            )
        for part in parts:
            nodes[part.hash] = verify(part.hash, EncodedChunk(part.codec, part.length, part.payload))
            left.pop(part.hash, None)
    return names


def plan_lines(plan: Plan) -> Iterator[str]:
    """The plan as people read it."""
    if plan.renamed and plan.current:
        yield f"project {clean(plan.current.project)} → {clean(plan.project.name)}"
    yield from _listed("file", plan.files, {})
    yield from _listed("package", plan.packages, _versions(plan))
    yield from _listed("task", plan.tasks, plan.settings)
    if not plan.changes:
        yield "nothing would change"
        return
    files = plan.files
    counts = f"{len(files.added)} added, {len(files.changed)} changed, {len(files.removed)} removed"
    against = f"release {plan.current.sequence}" if plan.current else "an empty grid"
    yield f"against {against}: files {counts}; at most {size(plan.to_send)} to send"


def _versions(plan: Plan) -> dict[str, list[str]]:
    return {name: [one] for name, one in plan.versions.items() if isinstance(one, str)}


def _listed(what: str, difference: Difference, settings: Mapping[str, list[str]]) -> Iterator[str]:
    for sign, names in (("+", difference.added), ("~", difference.changed), ("-", difference.removed)):
        for name in names[:_SHOWN]:
            yield f"{sign} {what} {clean(name)}" + (f": {clean('; '.join(settings[name]))}" if name in settings else "")
        if len(names) > _SHOWN:
            yield f"{sign} {len(names) - _SHOWN} more {what}s"


def plan_fields(plan: Plan) -> dict[str, Any]:
    """The plan as `--json` prints it; bytes_to_send: before compression."""
    return {
        "changes": plan.changes,
        "project": plan.project.name,
        "current": {"project": plan.current.project, "sequence": plan.current.sequence, "root": plan.current.root}
        if plan.current
        else None,
        "root": plan.project.manifest.root,
        "files": _fields(plan.files),
        "packages": _fields(plan.packages),
        "tasks": _fields(plan.tasks) | {"settings": plan.settings},
        "bytes_to_send": plan.to_send,
    }


def _fields(difference: Difference) -> dict[str, Any]:
    named = {"added": difference.added, "changed": difference.changed, "removed": difference.removed}
    return {key: [clean(name.encode("utf-8", "replace").decode()) for name in names] for key, names in named.items()}
