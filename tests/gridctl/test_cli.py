"""The command line as a whole: help, exit codes, where output goes. Subprocesses where that matters."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gridctl.cli import ALIASES, COMMANDS, run
from gridctl.new import new_gridfile
from tests.gridctl.conftest import RunningGrid, free_port

GRIDCTL = [sys.executable, "-c", "from gridctl.cli import main; main()"]


def gridctl(*arguments: str, stdin: bytes = b"", cwd: Path | None = None, **env: str) -> tuple[int, str, str]:
    """Exit code, stdout, stderr of a process of its own."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("GRIDCTL")} | env
    done = subprocess.run(
        [*GRIDCTL, *arguments], input=stdin, capture_output=True, cwd=cwd, env=environ, timeout=60, check=False
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


@pytest.mark.parametrize("name", [*COMMANDS, *ALIASES])
def test_every_command_has_help_with_two_examples(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([name, "-h"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    examples = out.split("Examples:")[1].strip().splitlines()
    assert len(examples) >= 2
    assert all("gridctl" in line for line in examples)


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    out = capsys.readouterr().out
    for name, entry in COMMANDS.items():
        assert f"  {name} " in out
        assert entry.help[:30] in out


def test_help_imports_little() -> None:
    heavy = "{'asyncio', 'msgspec', 'cryptography', 'rich', 'aiohttp', 'docker', 'zeroconf', 'pydantic', 'uvloop'}"
    code = f"import sys\nfrom gridctl.cli import run\nassert run(['--help']) == 0\nprint({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1] == "set()"


def test_invoking_imports_nothing_of_a_node() -> None:
    heavy = "{'rich', 'aiohttp', 'docker', 'zeroconf', 'pydantic', 'uvloop', 'structlog', 'zstandard', 'pyfastcdc'}"
    code = f"import sys\nimport gridctl.client, gridctl.invoke\nprint({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize("arguments", [["frob"], ["ls", "--frob"], ["card"], ["--gridfile"], ["completion", "tcsh"]])
def test_usage_errors_are_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("gridctl: ")
    assert "\nhint: `gridctl" in err


def test_a_near_miss_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["depoly"]) == 2
    assert "did you mean deploy?" in capsys.readouterr().err


def test_no_gridfile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["ls"]) == 2
    assert "no Gridfile in" in capsys.readouterr().err


def test_json_errors_go_to_stdout_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["ls", "--json", "--gridfile", str(tmp_path / "none")]) == 2
    out, err = capsys.readouterr()
    assert json.loads(out)["schema"] == 1
    assert json.loads(out)["error"]["code"] == "gridfile_invalid"
    assert err.startswith("gridctl: ")


def test_warnings_are_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = new_gridfile(tmp_path, seeds=[f"127.0.0.1:{free_port()}"])
    made.path.chmod(0o644)
    assert run(["ls", "--gridfile", str(made.path)]) == 4
    assert capsys.readouterr().err.count("chmod 600") == 1


def test_traceback_only_when_verbose(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for flags in (["-v", "ls"], ["ls", "-v"]):
        assert run([*flags, "--gridfile", str(tmp_path / "none")]) == 2
        assert "Traceback" in capsys.readouterr().err
    assert run(["ls", "--gridfile", str(tmp_path / "none")]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_flag_before_variable_before_directory(hello_grid: RunningGrid, tmp_path: Path) -> None:
    deep = hello_grid.gridfile.parent / "a" / "b"
    deep.mkdir(parents=True, exist_ok=True)
    assert gridctl("invoke", "echo", cwd=deep)[0] == 0
    nowhere = str(tmp_path / "none")
    assert gridctl("invoke", "echo", cwd=deep, GRIDCTL_GRIDFILE=nowhere)[0] == 2
    path = str(hello_grid.gridfile)
    assert gridctl("invoke", "echo", "--gridfile", path, cwd=tmp_path, GRIDCTL_GRIDFILE=nowhere)[0] == 0
    assert gridctl("--gridfile", path, "invoke", "echo", cwd=tmp_path)[0] == 0


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["invoke", "echo", "-d", "[1]"], 0),
        (["invoke", "echo", "-d", "word"], 2),
        (["invoke", "nope"], 5),
        (["invoke", "echo", "--node", "node-9"], 5),
        (["invoke", "words", "-d", "1"], 6),
        (["invoke", "primes", "-d", '{"below": 20000000}', "--timeout", "0.05"], 124),
    ],
)
def test_exit_codes(hello_grid: RunningGrid, arguments: list[str], code: int) -> None:
    got, out, err = gridctl(*arguments, GRIDCTL_GRIDFILE=str(hello_grid.gridfile))
    assert got == code, err
    assert out == ("[1]\n" if code == 0 else "")
    assert ("gridctl: " in err) is (code != 0)
    assert "\x1b" not in out + err


def test_nobody_there_and_not_let_in_are_4(hello_grid: RunningGrid, tmp_path: Path) -> None:
    for name, port, said in (("a", free_port(), "no node answered"), ("b", hello_grid.ports[0], "not let in")):
        (tmp_path / name).mkdir()
        made = new_gridfile(tmp_path / name, seeds=[f"127.0.0.1:{port}"])
        got, _, err = gridctl("ls", "--gridfile", str(made.path))
        assert (got, said in err) == (4, True)


def test_an_interrupted_call_is_130(hello_grid: RunningGrid) -> None:
    environ = os.environ | {"GRIDCTL_GRIDFILE": str(hello_grid.gridfile)}
    script = (
        "import _thread, signal, gridctl.client\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background job starts with it ignored
        "async def send(*arguments, **more): _thread.interrupt_main(); import asyncio; await asyncio.sleep(30)\n"
        "gridctl.client.Grid.send = send\n"
        "from gridctl.cli import main; main()"
    )
    command = [sys.executable, "-c", script, "invoke", "echo"]
    done = subprocess.run(command, capture_output=True, env=environ, timeout=20, text=True, check=False)
    assert (done.returncode, done.stderr.lstrip()) == (130, "gridctl: interrupted\n")


def test_a_reader_that_has_gone_is_no_crash(hello_grid: RunningGrid) -> None:
    command = f"{' '.join(map(repr, GRIDCTL))} ls --json | true"
    environ = os.environ | {"GRIDCTL_GRIDFILE": str(hello_grid.gridfile)}
    done = subprocess.run(command, shell=True, capture_output=True, env=environ, timeout=30, text=True, check=False)
    assert done.stderr == ""


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["completion", shell]) == 0
    assert "_GRIDCTL_COMPLETE" in capsys.readouterr().out


def test_completion_answers_with_commands() -> None:
    env = {"_GRIDCTL_COMPLETE": "bash_complete", "COMP_WORDS": "gridctl dep", "COMP_CWORD": "1"}
    assert gridctl(**env)[1].split() == ["plain,deploy"]


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    from gridnode import __version__

    assert run(["version"]) == 0
    assert capsys.readouterr().out == f"{__version__}\n"
    assert run(["version", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"schema": 1, "version": __version__}
