"""What projects ask for is there in the sandboxes: Python packages with compiled code, and packages of npm."""

import ctypes
import json
import platform
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from integration import project
from integration.conftest import SIZE, is_active
from integration.grid import Grid
from tests.gridctl.wheels import npm_package, wheel

IMPORTS = """
import ctypes
import os
import plain
import native

def handler(event):
    loaded = ctypes.CDLL(os.path.join(os.path.dirname(native.__file__), "part.so"))
    loaded.zlibVersion.restype = ctypes.c_char_p
    return {"plain": plain.VERSION, "native": loaded.zlibVersion().decode(), "where": plain.__file__}
"""
PROGRAM = """#!/usr/bin/env python3
import json, plain
print(json.dumps(plain.VERSION))
"""
REQUIRES = """
const left = require('left');
const lib = require('lib');
module.exports = () => [left.version, lib.name];
"""
FILES = {
    "tasks/imports.py": IMPORTS,
    "tasks/program.sh": PROGRAM,
    "tasks/requires.js": REQUIRES,
    "lib/package.json": '{"name": "lib", "version": "1.0.0"}',
    "lib/index.js": "exports.name = 'the project itself';\n",
    "requirements.txt": "--no-index\n--find-links ./wheels\nplain\n",
    "package.json": '{"dependencies": {"left": "file:left.tgz", "lib": "file:./lib"}}',
    ".gridignore": "wheels/\nleft.tgz\n",
}
MACHINE = platform.machine()


def shared_library() -> bytes:
    """Compiled code for this kind of machine, that needs nothing but libc: zlib's."""
    ctypes.CDLL("libz.so.1")
    lines = Path("/proc/self/maps").read_text().splitlines()
    return Path(next(line.split()[-1] for line in lines if "/libz.so" in line)).read_bytes()


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Caches of its own, so that nothing was fetched before; the cache of packages."""
    caches = tmp_path_factory.mktemp("caches")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("XDG_CACHE_HOME", "UV_CACHE_DIR", "npm_config_cache"):
            patch.setenv(name, str(caches / name))
        yield caches / "XDG_CACHE_HOME" / "gridcontrol" / "vendor"


@pytest.fixture
def asking(tmp_path: Path, environment: Path) -> Path:
    """A project that asks for packages of every kind."""
    top = project.write(tmp_path / "base", FILES)
    (top / "tasks" / "program.sh").chmod(0o755)
    native = {"native/part.so": shared_library()}
    wheel(top / "wheels", "plain", requires=["native"])
    wheel(top / "wheels", "native", tag=f"py3-none-manylinux_2_17_{MACHINE}", files=native)
    (top / "left.tgz").write_bytes(npm_package("left", "1.3.0"))
    return top


def invoke(grid: Grid, task: str, *argv: str) -> Any:
    ended = grid.gridctl("invoke", task, *argv)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


def test_packages_travel_with_the_release(grid: Grid, asking: Path, environment: Path) -> None:
    first = grid.gridctl("deploy", str(asking), "-y")
    assert first.returncode == 0, first.stderr
    assert f"vendoring 2 packages for Python 3.13 on {MACHINE} ..." in first.stderr
    for name in grid.nodes:
        answer = invoke(grid, "imports", "--node", name)
        assert answer["plain"] == "1.0"
        assert answer["native"].startswith("1.")
        assert answer["where"] == f"/task/.vendor/python/3.13-{MACHINE}/plain/__init__.py"
    assert invoke(grid, "program") == "1.0"
    assert invoke(grid, "requires") == ["1.3.0", "the project itself"]
    _second_deploy_fetches_nothing(grid, asking, environment)
    _only_the_new_package_travels(grid, asking)


def _second_deploy_fetches_nothing(grid: Grid, asking: Path, cache: Path) -> None:
    """Even without what to fetch from, and without the tools' own caches."""
    before = {path.name for path in cache.iterdir()}
    hidden = asking.rename(asking.parent / "aside")
    copy = shutil.copytree(hidden, asking, copy_function=shutil.copy2)
    for name in ("UV_CACHE_DIR", "npm_config_cache"):
        shutil.rmtree(cache.parents[1].parent / name)
    again = grid.gridctl("deploy", str(copy), "-y")
    assert again.returncode == 0, again.stderr
    assert "nothing changed" in again.stderr
    assert again.stderr.count("vendored before") == 2
    assert {path.name for path in cache.iterdir()} == before
    assert not (cache.parents[1].parent / "UV_CACHE_DIR").exists()


def _only_the_new_package_travels(grid: Grid, asking: Path) -> None:
    wheel(asking / "wheels", "plain", "2.0", requires=["native"])
    planned = grid.gridctl("deploy", str(asking), "--plan")
    assert f"~ package plain (3.13-{MACHINE}): 2.0" in planned.stdout
    assert "native" not in planned.stdout
    report = grid.deploy(asking)
    assert report["sent"] < 20_000
    assert {invoke(grid, "imports", "--node", name)["plain"] for name in grid.nodes} == {"2.0"}


def test_what_does_not_fit_is_refused_and_the_release_before_serves_on(grid: Grid, asking: Path) -> None:
    root = grid.deploy(asking)["root"]
    wheel(asking / "wheels", "alien", tag="cp313-cp313-manylinux_2_17_s390x")
    (asking / "requirements.txt").write_text(FILES["requirements.txt"] + "alien\n")
    ended = grid.gridctl("deploy", str(asking), "-y", "--json")
    assert ended.returncode == 2, ended.stderr
    error = json.loads(ended.stdout)["error"]
    assert error["message"].startswith(f"requirements.txt: alien==1.0 has no wheel for Python 3.13 on {MACHINE}")
    assert "manylinux_2_17_s390x" in error["trace"]
    assert "sent" not in ended.stderr
    assert [is_active(row, root) for row in grid.members() if row["state"] == "alive"] == [True] * SIZE
    assert invoke(grid, "imports")["plain"] == "1.0"
