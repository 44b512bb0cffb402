import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridctl.dependencies import node_asked, python_asked
from gridctl.requirements import read_requirements
from gridnode.errors import ProjectInvalid


def write(directory: Path, **files: str) -> None:
    for name, text in files.items():
        place = directory / {"requirements": "requirements.txt", "package": "package.json"}.get(name, f"{name}.toml")
        place.write_text(text)


def key(directory: Path, **environ: str) -> str:
    asked = python_asked(directory, environ)
    assert asked
    return asked.key


def node_key(directory: Path) -> str:
    asked = node_asked(directory)
    assert asked
    return asked.key


def test_a_project_that_asks_for_nothing(tmp_path: Path) -> None:
    assert python_asked(tmp_path) is None
    assert node_asked(tmp_path) is None
    write(tmp_path, requirements="# nothing\n\n--no-index\n", package='{"devDependencies": {"a": "1"}}')
    assert python_asked(tmp_path) is None
    assert node_asked(tmp_path) is None


def test_requirements_come_before_a_pyproject(tmp_path: Path) -> None:
    write(tmp_path, pyproject='[project]\nname = "x"\ndependencies = ["b"]\n')
    asked = python_asked(tmp_path)
    assert asked
    assert (asked.file, asked.locked) == ("pyproject.toml", False)
    write(tmp_path, requirements="a\n-i https://one\n")
    asked = python_asked(tmp_path)
    assert asked
    assert (asked.file, asked.options) == ("requirements.txt", ("-i https://one",))


def test_what_changes_the_key_and_what_does_not(tmp_path: Path) -> None:
    write(tmp_path, requirements="a==1  # why\n\n")
    first = key(tmp_path)
    write(tmp_path, requirements="# another\na==1\n")
    assert key(tmp_path, HOME="/x", UV_INDEX_OURS_PASSWORD="x") == first
    one = key(tmp_path, UV_INDEX="https://u:old@host/simple")
    assert one == key(tmp_path, UV_INDEX="https://u:new@host/simple")
    others = {first, one, key(tmp_path, UV_INDEX="https://other/simple")}
    write(tmp_path, uv='exclude-newer = "2026-01-01"\n')
    others.add(key(tmp_path))
    write(tmp_path, requirements="a==2\n")
    others.add(key(tmp_path))
    assert len(others) == 5


def test_files_that_requirements_name_count(tmp_path: Path) -> None:
    write(tmp_path, requirements="-r more/base.txt\n")
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "base.txt").write_text("-c pins.txt\na \\\n  ; python_version > '3'\n--find-links wheels\n")
    (tmp_path / "more" / "pins.txt").write_text("a==1\n")
    (tmp_path / "wheels").mkdir()
    seen = {key(tmp_path)}
    (tmp_path / "more" / "pins.txt").write_text("a==2\n")
    seen.add(key(tmp_path))
    (tmp_path / "wheels" / "a-2-py3-none-any.whl").write_bytes(b"a")
    seen.add(key(tmp_path))
    assert len(seen) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\n-r gone.txt\n", "requirements.txt, line 2: there is no file gone.txt"),
        ("a\n\n-e .\n", "requirements.txt, line 3: an editable package is a place on this machine"),
        ("a\n\xff", "requirements.txt, line 2: not UTF-8"),
    ],
)
def test_requirements_that_are_wrong(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "requirements.txt").write_bytes(text.encode("latin-1"))
    with pytest.raises(ProjectInvalid) as caught:
        python_asked(tmp_path)
    assert caught.value.message == message


@given(
    st.lists(
        st.text() | st.sampled_from(["-r x", "-c", "-f ", "a @ file://x.whl", "\\", "-r " + "x" * 5000]), max_size=6
    )
)
def test_any_text_is_read_or_refused(lines: list[str]) -> None:
    content = "\n".join(lines).encode("utf-8", "surrogatepass")
    with contextlib.suppress(ProjectInvalid):
        read_requirements(Path("/nonexistent"), "requirements.txt", lambda directory, name: content)


def test_requirements_that_include_each_other(tmp_path: Path) -> None:
    write(tmp_path, requirements="-r requirements.txt\na\n")
    assert key(tmp_path)
    for number in range(40):
        (tmp_path / f"{number}.txt").write_text(f"-r {number + 1}.txt\n")
    write(tmp_path, requirements="-r 0.txt\n")
    with pytest.raises(ProjectInvalid, match="includes more than 32 files"):
        python_asked(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[project]\nname =\n", "pyproject.toml, line 2: not valid TOML"),
        ('[project]\nname = "x"\ndynamic = ["dependencies"]\n', "its dependencies are dynamic"),
        ('[project]\nname = "x"\ndependencies = "a"\n', "has to be a list"),
        ("project = 1\n", "project has to be a table"),
        ("tool = 1\n", "tool has to be a table"),
        ("[tool]\nuv = 1\n", "uv has to be a table"),
        ("[project]\ndynamic = 1\n", "dynamic has to be a list"),
    ],
)
def test_a_pyproject_that_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    write(tmp_path, pyproject=text)
    with pytest.raises(ProjectInvalid) as caught:
        python_asked(tmp_path)
    assert message in caught.value.message


def test_a_lock_that_lacks_a_package(tmp_path: Path) -> None:
    write(tmp_path, pyproject='[project]\nname = "x"\ndependencies = ["A.b>1", "c"]\n')
    lock = tmp_path / "uv.lock"
    lock.write_text('[[package]]\nname = "a-b"\n')
    with pytest.raises(ProjectInvalid, match=r"does not have c of pyproject\.toml"):
        python_asked(tmp_path)
    lock.write_text('[[package]]\nname = "a-b"\n[[package]]\nname = "c"\n')
    asked = python_asked(tmp_path)
    assert asked
    assert (asked.file, asked.locked) == ("uv.lock", True)
    for garbage in ("[[package]]\n", "package = 1\n", "]"):
        lock.write_text(garbage)
        with pytest.raises(ProjectInvalid, match=r"uv\.lock"):
            python_asked(tmp_path)


def test_what_npm_needs_to_read(tmp_path: Path) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "package.json").write_text('{"version": "1.0.0"}')
    (tmp_path / "a.tgz").write_bytes(b"1")
    write(tmp_path, package=json.dumps({"dependencies": {"lib": "file:./lib", "a": "./a.tgz", "b": "^1"}}))
    asked = node_asked(tmp_path)
    assert asked
    assert asked.files == ("package.json", "a.tgz", "lib/package.json")
    before = node_key(tmp_path)
    (tmp_path / "lib" / "index.js").write_text("1")
    (tmp_path / ".npmrc").write_text("//host/:_authToken=secret\n")
    assert node_key(tmp_path) == before
    (tmp_path / ".npmrc").write_text("registry=https://other\n")
    assert node_key(tmp_path) != before
    (tmp_path / "package-lock.json").write_text("{}")
    asked = node_asked(tmp_path)
    assert asked
    assert asked.lock == "package-lock.json"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{\n"dependencies": }', "package.json, line 2: not valid JSON"),
        ("[]", "package.json has to be an object"),
        ("[" * 100_000, "package.json: nested too deep"),
        ('{"dependencies": []}', "dependencies has to be an object"),
        ('{"dependencies": {"a": "file:../a"}}', "a lies outside of the project, in ../a"),
        ('{"dependencies": {"a": "/etc/a"}}', "a lies outside of the project, in /etc/a"),
        ('{"dependencies": {"a": "1"}, "workspaces": ["b"]}', "has workspaces"),
        ('{"dependencies": {"a": "file:gone.tgz"}}', "cannot read gone.tgz"),
    ],
)
def test_a_package_json_that_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    write(tmp_path, package=text)
    with pytest.raises(ProjectInvalid) as caught:
        node_asked(tmp_path)
    assert message in caught.value.message
