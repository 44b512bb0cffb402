import msgspec
import pytest

from gridctl.gridtoml_rules import RULES, TABLES, as_text, memory_text
from gridnode.model import Deliver, Network, TaskSpec

SPEC = TaskSpec("req", "tasks/req.py")


@pytest.mark.parametrize(
    ("key", "value", "read"),
    [
        ("instances", 1, 1),
        ("instances", 1024, 1024),
        ("instances", "max", 0),
        ("memory", 16 << 20, 16 << 20),
        ("memory", "16MB", 16 << 20),
        ("memory", "16 mib", 16 << 20),
        ("memory", "1.5G", 3 << 29),
        ("memory", "1TB", 1 << 40),
        ("cpu", 1, 1.0),
        ("cpu", 0.01, 0.01),
        ("timeout", "1ms", 0.001),
        ("timeout", "24h", 86_400.0),
        ("timeout", "1d", 86_400.0),
        ("timeout", 1, 1.0),
        ("min_uptime", 0, 0.0),
        ("min_uptime", "1.5s", 1.5),
        ("health", "well", "well"),
        ("health", "/healthz?deep=1", "/healthz?deep=1"),
        ("concurrency", 64, 64),
        ("network", "egress", Network.EGRESS),
        ("secrets", [], ()),
        ("files", ["models", "geo-2.1"], ("models", "geo-2.1")),
        ("idempotent", False, False),
        ("topics", ["orders.*", ">"], ("orders.*", ">")),
        ("deliver", "each", Deliver.EACH),
        ("max_restarts", 0, 0),
    ],
)
def test_what_is_allowed(key: str, value: object, read: object) -> None:
    found = RULES[key].read(value)
    assert (found, type(found)) == (read, type(read))


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("instances", [0, -1, 1025, "2", 1.0, True, "MAX", [], 1 << 80]),
        ("memory", ["", "256", "1PB", "-1MB", "8MB", "2TB", 1, 1.0, True, "1e3MB", "\u0661MB", "1MB1", "9" * 20 + "B"]),
        ("cpu", [0, 0.001, 1025, "1", True, float("nan"), float("inf"), -1]),
        ("timeout", [0, -1, "0s", "25h", "1 s s", "1w", "s", "1", True, float("nan"), [], "1h30m"]),
        ("min_uptime", [-1, "2h", float("nan")]),
        ("concurrency", [0, 1025, 1.0, "8", True]),
        ("network", ["", "host", ["none"], {"a": 1}, 1]),
        ("secrets", ["a", [1], [""], ["a/b"], ["a", "a"], [["a"]], [str(n) for n in range(65)]]),
        ("files", ["a", [1], [""], ["A"], ["a/b"], [".."], ["a", "a"], [["a"]], [f"f{n}" for n in range(33)]]),
        ("runtime", ["", "ruby", 1, ["python"]]),
        ("image", ["", "-x", "a b", 1]),
        ("runtime_class", ["", "/", 1]),
        ("topics", ["a", [1], [""], ["a..b"], ["a", "a"], [["a"]], [f"t{n}" for n in range(33)]]),
        ("deliver", ["", "all", 1, None, ["one"], True]),
        ("idempotent", [0, 1, "true", None]),
        ("max_restarts", [-1, 1001, True, 1.0]),
        ("health", ["", "_well", "a.b", "a b", "1a", "/a b", "/\n", "x" * 101, "/" * 256, 1, True, None, ["well"]]),
    ],
)
def test_what_is_not(key: str, values: list[object]) -> None:
    assert [value for value in values if RULES[key].read(value) is not None] == []


def test_every_setting_of_a_task_has_a_rule() -> None:
    assert {*RULES, *TABLES} == set(TaskSpec.__struct_fields__) - {"name", "file", "code"}


def test_no_text_holds_what_an_environment_cannot() -> None:
    unfit: list[object] = ["\0", [], {}, None, 1 << 64]
    for rule in TABLES.values():
        assert [value for value in unfit if rule.values.read(value) is not None] == []


def test_a_default_for_people_reads_back() -> None:
    shown = {key: as_text(key, getattr(SPEC, key)) for key in (*RULES, *TABLES)}
    assert shown == {
        "instances": "1",
        "memory": "256MB",
        "cpu": "1",
        "timeout": "30s",
        "concurrency": "-",
        "network": "none",
        "secrets": "-",
        "files": "-",
        "runtime": "python",
        "image": "-",
        "runtime_class": "-",
        "idempotent": "false",
        "max_restarts": "10",
        "min_uptime": "1s",
        "health": "-",
        "topics": "-",
        "deliver": "one",
        "env": "-",
        "on": "-",
    }
    for key in ("memory", "timeout", "min_uptime", "network", "runtime"):
        assert RULES[key].read(shown[key]) == getattr(SPEC, key)


def test_other_values_for_people() -> None:
    spec = msgspec.structs.replace(SPEC, instances=0, cpu=0.5, secrets=("a", "b"), idempotent=True)
    assert [as_text(key, getattr(spec, key)) for key in ("instances", "cpu", "secrets", "idempotent")] == [
        *("max", "0.5", "a, b", "true")
    ]
    assert (as_text("env.A", ""), as_text("env.A", "-")) == ("", "-")
    assert [memory_text(size) for size in (1 << 30, 3 << 29, 1000, 1024)] == ["1GB", "1536MB", "1000B", "1KB"]
