"""What packages are chosen for: a Python version on a kind of machine, as the grid's nodes tell it."""

from collections.abc import Iterable
from typing import Final, NamedTuple

from gridnode.errors import ProjectInvalid
from gridnode.messages import is_runtime
from gridnode.model import Member, MemberState

__all__ = ["Target", "targets_of"]

_GLIBC: Final = (17, 28, *range(31, 41))
"""The minor versions of glibc 2 that uv knows as platforms."""
_NPM_CPUS: Final = {"x86_64": "x64", "aarch64": "arm64"}


class Target(NamedTuple):
    """machine: as `uname -m` says; python: `3.13`; libc: the version of glibc, empty for musl."""

    python: str = "3.13"
    machine: str = "x86_64"
    libc: str = "2.41"

    @property
    def tag(self) -> str:
        """Name of its tree of packages; the Python runtime makes the same of its own version and machine."""
        return f"{self.python}-{self.machine}"

    @property
    def platform(self) -> str:
        """uv's name for it: the newest platform that is no newer than the nodes'; ProjectInvalid without one."""
        if self.machine not in _NPM_CPUS:
            raise ProjectInvalid(
                f"the grid has nodes of the kind {self.machine}, for which no packages can be chosen",
                hint=f"known are {' and '.join(_NPM_CPUS)}; keep packages for others in the project's vendor/",
            )
        if not self.libc:
            return f"{self.machine}-unknown-linux-musl"
        minor = int(self.libc.partition(".")[2].partition(".")[0] or 0)
        return f"{self.machine}-manylinux_2_{max((known for known in _GLIBC if known <= minor), default=_GLIBC[0])}"

    @property
    def npm_flags(self) -> tuple[str, ...]:
        """By which npm chooses among packages that are there once for every platform."""
        libc = "glibc" if self.libc else "musl"
        return "--os=linux", f"--cpu={_NPM_CPUS.get(self.machine, self.machine)}", f"--libc={libc}"

    def __str__(self) -> str:
        return f"Python {self.python} on {self.machine}"


def targets_of(members: Iterable[Member]) -> tuple[Target, ...]:
    """One for each kind of node, by name, those that are away included; the default where no node tells.

    Of nodes that differ in nothing but their libc, the oldest counts: what fits it fits all.
    """
    found: dict[str, Target] = {}
    for member in members:
        told = member.record.runtime
        if told is None or not is_runtime(told) or member.state is MemberState.LEFT:
            continue
        target = Target(told.python, told.machine, told.libc)
        known = found.get(target.tag, target)
        found[target.tag] = min(known, target, key=lambda one: _version(one.libc))
    return tuple(found[tag] for tag in sorted(found)) or (Target(),)


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".") if part.isdigit())
