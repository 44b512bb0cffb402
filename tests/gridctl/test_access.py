import json
import stat
import tomllib
from pathlib import Path

import pytest

from gridctl.cli import run
from gridctl.new import new_gridfile
from gridnode.gridfile import parse_card

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_new_writes_a_private_gridfile(directory: Path, capsys: Capture) -> None:
    assert run(["new", "--name", "shop", "--server", "root@10.0.0.1", "--server", "10.0.0.2:2222"]) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert "the grid shop" in err
    assert stat.S_IMODE((directory / "Gridfile").stat().st_mode) == 0o600
    written = tomllib.loads((directory / "Gridfile").read_text())
    assert (written["grid_name"], written["servers"]) == ("shop", ["root@10.0.0.1", "10.0.0.2:2222"])
    assert written["grid_password"] not in err


def test_new_overwrites_only_with_force(directory: Path, capsys: Capture) -> None:
    assert run(["new"]) == 0
    first = (directory / "Gridfile").read_text()
    assert run(["new"]) == 2
    assert (directory / "Gridfile").read_text() == first
    capsys.readouterr()
    assert run(["new", "--force", "--json"]) == 0
    fields = json.loads(capsys.readouterr().out)
    assert fields["backup"].endswith("Gridfile.bak")
    assert (directory / "Gridfile.bak").read_text() == first


@pytest.mark.parametrize("arguments", [["--server", "a b"], ["--seed", "x:y:z"], ["--name", "no spaces"]])
def test_new_refuses_what_is_malformed(arguments: list[str], directory: Path) -> None:
    assert run(["new", *arguments]) == 2
    assert not (directory / "Gridfile").exists()


def test_card_prints_a_card(capsys: Capture) -> None:
    run(["new"])
    capsys.readouterr()
    assert run(["card", "web-1", "--ttl", "90d", "--label", "zone=a=b", "--seed", "10.0.0.9"]) == 0
    out, err = capsys.readouterr()
    card = parse_card(out)
    assert err == ""
    assert card.labels == {"zone": "a=b", "host": "web-1"}
    assert [str(seed) for seed in card.seeds] == ["10.0.0.9:7400"]
    assert run(["card", "web-1", "--json"]) == 0
    fields = json.loads(capsys.readouterr().out)
    assert fields["host"] == "web-1"
    assert parse_card(fields["card"]).tag == card.tag


@pytest.mark.parametrize("arguments", [["--ttl", "soon"], ["--ttl", "-1d"], ["--label", "zone"], ["--seed", "a:b:c"]])
def test_card_refuses_what_is_malformed(arguments: list[str], capsys: Capture) -> None:
    run(["new"])
    capsys.readouterr()
    assert run(["card", "web-1", *arguments]) == 2
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("argv", [["cloud-init"], ["card", "web-1"], ["share", "alice"]], ids=" ".join)
def test_what_is_secret_is_written_for_its_owner_alone(
    tmp_path: Path, argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    gridfile, output = new_gridfile(tmp_path, "g").path, tmp_path / "out"
    assert run([*argv, "--gridfile", str(gridfile), "-o", str(output)]) == 0
    assert capsys.readouterr().out == ""
    assert output.stat().st_mode & 0o777 == 0o600
    assert "PRIVATE KEY" in output.read_text()
    assert run([*argv, "--gridfile", str(gridfile), "-o", str(output)]) == 2
    assert run([*argv, "--gridfile", str(gridfile), "-o", str(tmp_path / "none" / "x")]) == 2
