import asyncio
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as trials
from hypothesis import strategies as st
from pydantic import ValidationError

from gridctl.new import new_gridfile
from gridnode.errors import SettingsInvalid
from gridnode.gridfile import parse_address
from gridnode.messages import is_runtime
from gridnode.node import Node
from gridnode.settings import Settings, read_settings
from gridnode.start import read_card
from tests.fakes.process_sandbox import ProcessSandbox


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("GRIDNODE_"):
            monkeypatch.delenv(name)


def test_the_defaults_are_the_documented_places() -> None:
    settings = Settings()
    assert (settings.port, settings.api_port) == (7400, 10000)
    assert (settings.card, settings.data_dir) == (Path("/etc/gridnode/Card"), Path("/var/lib/gridnode"))
    assert 1 <= len(settings.name) <= 64


def test_a_dead_peer_is_marked_within_3_seconds() -> None:
    """Silence is seen at a tick, and so is the end of the suspicion."""
    settings = Settings()
    assert settings.silent_after + settings.suspect_after + 2 * settings.tick <= 3.0
    assert settings.silent_after >= 3 * settings.tick, "a ping or two may be late"


def test_a_unix_socket_path_fits() -> None:
    """At most 107 bytes: run_dir/<8 hex of the node>/<8 hex of the instance>/grid.sock."""
    assert len(str(Settings().run_dir / "01234567" / "01234567" / "grid.sock")) <= 107


def test_everything_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRIDNODE_PORT", "0")
    monkeypatch.setenv("GRIDNODE_NAME", "web1")
    monkeypatch.setenv("GRIDNODE_ADVERTISE", '["10.0.0.1:7400"]')
    monkeypatch.setenv("GRIDNODE_MDNS", "false")
    settings = Settings()
    assert (settings.port, settings.name, settings.advertise, settings.mdns) == (0, "web1", ("10.0.0.1:7400",), False)


@pytest.mark.parametrize(
    ("name", "value"),
    [("PORT", "65536"), ("PORT", "x"), ("NAME", ""), ("NAME", "n" * 65), ("CALL_TIMEOUT", "0"), ("MAX_QUEUED", "-1")],
)
def test_what_cannot_be_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"GRIDNODE_{name}", value)
    with pytest.raises(ValidationError):
        Settings()


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError):
        Settings().port = 1


@pytest.mark.parametrize(
    ("value", "addresses"),
    [
        ("10.0.0.1:7400", ("10.0.0.1:7400",)),
        ("10.0.0.1:7400, [::1]:7401", ("10.0.0.1:7400", "[::1]:7401")),
        (' ["10.0.0.1:7400"]', ("10.0.0.1:7400",)),
        ("", ()),
        ("[]", ()),
    ],
)
def test_addresses_have_commas_between_or_are_json(
    monkeypatch: pytest.MonkeyPatch, value: str, addresses: tuple[str, ...]
) -> None:
    monkeypatch.setenv("GRIDNODE_ADVERTISE", value)
    assert read_settings().advertise == addresses


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("PORT", "x", "integer"),
        ("PORT", "70000", "65535"),
        ("ADVERTISE", "[1", "JSON"),
        ("ADVERTISE", "[1]", "string"),
        ("ADVERTISE", "a:b:c:d", "host:port"),
        ("MDNS", "perhaps", "boolean"),
        ("LOG_LEVEL", "loud", "debug"),
    ],
)
def test_a_wrong_variable_is_named_with_what_is_expected(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, expected: str
) -> None:
    monkeypatch.setenv(f"GRIDNODE_{name}", value)
    with pytest.raises(SettingsInvalid) as caught:
        read_settings()
    assert f"GRIDNODE_{name} cannot be" in caught.value.message
    assert expected in caught.value.message
    assert "\n" not in caught.value.message


@trials(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40))
def test_whatever_addresses_are_said_it_is_a_setting_or_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("GRIDNODE_ADVERTISE", text)
    try:
        said = ", ".join(read_settings().advertise)
    except SettingsInvalid as exc:
        said = exc.message
    assert said == "" or "GRIDNODE_ADVERTISE" in said or all(map(parse_address, said.split(", ")))


def gridnode(directory: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run gridnode to its end, with these settings."""
    new_gridfile(directory, "test")
    places = {"GRIDFILE": "Gridfile", "DATA_DIR": "data", "RUN_DIR": "run"}
    env = {f"GRIDNODE_{name}": str(directory / place) for name, place in places.items()}
    env |= {f"GRIDNODE_{name}": value for name, value in variables.items()}
    argv = [sys.executable, "-m", "gridnode"]
    return subprocess.run(argv, env=os.environ | env, capture_output=True, text=True, timeout=60, check=False)


def test_a_wrong_variable_ends_in_one_line(tmp_path: Path) -> None:
    ended = gridnode(tmp_path, PORT="x", ADVERTISE="nowhere:")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.count("\n") == 1
    assert "GRIDNODE_PORT" in ended.stderr
    assert "GRIDNODE_ADVERTISE" in ended.stderr


def test_a_directory_that_cannot_be_made_ends_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    ended = gridnode(tmp_path, DATA_DIR=str(tmp_path / "file" / "data"))
    assert ended.returncode == 2, ended.stderr
    assert "GRIDNODE_DATA_DIR" in ended.stdout
    assert "Traceback" not in ended.stdout + ended.stderr


@pytest.mark.parametrize("variable", ["PORT", "API_PORT"])
async def test_a_port_that_is_taken_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setattr("gridnode.node.DockerSandbox", lambda node, keep, **more: ProcessSandbox(keep=keep))
    gridfile = new_gridfile(tmp_path, "test").path
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ports = {"port": 0, "api_port": 0, variable.lower(): taken.getsockname()[1]}
        places = {"gridfile": gridfile, "data_dir": tmp_path / "data", "run_dir": tmp_path / "run"}
        settings = Settings(**places, **ports, listen="127.0.0.1", mdns=False, sandbox_image="none")  # type: ignore[arg-type]
        with pytest.raises(SettingsInvalid) as caught:
            await Node(settings, read_card(settings)).run(asyncio.Event())
    assert f"port {ports[variable.lower()]}: " in caught.value.message
    assert f"GRIDNODE_{variable}" in str(caught.value.hint)


def test_a_node_tells_what_its_python_tasks_run_on(monkeypatch: pytest.MonkeyPatch) -> None:
    told = Settings().runtime
    assert is_runtime(told)
    assert (told.machine, told.python) == (os.uname().machine, "{}.{}".format(*sys.version_info))
    monkeypatch.setenv("GRIDNODE_SANDBOX_PYTHON", "3.12")
    assert Settings().runtime.python == "3.12"
    for wrong in ("3", "3.12.1", "2.7", "../x", ""):
        monkeypatch.setenv("GRIDNODE_SANDBOX_PYTHON", wrong)
        with pytest.raises(ValidationError):
            Settings()
