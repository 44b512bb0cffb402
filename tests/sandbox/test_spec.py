import json
import re

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridnode.errors import SandboxError
from gridnode.model import InstanceId, Network, NodeId
from gridnode.sandbox import SandboxSpec
from gridnode.sandbox.spec import container_config, container_id, container_name, environment, node_filters, shape

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


def test_egress_changes_nothing_but_the_network() -> None:
    none, egress = container_config(SPEC), container_config(changed(network=Network.EGRESS))
    assert (egress.pop("NetworkDisabled"), egress["HostConfig"].pop("NetworkMode")) == (False, "gridcontrol-egress")
    assert (none.pop("NetworkDisabled"), none["HostConfig"].pop("NetworkMode")) == (True, "none")
    assert none.pop("Labels") != egress.pop("Labels"), "another shape: such a sandbox is not adopted for the other"
    assert none == egress


def test_mounts_are_the_release_and_the_socket_only_and_read_only() -> None:
    mounts = container_config(SPEC)["HostConfig"]["Mounts"]
    assert {(m["Source"], m["Target"]) for m in mounts} == {
        (SPEC.release_dir, "/task"),
        (SPEC.socket_dir, "/run/grid"),
    }
    assert all(m["ReadOnly"] and m["Type"] == "bind" and m["BindOptions"]["Propagation"] == "rprivate" for m in mounts)


def test_files_are_mounted_read_only_each_by_its_name() -> None:
    where = "/var/lib/gridnode/files/ef"
    spec = changed(files={"geo": where, "same": where})
    mounts = container_config(spec)["HostConfig"]["Mounts"]
    found = [(m["Target"], m["Source"], m["ReadOnly"]) for m in mounts if m["Target"].startswith("/files")]
    assert found == [("/files/geo", where, True), ("/files/same", where, True)]
    assert len({shape(SPEC), shape(spec), shape(changed(files={"geo": "/var/lib/gridnode/files/aa"}))}) == 3
    for wrong in ({"../geo": where}, {"geo": "files"}, {"geo": "/var/../etc"}, {"": where}):
        with pytest.raises(SandboxError):
            container_config(changed(files=wrong))


def test_secrets_are_mounted_read_only_where_there_are_any() -> None:
    mounts = container_config(changed(secrets_dir="/run/gridnode/0a1b2c3d/secrets"))["HostConfig"]["Mounts"]
    assert [(m["Target"], m["ReadOnly"]) for m in mounts if m["Source"].endswith("/secrets")] == [
        ("/run/secrets", True)
    ]
    for wrong in ("secrets", "/run/../secrets/x", "/secrets", "/run/a\nb/c"):
        with pytest.raises(SandboxError):
            container_config(changed(secrets_dir=wrong))


def test_a_node_finds_its_sandboxes_by_label() -> None:
    labels = container_config(SPEC)["Labels"]
    assert labels == {
        "gridcontrol.node": SPEC.node,
        "gridcontrol.instance": SPEC.instance,
        "gridcontrol.grid": "home",
        "gridcontrol.task": "req",
        "gridcontrol.release": SPEC.release,
        "gridcontrol.shape": shape(SPEC),
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


def test_the_runtime_learns_its_concurrency_where_a_task_sets_one() -> None:
    assert environment(changed(concurrency=7))["GRID_CONCURRENCY"] == "7"
    assert "GRID_CONCURRENCY" not in environment(SPEC)


@pytest.mark.parametrize("runtime", ["python", "node", "exec", "http"])
def test_a_runtime_of_ours_runs_in_any_image(runtime: str) -> None:
    config = container_config(
        changed(runtime=runtime, image="python:3.12", runtimes_dir="/var/lib/gridnode/runtimes/ab")
    )
    assert config["Entrypoint"][-1].startswith("/usr/lib/gridnode/runtimes/")
    assert config["Cmd"] == []
    mounts = {mount["Target"]: mount for mount in config["HostConfig"]["Mounts"]}
    assert mounts["/usr/lib/gridnode/runtimes"]["Source"] == "/var/lib/gridnode/runtimes/ab"
    assert mounts["/usr/lib/gridnode/runtimes"]["ReadOnly"]


def test_an_image_that_speaks_for_itself_keeps_its_entrypoint() -> None:
    assert {"Entrypoint", "Cmd"}.isdisjoint(container_config(changed(runtime="image")))


def test_a_task_has_variables_of_its_own() -> None:
    found = environment(changed(env={"GREETING": "a=b\nc", "HOME": "/task"}))
    assert found == environment(SPEC) | {"GREETING": "a=b\nc", "HOME": "/task"}
    assert "GREETING=a=b\nc" in container_config(changed(env={"GREETING": "a=b\nc"}))["Env"]


def test_a_runtime_class_is_the_engines_runtime() -> None:
    assert container_config(changed(runtime_class="runsc"))["HostConfig"]["Runtime"] == "runsc"
    assert container_config(SPEC)["HostConfig"]["Runtime"] == "", "the engine's own choice"


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
        ("runtimes_dir", "runtimes"),
        ("concurrency", -1),
        ("memory", 1024),
        ("pids", 0),
        ("cpu", 0.0),
        ("cpu", float("nan")),
        ("tmp_size", 1 << 40),
        ("runtime_class", "-x"),
        ("network", "host"),
        ("env", {"GRID_SOCKET": "/tmp/other"}),
        ("env", {"A=B": ""}),
        ("env", {"A": "\0"}),
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


def test_an_upgraded_node_finds_its_sandboxes_alike() -> None:
    before = changed(python="3.13", runtimes_dir="/var/lib/gridnode/runtimes/ab")
    after = changed(python="3.13", runtimes_dir="/var/lib/gridnode/runtimes/cd", image="gridcontrol/gridnode:next")
    assert shape(after) == shape(before)


@pytest.mark.parametrize(
    "other", [{"image": "mine:2"}, {"python": "3.13"}, {"memory": 1}, {"code": "ab"}, {"env": {"A": "1"}}], ids=str
)
def test_another_shape(other: dict[str, object]) -> None:
    assert shape(changed(**other)) != shape(SPEC)
