import pytest

from gridctl.target import Target, targets_of
from gridnode.errors import ProjectInvalid
from gridnode.model import Member, MemberState, NodeId, NodeRecord, Runtime


def member(runtime: Runtime | None, state: MemberState = MemberState.ALIVE) -> Member:
    return Member(NodeRecord(NodeId("0" * 40), "node", 1, 1, (), "1", 1, runtime=runtime), state, 0.0)


def test_one_for_each_kind_of_node() -> None:
    x86, arm = Runtime("x86_64", "3.13", "2.41"), Runtime("aarch64", "3.13", "2.36")
    assert targets_of([member(x86), member(x86), member(arm, MemberState.DEAD)]) == (
        Target("3.13", "aarch64", "2.36"),
        Target("3.13", "x86_64", "2.41"),
    )
    assert [one.tag for one in targets_of([member(x86), member(Runtime("x86_64", "3.12", "2.41"))])] == [
        "3.12-x86_64",
        "3.13-x86_64",
    ]


def test_the_oldest_libc_counts() -> None:
    kinds = [member(Runtime("x86_64", "3.13", libc)) for libc in ("2.41", "2.9", "2.36")]
    assert targets_of(kinds) == (Target("3.13", "x86_64", "2.9"),)


def test_nodes_that_have_left_or_do_not_tell() -> None:
    gone = member(Runtime("aarch64", "3.13", "2.41"), MemberState.LEFT)
    assert targets_of([gone, member(None)]) == targets_of([]) == (Target(),)


@pytest.mark.parametrize(
    "told", [Runtime("../..", "3.13"), Runtime("x86_64", "--help"), Runtime("x86_64", "3.13", "9")]
)
def test_what_no_node_can_be_is_passed_over(told: Runtime) -> None:
    assert targets_of([member(told)]) == (Target(),)


@pytest.mark.parametrize(
    ("libc", "platform"),
    [
        ("2.41", "x86_64-manylinux_2_40"),
        ("2.36", "x86_64-manylinux_2_36"),
        ("2.30", "x86_64-manylinux_2_28"),
        ("2.5", "x86_64-manylinux_2_17"),
        ("", "x86_64-unknown-linux-musl"),
    ],
)
def test_the_platform_is_no_newer_than_the_nodes(libc: str, platform: str) -> None:
    assert Target(libc=libc).platform == platform


def test_npm_is_told_too() -> None:
    assert Target(machine="aarch64").npm_flags == ("--os=linux", "--cpu=arm64", "--libc=glibc")
    assert Target(libc="").npm_flags[2] == "--libc=musl"


def test_a_machine_without_wheels() -> None:
    with pytest.raises(ProjectInvalid, match="nodes of the kind mips"):
        _ = Target(machine="mips").platform
