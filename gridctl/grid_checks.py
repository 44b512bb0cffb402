"""What is wrong with a grid as a whole, judged by what its nodes say."""

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from gridctl.render import span
from gridnode.diagnosis import Check, Verdict
from gridnode.messages import ProcessReport
from gridnode.model import Address, Member, MemberState, Release, ReleaseState

__all__ = [
    "Clock",
    "check_clocks",
    "check_members",
    "check_names",
    "check_release",
    "check_seeds",
    "check_tasks",
    "check_versions",
    "clock_of",
]

SKEW_NOTED: Final = 1.0
SKEW_WRONG: Final = 30.0
"""Seconds. From 300 on nodes take what others multicast for a replay; logs and cards go wrong before."""
_FEW: Final = 5
_NTP: Final = "does it keep time? `timedatectl` shows it; chrony or systemd-timesyncd set it"


class Clock(NamedTuple):
    """How far a node's clock is ahead of the one here, and how wrong that may be; seconds."""

    ahead: float
    unsure: float


def clock_of(asked: int, answered: int, now: int, took: int) -> Clock:
    """asked, answered: by the clock here; now: by the node's when it began, and how long it took; nanoseconds."""
    way = max(0, answered - asked - took)
    return Clock((now - asked - way / 2) / 1e9, way / 2e9)


def check_clocks(clocks: Mapping[str, Clock]) -> list[Check]:
    """By node's name. What most nodes agree on is the time; if that is not the time here, it is here that is wrong."""
    if not clocks:
        return []
    middle = statistics.median_low([clock.ahead for clock in clocks.values()])
    checks = []
    for name, clock in clocks.items():
        verdict = _skew(clock.ahead - middle, clock.unsure)
        if verdict is not Verdict.OK:
            said = f"the clock of {name} is {_ahead(clock.ahead - middle)} most others"
            checks.append(Check("clocks", verdict, said, _NTP))
    here = _skew(middle, min(clock.unsure for clock in clocks.values()))
    if here is not Verdict.OK:
        checks.append(Check("clocks", here, f"the clock of this machine is {_ahead(-middle)} those of the nodes", _NTP))
    most = max(abs(clock.ahead - middle) for clock in clocks.values())
    return checks or [Check("clocks", Verdict.OK, f"at most {most * 1000:.0f} ms apart")]


def _skew(off: float, unsure: float) -> Verdict:
    certain = abs(off) - unsure
    return Verdict.WRONG if certain > SKEW_WRONG else Verdict.NOTE if certain > SKEW_NOTED else Verdict.OK


def _ahead(seconds: float) -> str:
    return f"{abs(seconds):.1f} s {'ahead of' if seconds > 0 else 'behind'}"


def check_members(members: Sequence[Member], now: float) -> list[Check]:
    """Who is there. now: unix seconds."""
    checks = []
    for member in members:
        name, since = member.record.name, span(now - member.since)
        if member.state is MemberState.DEAD:
            hint = f"`gridctl ssh` and `systemctl status gridnode` there; if it is gone for good: gridctl forget {name}"
            checks.append(Check("members", Verdict.WRONG, f"{name} is dead, for {since}", hint))
        elif member.state is MemberState.SUSPECT:
            hint = "its link broke; a moment shows whether it is back"
            checks.append(Check("members", Verdict.NOTE, f"{name} is suspect, for {since}", hint))
        elif member.state is MemberState.ALIVE and member.record.drained:
            checks.append(Check("members", Verdict.NOTE, f"{name} is drained", f"gridctl undrain {name}"))
    alive = sum(member.state is MemberState.ALIVE for member in members)
    return checks or [Check("members", Verdict.OK, f"{alive} nodes, all alive")]


def check_release(members: Iterable[Member], release: Release | None) -> list[Check]:
    """Whether every node within reach serves what the ledger says."""
    if release is None:
        return [Check("release", Verdict.OK, "none yet: `gridctl deploy` puts a project there")]
    checks, serving = [], 0
    for member in members:
        status, name = member.record.release, member.record.name
        if member.state is not MemberState.ALIVE:
            continue
        if status is None or status.sequence != release.sequence:
            held = f"release {status.sequence}" if status else "none"
            hint = f"`gridctl logs --system --node {name}` says what holds it up"
            said = f"{name} is at {held}, the grid at release {release.sequence}"
            checks.append(Check("release", Verdict.WRONG, said, hint))
        elif status.state is ReleaseState.FAILED:
            said = f"release {release.sequence} failed on {name}: {status.error}"
            checks.append(Check("release", Verdict.WRONG, said, "mend it and `gridctl deploy`, or `gridctl rollback`"))
        elif status.state is not ReleaseState.ACTIVE:
            said = f"{name} is {status.state.value} release {release.sequence}"
            checks.append(Check("release", Verdict.NOTE, said, "`gridctl ls --watch` shows how far it is"))
        else:
            serving += 1
    return checks or [
        Check("release", Verdict.OK, f"{release.sequence}, {release.root[:8]}, serves on {serving} nodes")
    ]


def check_versions(members: Iterable[Member]) -> Check:
    """Whether all run one gridnode."""
    counted = Counter(member.record.version for member in members if member.state is MemberState.ALIVE)
    said = ", ".join(f"{version} on {count}" for version, count in sorted(counted.items()))
    if len(counted) > 1:
        return Check("versions", Verdict.NOTE, f"gridnode {said} nodes", "`gridctl upgrade` brings all to one")
    return Check("versions", Verdict.OK, f"gridnode {said} nodes")


def check_names(members: Iterable[Member]) -> Check:
    """Whether a name means one node."""
    counted = Counter(member.record.name for member in members if member.state is not MemberState.LEFT)
    twice = sorted(name for name, count in counted.items() if count > 1)
    if twice:
        hint = "give them names: GRIDNODE_NAME; of a server made anew, `gridctl forget ID` takes the old node out"
        return Check("names", Verdict.NOTE, f"more than one node is called {', '.join(twice[:_FEW])}", hint)
    return Check("names", Verdict.OK, "every node has its own")


def check_seeds(answers: Mapping[Address, str]) -> list[Check]:
    """By seed of the Gridfile, why it did not answer; nothing when it did."""
    hint = "is gridnode running there, and may this machine reach its port? else take it out of the Gridfile"
    checks = [Check("seeds", Verdict.WRONG, f"{seed}: {error}", hint) for seed, error in answers.items() if error]
    return checks or [Check("seeds", Verdict.OK, f"all {len(answers)} of the Gridfile answer this machine")]


def check_tasks(reports: Iterable[ProcessReport]) -> list[Check]:
    """Whether a task file has given up somewhere."""
    errored: dict[str, list[str]] = {}
    for report in reports:
        for task in sorted({one.task for one in report.processes if one.state == "errored"}):
            errored.setdefault(task, []).append(report.name)
    checks = []
    for task, names in sorted(errored.items()):
        hint = f"`gridctl ps {task}` shows its last lines, `gridctl restart {task}` tries again"
        said = f"{task} ended too often on {', '.join(names[:_FEW])}"
        checks.append(Check("tasks", Verdict.WRONG, said, hint))
    return checks or [Check("tasks", Verdict.OK, "none has ended too often")]
