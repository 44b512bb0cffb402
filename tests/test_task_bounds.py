import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridnode.errors import LedgerError
from gridnode.ledger import sign_release
from gridnode.model import Network, Release, Root, TaskSpec
from gridnode.task_bounds import is_env_name, refused

ECHO = TaskSpec("echo", "tasks/echo.py")


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"instances": 0, "memory": 1 << 24, "cpu": 0.01, "timeout": 0.001, "concurrency": 0},
        {"instances": 1024, "memory": 1 << 40, "cpu": 1024.0, "timeout": 86_400.0, "concurrency": 1024},
        {"env": {"_A1": "", "PATHS": "a=b\nc", "GRID": "x", "LD_PRELOAD": "/x", "PYTHONPATH": "y"}},
        {"secrets": ("db", "API_KEY", "a.b-c")},
        {"image": "registry.example:5000/a/b@sha256:" + "0" * 64, "runtime_class": "runsc"},
        {"max_restarts": 0, "min_uptime": 0.0, "network": Network.EGRESS},
        {"on": {"gpu": "true", "zone/a": ""}},
        {"files": ("models", "geo-2.1")},
        {"health": "well"},
        {"health": "$well", "runtime": "node"},
        {"health": "/healthz", "runtime": "http"},
    ],
)
def test_what_may_run(fields: dict[str, object]) -> None:
    assert refused(msgspec.structs.replace(ECHO, **fields)) == []


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("name", ["", "a b", "x" * 129]),
        ("file", ["echo.py", "tasks/../x"]),
        ("runtime", ["", "Python"]),
        ("instances", [-1, 1025]),
        ("memory", [(1 << 24) - 1, (1 << 40) + 1]),
        ("cpu", [0.0, -1.0, math.nan, math.inf]),
        ("timeout", [0.0, math.nan, math.inf, 86_401.0]),
        ("concurrency", [-1, 1025]),
        (
            "env",
            [
                {"GRID_SOCKET": ""},
                {"": "x"},
                {"A=B": ""},
                {"PATH": "/task"},
                {"1": ""},
                {"A": "\0"},
                {"A": "x" * (1 << 14)},
            ],
        ),
        ("env", [{f"A{n}": "" for n in range(129)}, {"A\n": ""}]),
        ("secrets", [("",), ("..",), ("a/b",), ("a", "a"), (".a",), tuple(f"s{n}" for n in range(65))]),
        ("files", [("",), ("..",), ("a/b",), ("a", "a"), ("A",), ("a" * 65,), tuple(f"f{n}" for n in range(33))]),
        ("image", ["-it", "a b", "x" * 256, "a\n"]),
        ("runtime_class", ["-x", "a/b", "x" * 65]),
        ("max_restarts", [-1, 1001]),
        ("min_uptime", [-0.1, math.nan, 3601.0]),
        ("on", [{"": "x"}, {"a b": ""}, {"a": "x" * 256}, {f"a{n}": "" for n in range(65)}]),
    ],
)
def test_what_is_out_of_bounds_is_named(field: str, values: list[object]) -> None:
    for value in values:
        task = msgspec.structs.replace(ECHO, **{field: value})
        assert refused(task) == [field], value
        with pytest.raises(LedgerError, match=rf"out of bounds: {field}$"):
            sign_release(b"s" * 32, Release("demo", Root("a" * 64), 1, 1, 1, 1, (task,)))


@given(st.text(max_size=20))
def test_no_task_can_pretend_to_be_elsewhere(name: str) -> None:
    assert not is_env_name("GRID_" + name)
    assert not is_env_name(name + "=")


@pytest.mark.parametrize(("runtime", "health"), [("exec", "well"), ("exec", "/a"), ("http", "well"), ("python", "/a")])
def test_what_cannot_be_asked_for_its_health(runtime: str, health: str) -> None:
    assert refused(msgspec.structs.replace(ECHO, runtime=runtime, health=health)) == ["health"]


@given(st.text(max_size=300))
def test_no_health_escapes_its_line(text: str) -> None:
    for runtime in ("python", "http"):
        if not refused(msgspec.structs.replace(ECHO, runtime=runtime, health=text)):
            assert text.isprintable()
            assert text.isascii()
            assert len(text) <= 255
