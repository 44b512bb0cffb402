"""npm for real, on packages made here and a registry on loopback."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gridctl.dependencies import node_asked
from gridctl.node_packages import fetch_node, node_key
from gridctl.target import Target
from gridctl.tool import find_tool, run_tool
from gridctl.vendored import Fetched
from gridnode.errors import DependencyError, GridError, ProjectInvalid
from tests.gridctl.wheels import Registry, npm_package, registry

X86, ARM = Target(), Target(machine="aarch64")


@pytest.fixture
def npm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Registry]:
    """A registry that npm asks, and a cache of npm's that is empty."""
    with registry() as found:
        monkeypatch.setenv("npm_config_cache", str(tmp_path / "npm"))
        monkeypatch.setenv("npm_config_registry", found.url)
        monkeypatch.setenv("npm_config_fetch_retries", "0")
        yield found


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "project").mkdir()
    return tmp_path / "project"


def write(project: Path, **fields: Any) -> None:
    (project / "package.json").write_text(json.dumps({"name": "shop", "version": "1.0.0", **fields}))


def fetch(project: Path, into: Path, target: Target = X86) -> Fetched:
    asked = node_asked(project)
    assert asked
    (into / "tree").mkdir(parents=True)
    return fetch_node(asked, target, project, into, (into / "said").write_text)


def refused(project: Path, into: Path) -> GridError:
    with pytest.raises(GridError) as caught:
        fetch(project, into)
    assert caught.value.hint
    return caught.value


def test_packages_for_the_nodes_kind_of_machine(project: Path, npm: Registry, tmp_path: Path) -> None:
    npm.add("left", "1.2.0", dependencies={"right": "^1.0.0"})
    npm.add("right", "1.0.0", optionalDependencies={"right-x64": "1.0.0", "right-arm64": "1.0.0"})
    for cpu in ("x64", "arm64"):
        npm.add(f"right-{cpu}", os=["linux"], cpu=[cpu])
    npm.add("tester")
    write(project, dependencies={"left": "^1.0.0"}, devDependencies={"tester": "*"})
    fetched = fetch(project, tmp_path / "x")
    assert fetched == Fetched(("left 1.2.0", "right 1.0.0", "right-x64 1.0.0"))
    assert (tmp_path / "x" / "said").read_text().startswith("vendoring ")
    assert "for Node on x86_64" in (tmp_path / "x" / "said").read_text()
    assert {path.name for path in (tmp_path / "x" / "tree").iterdir()} == {"left", "right", "right-x64"}
    assert "right-arm64 1.0.0" in fetch(project, tmp_path / "arm", ARM).packages
    assert [path.name for path in project.iterdir()] == ["package.json"]


def test_a_lock_decides(project: Path, npm: Registry, tmp_path: Path) -> None:
    npm.add("left", "1.0.0")
    write(project, dependencies={"left": "^1.0.0"})
    assert run_tool([find_tool("npm", ""), "install", "--package-lock-only"], project).code == 0
    npm.add("left", "1.5.0")
    assert fetch(project, tmp_path / "locked").packages == ("left 1.0.0",)
    write(project, dependencies={"left": "^1.5.0"})
    error = refused(project, tmp_path / "x")
    assert isinstance(error, ProjectInvalid)
    assert error.hint == "package.json and its lock differ: `npm install` renews the lock"


def test_install_scripts_are_not_run_and_that_is_said(project: Path, npm: Registry, tmp_path: Path) -> None:
    npm.add("native", scripts={"install": f"touch {tmp_path}/ran"}, hasInstallScript=True)
    write(project, dependencies={"native": "1.0.0"})
    fetched = fetch(project, tmp_path / "x")
    assert not (tmp_path / "ran").exists()
    assert "those of native build or fetch" in fetched.notes[0]


def test_packages_of_the_project_itself(project: Path, npm: Registry, tmp_path: Path) -> None:
    """A directory stays a link to where it is in the release; an archive is unpacked."""
    for name in ("lib", "packed"):
        (project / name).mkdir()
    (project / "lib" / "package.json").write_text('{"name": "lib", "version": "3.0.0"}')
    (project / "packed" / "it.tgz").write_bytes(npm_package("it"))
    write(project, dependencies={"lib": "file:./lib", "it": "file:packed/it.tgz"})
    assert fetch(project, tmp_path / "x").packages == ("it 1.0.0", "lib")
    assert (tmp_path / "x" / "tree" / "lib").readlink() == Path("../lib")
    assert (tmp_path / "x" / "tree" / "it" / "index.js").is_file()
    assert npm.asked == []


def test_a_package_that_is_nowhere(project: Path, npm: Registry, tmp_path: Path) -> None:
    write(project, dependencies={"nowhere": "1"})
    error = refused(project, tmp_path / "x")
    assert isinstance(error, ProjectInvalid)
    assert "is its name right" in (error.hint or "")


def test_a_registry_that_does_not_answer(
    project: Path, npm: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("npm_config_registry", "http://user:hush@127.0.0.1:9/")
    write(project, dependencies={"left": "1"})
    error = refused(project, tmp_path / "x")
    assert isinstance(error, DependencyError)
    assert "hush" not in f"{error.message} {error.trace} {error.hint}"


def test_without_npm(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    write(project, dependencies={"left": "1"})
    error = refused(project, tmp_path / "x")
    assert isinstance(error, DependencyError)
    assert "nodejs.org" in (error.hint or "")


def test_a_lock_that_is_none(project: Path, npm: Registry, tmp_path: Path) -> None:
    npm.add("left")
    write(project, dependencies={"left": "1"})
    (project / "package-lock.json").write_text('{"lockfileVersion": 1}')
    assert "package-lock.json cannot be read" in refused(project, tmp_path / "x").message


def test_what_the_key_depends_on(project: Path) -> None:
    write(project, dependencies={"left": "1"})
    asked = node_asked(project)
    assert asked
    assert node_key(asked, X86) == node_key(asked, X86._replace(python="3.12"))
    assert len({node_key(asked, one) for one in (X86, ARM, X86._replace(libc=""))}) == 3
