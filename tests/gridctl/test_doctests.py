"""The examples in docstrings and docs/sdk.md, run against a grid of real nodes that serves the sample project."""

import doctest
import importlib
import shutil
from pathlib import Path

import pytest

from tests.gridctl.conftest import RunningGrid

ROOT = Path(__file__).parent.parent.parent
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@pytest.fixture
def there(hello_grid: RunningGrid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on an operator's machine: a Gridfile that is found, and the sample `hello` beside it."""
    monkeypatch.setenv("GRIDCTL_GRIDFILE", str(hello_grid.gridfile))
    shutil.copytree(ROOT / "examples" / "hello", tmp_path / "hello")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", ["client", "sync_client", "executor", "ready"])
def test_docstrings(there: None, name: str) -> None:
    ran = doctest.testmod(importlib.import_module(f"gridctl.{name}"), optionflags=FLAGS)
    assert (ran.failed, ran.attempted > 0) == (0, True)


def test_the_page_on_the_sdk(there: None) -> None:
    ran = doctest.testfile(str(ROOT / "docs" / "sdk.md"), module_relative=False, optionflags=FLAGS)
    assert (ran.failed, ran.attempted > 0) == (0, True)
