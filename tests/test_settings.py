import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from gridnode.settings import Settings


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


def test_a_dead_peer_is_marked_within_5_seconds() -> None:
    """Silence is seen at a tick, and so is the end of the suspicion."""
    settings = Settings()
    assert settings.silent_after + settings.suspect_after + 2 * settings.tick <= 5.0
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
