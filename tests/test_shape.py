"""The tree keeps its shape: short files, short functions, the design's words, every module in a layer."""

import ast
import re
import statistics
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted(path for package in ("gridnode", "gridctl") for path in (ROOT / package).rglob("*.py"))
TREES = {path: ast.parse(path.read_text()) for path in SOURCES}
FUNCTIONS = [
    (f"{path.relative_to(ROOT)}:{node.lineno} {node.name}", (node.end_lineno or node.lineno) - node.lineno + 1)
    for path, tree in TREES.items()
    for node in ast.walk(tree)
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
]
BANNED = {"manager", "util", "utils", "helper", "helpers", "service", "services", "worker", "workers"}
BANNED |= {"cluster", "clusters", "data"}
WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
# Fixed by the design, the operating system or a library we override.
ALLOWED = {"data_dir", "data_received", "service_type", "user_data"}


def lines(path: Path) -> int:
    return len(path.read_text().splitlines())


def names(path: Path) -> Iterator[str]:
    """Every name the module gives: its own, its classes', functions', arguments', variables' and attributes'."""
    yield path.stem
    for node in ast.walk(TREES[path]):
        match node:
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield name
            case ast.arg(arg=name) | ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                yield name
            case _:
                pass


def layered() -> set[str]:
    """The modules that the layers contract places."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    return {module for layer in layers for module in re.split(r" [|:] ", layer)}


def test_no_file_is_over_400_lines() -> None:
    assert [f"{path.relative_to(ROOT)}: {lines(path)}" for path in SOURCES if lines(path) > 400] == []


def test_no_function_is_over_50_lines() -> None:
    assert [f"{name}: {length}" for name, length in FUNCTIONS if length > 50] == []


def test_the_median_file_has_at_most_150_lines() -> None:
    assert statistics.median(lines(path) for path in SOURCES) <= 150


def test_the_median_function_has_at_most_10_lines() -> None:
    assert statistics.median(length for _, length in FUNCTIONS) <= 10


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_name_has_a_banned_word(path: Path) -> None:
    used = {name for name in names(path) if name not in ALLOWED}
    assert [name for name in sorted(used) if BANNED & {word.lower() for word in WORD.findall(name)}] == []


def test_every_module_has_its_layer() -> None:
    """A package's own `__init__` holds its ports; runtimes have a contract of their own."""
    modules = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in SOURCES
        if path.name != "__init__.py" and path.parts[-2] != "runtimes" and path.is_relative_to(ROOT / "gridnode")
    }
    assert sorted(modules - layered()) == []


@pytest.mark.parametrize(
    ("name", "banned"),
    [("PeerManager", True), ("http_util", True), ("DATA", True), ("metadata", False), ("data_dir", True)],
)
def test_words_of_a_name(name: str, banned: bool) -> None:
    assert bool(BANNED & {word.lower() for word in WORD.findall(name)}) is banned
