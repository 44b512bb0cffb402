"""The plan as a server will see it: what runs, in which order, as whom, and what comes on stdin."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridctl.steps import (
    MAX_SKEW,
    MIN_DISK,
    Feed,
    Intent,
    Plan,
    complaints,
    forget_key_plan,
    key_plan,
    provision_plan,
    removal_plan,
    restart_plan,
)
from gridctl.units import environment_text, unit_texts

KEY = "ssh-ed25519 " + "A" * 68
INTENT = Intent(
    image="gridcontrol/gridnode:1.2.3",
    mark="ab" * 32,
    tag="0123456789abcdef",
    public_key=f"{KEY} somebody",
    units=(("gridnode.service", "[Unit]\n"), ("gridnode.path", "[Path]\n")),
    environment="GRIDNODE_IMAGE=x\n",
    architecture="amd64",
)
NOW = 1_800_000_000.0
FACTS = (
    "system=debian \nname=Debian GNU/Linux 12\nmachine=x86_64\n"
    f"time={NOW:.0f}\ndisk={MIN_DISK}\nsystemd=yes\n/usr/bin/apt-get\napt=yes\n"
)


def described(plan: Plan) -> list[tuple[str, bool, bool, object, tuple[str, ...]]]:
    """(name, as root, has a check, stdin, arguments) of each step."""
    return [(one.name, one.act.root, one.check is not None, one.act.stdin, one.act.argv[4:]) for one in plan]


def test_from_a_bare_server_to_a_node() -> None:
    units = "/etc/systemd/system"
    assert described(provision_plan(INTENT)) == [
        ("key", False, True, b"", (f"{KEY} somebody",)),
        ("system", True, False, b"", ()),
        ("engine", True, True, b"", ()),
        ("image", True, True, Feed.IMAGE, ("gridcontrol/gridnode:1.2.3",)),
        ("settings", True, True, b"GRIDNODE_IMAGE=x\n", ("gridcontrol/gridnode:1.2.3",)),
        ("gridnode.service", True, True, b"[Unit]\n", (f"{units}/gridnode.service",)),
        ("gridnode.path", True, True, b"[Path]\n", (f"{units}/gridnode.path",)),
        ("card", True, True, Feed.CARD, ()),
        ("start", True, True, b"", ("gridnode.service", "gridnode.path")),
    ]


def test_back_to_a_server_without_a_node() -> None:
    assert [step.name for step in removal_plan(INTENT)] == ["stop", "sandboxes", "image", "files", "key"]
    assert all(step.check for step in removal_plan(INTENT))


@pytest.mark.parametrize("key", ["", "ssh-ed25519", "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5", "A", f"x' {KEY}"])
def test_what_is_no_key_is_not_taken_out_of_others(key: str) -> None:
    assert forget_key_plan(key) == ()
    assert [step.act.argv[4:] for step in forget_key_plan(f"{KEY} mine")] == [(KEY,)]


def test_an_image_of_a_registry_is_pulled_and_nothing_is_sent() -> None:
    plan = provision_plan(Intent(**{**{name: getattr(INTENT, name) for name in INTENT.__slots__}, "mark": ""}))
    image = next(step for step in plan if step.name == "image")
    assert image.act.argv[2:] == ('docker pull -q "$1"', "gridctl", INTENT.image)
    assert image.act.stdin == b""


def test_without_a_public_key_none_is_placed() -> None:
    plan = provision_plan(Intent(**{**{name: getattr(INTENT, name) for name in INTENT.__slots__}, "public_key": ""}))
    assert plan[0].name == "system"


def test_arguments_are_never_part_of_a_script() -> None:
    """Names come from a Gridfile: a quote in one must not end a word of the shell."""
    evil = "x'; touch /tmp/owned; '"
    intent = Intent(evil, INTENT.mark, INTENT.tag, f"ssh-ed25519 {evil}", ((evil, ""),), evil)
    keys = (*key_plan(intent.public_key), *forget_key_plan(intent.public_key))
    plan = (*provision_plan(intent), *removal_plan(intent), *restart_plan((evil,)), *keys)
    commands = [command for step in plan for command in (step.act, step.check)]
    assert [command.argv[2] for command in commands if command and evil in command.argv[2]] == []


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("", "", None),
        ("system=debian ", "system=ubuntu debian", None),
        ("system=debian ", "system=linuxmint ubuntu debian", None),
        ("system=debian ", "system=fedora ", "it runs Debian GNU/Linux 12; gridctl provisions Debian and Ubuntu"),
        ("apt=yes\n", "", "gridctl provisions Debian and Ubuntu"),
        ("systemd=yes\n", "", "it was not booted with systemd"),
        ("machine=x86_64", "machine=aarch64", "it is aarch64, the image is for amd64"),
        (f"disk={MIN_DISK}", f"disk={MIN_DISK - 1024}", "1023 MiB are free under /var/lib, 1024 are needed"),
        (f"time={NOW:.0f}", f"time={NOW + MAX_SKEW:.0f}", None),
        (f"time={NOW:.0f}", f"time={NOW + 3600:.0f}", "its clock is 3600 s ahead of this machine's"),
        (f"time={NOW:.0f}", f"time={NOW - 3600:.0f}", "its clock is 3600 s behind this machine's"),
    ],
)
def test_what_a_server_must_be(old: str, new: str, complaint: str | None) -> None:
    found = complaints(FACTS.replace(old, new, 1), NOW, "amd64")
    assert len(found) == (complaint is not None)
    assert all(str(complaint) in text for text in found)


@given(st.text(max_size=400))
def test_a_server_may_print_anything(output: str) -> None:
    assert complaints(output, NOW, "amd64")
    assert isinstance(complaints(FACTS + output, NOW), list)


def test_the_unit_and_the_plan_agree() -> None:
    units = dict(unit_texts())
    assert list(units) == ["gridnode.service", "gridnode.path"]
    assert "EnvironmentFile=/etc/gridnode/gridnode.env" in units["gridnode.service"]
    assert re.findall(r"^GRIDNODE_IMAGE=", environment_text(), re.MULTILINE) == ["GRIDNODE_IMAGE="]
    for path in ("/var/lib/gridnode", "/run/gridnode"):
        assert f"--volume {path}:{path} " in units["gridnode.service"]
