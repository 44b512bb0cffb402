from msgspec.structs import replace

from gridctl.task_settings import changed_settings, setting_text, settings_of
from gridnode.model import TaskSpec

ECHO = TaskSpec("echo", "tasks/echo.py", env={"TOKEN": "s3cret", "MODE": "a"}, on={"gpu": "true"})


def test_values_of_the_environment_are_not_shown() -> None:
    assert "s3cret" not in str(settings_of(ECHO))
    assert settings_of(ECHO)["env"] == ["MODE", "TOKEN"]


def test_in_words() -> None:
    assert setting_text("memory", 256_000_000) == "256.0 MB"
    assert setting_text("instances", 0) == "max"
    assert setting_text("instances", 2) == "2"
    assert setting_text("on", {"b": "2", "a": "1"}) == "a=1, b=2"
    assert setting_text("env", []) == setting_text("image", "") == setting_text("on", {}) == "-"


def test_what_changed() -> None:
    other = replace(ECHO, instances=0, memory=512_000_000, env={"TOKEN": "other", "MODE": "a"})
    assert changed_settings(ECHO, other) == [
        "instances 1 → max",
        "memory 268.4 MB → 512.0 MB",
        "env: another value of TOKEN",
    ]
    assert changed_settings(ECHO, ECHO) == []
