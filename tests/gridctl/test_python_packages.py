"""uv for real, on packages made here."""

import os
import stat
from pathlib import Path

import pytest

from gridctl.dependencies import python_asked
from gridctl.python_packages import fetch_python, python_key
from gridctl.target import Target
from gridctl.tool import find_tool, run_tool
from gridctl.vendored import Fetched
from gridnode.errors import DependencyError, GridError, ProjectInvalid
from tests.gridctl.wheels import source_archive, wheel

NEW = Target("3.13", "x86_64", "2.41")
ARM = Target("3.13", "aarch64", "2.41")
LOCAL = "--no-index\n--find-links ./wheels\n"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with packages beside it that fit one kind of node, another, or none."""
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv"))
    wheels = tmp_path / "project" / "wheels"
    scripts = {"hello-1.0.dist-info/entry_points.txt": "[console_scripts]\nhello = hello:main\n"}
    wheel(wheels, "hello", files=scripts, requires=["fast", 'old; python_version < "3.13"'])
    wheel(wheels, "fast", tag="cp313-cp313-manylinux_2_17_x86_64", files={"fast/part.so": b"\x7fELF x86"})
    wheel(wheels, "fast", tag="cp313-cp313-manylinux_2_17_aarch64", files={"fast/part.so": b"\x7fELF arm"})
    wheel(wheels, "armed", tag="cp313-cp313-manylinux_2_17_aarch64")
    source_archive(wheels, "unbuilt")
    return tmp_path / "project"


def fetch(project: Path, text: str, into: Path, target: Target = NEW, name: str = "requirements.txt") -> Fetched:
    (project / name).write_text(text)
    asked = python_asked(project)
    assert asked
    (into / "tree").mkdir(parents=True)
    return fetch_python(asked, target, project, into, (into / "said").write_text)


def refused(project: Path, text: str, into: Path, name: str = "requirements.txt") -> GridError:
    with pytest.raises(GridError) as caught:
        fetch(project, text, into, name=name)
    assert caught.value.hint
    return caught.value


def test_packages_and_what_they_need_are_unpacked(project: Path, tmp_path: Path) -> None:
    fetched = fetch(project, f"{LOCAL}hello\n", tmp_path / "x")
    tree = tmp_path / "x" / "tree"
    assert fetched.packages == ("fast 1.0", "hello 1.0")
    assert (tmp_path / "x" / "said").read_text() == "vendoring 2 packages for Python 3.13 on x86_64 ..."
    assert (tree / "fast" / "part.so").read_bytes() == b"\x7fELF x86"
    assert {path.name for path in tree.iterdir()} == {"hello", "fast", "hello-1.0.dist-info", "fast-1.0.dist-info"}


def test_another_kind_of_node_gets_other_files(project: Path, tmp_path: Path) -> None:
    fetch(project, f"{LOCAL}hello\n", tmp_path / "arm", ARM)
    assert (tmp_path / "arm" / "tree" / "fast" / "part.so").read_bytes() == b"\x7fELF arm"


def test_nothing_of_this_machine_is_in_the_tree(project: Path, tmp_path: Path) -> None:
    """Two operators get the same bytes: no script with the path of a Python, no times."""
    wheel(project / "wheels", "plain")
    trees = []
    for name in ("one", "two"):
        fetch(project, f"{LOCAL}hello\n./wheels/plain-1.0-py3-none-any.whl\n", tmp_path / name)
        top = tmp_path / name / "tree"
        trees.append({str(p.relative_to(top)): p.read_bytes() for p in top.rglob("*") if p.is_file()})
        os.utime(project / "wheels" / "fast-1.0-cp313-cp313-manylinux_2_17_x86_64.whl", (1, 1))
    assert trees[0] == trees[1]
    assert not any(os.fsencode(tmp_path) in content for content in trees[0].values())
    assert not any(b"bin/" in content or b"uv_cache" in content for content in trees[0].values())
    modes = {stat.S_IMODE(path.stat().st_mode) & 0o6000 for path in (tmp_path / "one" / "tree").rglob("*")}
    assert modes == {0}


def test_a_wheel_for_other_machines_only(project: Path, tmp_path: Path) -> None:
    error = refused(project, f"{LOCAL}armed\n", tmp_path / "x")
    assert isinstance(error, ProjectInvalid)
    assert error.message == "requirements.txt: armed==1.0 has no wheel for Python 3.13 on x86_64 (manylinux_2_40)"
    assert "manylinux_2_17_aarch64" in (error.trace or "")
    assert "image =" in (error.hint or "")


def test_a_package_that_would_have_to_be_built(project: Path, tmp_path: Path) -> None:
    error = refused(project, f"{LOCAL}unbuilt\n", tmp_path / "x")
    assert "unbuilt==1.0 has no wheel for Python 3.13 on x86_64" in error.message
    source_archive(project / "wheels", "unbuilt", "2.0")
    error = refused(project, f"{LOCAL}unbuilt\n", tmp_path / "y")
    assert "unbuilt has no wheel for Python 3.13 on x86_64" in error.message


def test_a_directory_would_have_to_be_built(project: Path, tmp_path: Path) -> None:
    (project / "lib").mkdir()
    (project / "lib" / "pyproject.toml").write_text('[project]\nname = "lib"\nversion = "1"\n')
    assert "has no wheel for" in refused(project, "./lib\n", tmp_path / "x").message


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("# hello\n\nhello ==\n", "requirements.txt, line 3"),
        ("hello\nwhat is this\n", "requirements.txt, line 2"),
        ("hello\n--frob\n", "requirements.txt, line 2"),
        ("hello[\n", "requirements.txt, line 1"),
    ],
)
def test_a_line_that_cannot_be_read(project: Path, tmp_path: Path, text: str, place: str) -> None:
    error = refused(project, text, tmp_path / "x")
    assert isinstance(error, ProjectInvalid)
    assert error.message == f"{place}: cannot be read"
    assert error.trace


def test_a_version_that_is_not_there(project: Path, tmp_path: Path) -> None:
    error = refused(project, f"{LOCAL}hello==9\n", tmp_path / "x")
    assert "no packages fit what it asks for" in error.message
    assert "hello==9" in (error.trace or "")


def test_an_index_that_does_not_answer_and_its_password(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    monkeypatch.setenv("UV_DEFAULT_INDEX", "http://user:hush@127.0.0.1:9/simple")
    error = refused(project, "hello\n", tmp_path / "x")
    assert isinstance(error, DependencyError)
    assert "cannot be fetched" in error.message
    assert "127.0.0.1:9" in (error.trace or "")
    assert "hush" not in f"{error.message} {error.trace} {error.hint}"


def test_dependencies_of_a_pyproject(project: Path, tmp_path: Path) -> None:
    text = """
[project]
name = "shop"
version = "1"
dependencies = ["hello>=1"]
[tool.uv]
no-index = true
find-links = ["./wheels"]
"""
    assert fetch(project, text, tmp_path / "x", name="pyproject.toml").packages == ("fast 1.0", "hello 1.0")


def test_a_lock_of_uv_decides(project: Path, tmp_path: Path) -> None:
    text = """
[project]
name = "shop"
version = "1"
requires-python = ">=3.11"
dependencies = ["plain"]
[tool.uv]
no-index = true
find-links = ["./wheels"]
"""
    (project / "pyproject.toml").write_text(text)
    wheel(project / "wheels", "plain", "1.0")
    assert run_tool([find_tool("uv", ""), "lock"], project).code == 0
    wheel(project / "wheels", "plain", "2.0")
    assert fetch(project, text, tmp_path / "locked", name="pyproject.toml").packages == ("plain 1.0",)
    (project / "uv.lock").unlink()
    assert fetch(project, text, tmp_path / "free", name="pyproject.toml").packages == ("plain 2.0",)


def test_without_uv(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    monkeypatch.setenv("PATH", str(tmp_path))
    error = refused(project, "hello\n", tmp_path / "x")
    assert isinstance(error, DependencyError)
    assert "pip install 'gridcontrol[uv]'" in (error.hint or "")


def test_what_the_key_depends_on(project: Path) -> None:
    (project / "requirements.txt").write_text("hello\n")
    asked = python_asked(project)
    assert asked
    keys = {python_key(asked, target) for target in (NEW, ARM, NEW._replace(python="3.12"), NEW._replace(libc="2.28"))}
    assert len(keys) == 4
    assert python_key(asked, NEW) == python_key(asked, NEW._replace(libc="2.99"))
