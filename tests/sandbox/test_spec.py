import json
import re

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridnode.errors import SandboxError
from gridnode.model import InstanceId, NodeId
from gridnode.sandbox import SandboxSpec
from gridnode.sandbox.spec import container_config, container_id, container_name, environment, node_filters

SPEC = SandboxSpec(
    instance=InstanceId("0a1b2c3d"),
    node=NodeId("ab" * 20),
    node_name="attic",
    grid="home",
    release="cd" * 32,
    task="req",
    file="tasks/req.py",
    runtime="python",
    image="gridcontrol/gridnode:latest",
    release_dir="/var/lib/gridnode/releases/cd",
    socket_dir="/run/gridnode/0a1b2c3d",
    memory=256 * 1024 * 1024,
    cpu=0.5,
)


def changed(**fields: object) -> SandboxSpec:
    return msgspec.structs.replace(SPEC, **fields)


def test_every_default_that_isolates_is_there() -> None:
    config = container_config(SPEC)
    host = config["HostConfig"]
    assert config["User"] == "65534:65534"
    assert config["NetworkDisabled"] is True
    assert config["Healthcheck"] == {"Test": ["NONE"]}
    assert host["NetworkMode"] == "none"
    assert host["ReadonlyRootfs"] is True
    assert host["CapDrop"] == ["ALL"]
    assert host["SecurityOpt"] == ["no-new-privileges:true"]
    assert host["IpcMode"] == "private"
    assert host["Init"] is True
    assert host["RestartPolicy"] == {"Name": "no"}
    assert host["Memory"] == host["MemorySwap"] == SPEC.memory
    assert host["NanoCpus"] == 500_000_000
    assert host["PidsLimit"] == 128
    assert host["LogConfig"]["Config"] == {"max-size": "1m", "max-file": "2"}
    options = host["Tmpfs"]["/tmp"].split(",")
    assert {"nosuid", "nodev", "noexec", f"size={SPEC.tmp_size}"} <= set(options)
    assert {"CapAdd", "Devices", "Binds", "PidMode", "UTSMode"}.isdisjoint(host)
    json.dumps(config)


def test_mounts_are_the_release_and_the_socket_only_and_read_only() -> None:
    mounts = container_config(SPEC)["HostConfig"]["Mounts"]
    assert {(m["Source"], m["Target"]) for m in mounts} == {
        (SPEC.release_dir, "/task"),
        (SPEC.socket_dir, "/run/grid"),
    }
    assert all(m["ReadOnly"] and m["Type"] == "bind" and m["BindOptions"]["Propagation"] == "rprivate" for m in mounts)


def test_a_node_finds_its_sandboxes_by_label() -> None:
    labels = container_config(SPEC)["Labels"]
    assert labels == {
        "gridcontrol.node": SPEC.node,
        "gridcontrol.instance": SPEC.instance,
        "gridcontrol.grid": "home",
        "gridcontrol.task": "req",
        "gridcontrol.release": SPEC.release,
    }
    for wanted in node_filters(SPEC.node, SPEC.instance):
        name, value = wanted.split("=")
        assert labels[name] == value


def test_the_runtime_learns_where_it_is() -> None:
    assert environment(SPEC) == {
        "GRID_SOCKET": "/run/grid/grid.sock",
        "GRID_TASK": "req",
        "GRID_FILE": "tasks/req.py",
        "GRID_NODE": SPEC.node_name,
        "GRID_INSTANCE": SPEC.instance,
        "HOME": "/tmp",
        "LANG": "C.UTF-8",
    }


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("instance", "../etc"),
        ("node", "short"),
        ("grid", ""),
        ("task", "a\nb"),
        ("task", "x" * 201),
        ("file", "/etc/passwd"),
        ("file", "tasks/../../x.py"),
        ("image", ""),
        ("release_dir", "relative"),
        ("release_dir", "/"),
        ("release_dir", "/var"),
        ("release_dir", "/var//lib/x"),
        ("release_dir", "/var/lib/../x"),
        ("socket_dir", "/run/grid\n/x"),
        ("runtime", "cobol"),
        ("memory", 1024),
        ("pids", 0),
        ("cpu", 0.0),
        ("cpu", float("nan")),
        ("tmp_size", 1 << 40),
    ],
)
def test_a_field_out_of_bounds_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(SandboxError, match=field):
        container_config(changed(**{field: value}))


@pytest.mark.parametrize("path", ["/srv/a,b/c", "/srv/a:b/c", "/srv/a b/c", "/srv/é/c"])
def test_odd_mount_sources_pass_as_they_are(path: str) -> None:
    assert container_config(changed(release_dir=path))["HostConfig"]["Mounts"][0]["Source"] == path


@given(st.text(min_size=1, max_size=300))
def test_a_container_name_is_one_the_engine_takes(task: str) -> None:
    assert re.fullmatch(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{1,100}", container_name(changed(task=task)))


def test_own_container_id_from_mountinfo() -> None:
    own = "9f" * 32
    line = f"812 790 8:1 /var/lib/docker/containers/{own}/hostname /etc/hostname rw,relatime - ext4 /dev/sda1 rw\n"
    assert container_id("790 1 0:5 / / rw - overlay overlay rw\n" + line) == own
    assert container_id(f"1 2 8:1 /srv/containers/{own}/x /srv/x rw - ext4 /dev/sda1 rw\n") is None
    assert container_id("") is None
