"""`gridctl sample`: copy a sample project to start from."""

import shutil
from pathlib import Path

import click

from gridctl.options import Settings, examples, json_option, pass_settings, verbose_option
from gridctl.render import print_json
from gridnode.errors import UsageError

__all__ = ["copy_sample", "sample_command", "samples"]

_PACKAGE = Path(__file__).parent
_HOMES = (_PACKAGE / "samples", _PACKAGE.parent / "examples")
"""Where samples are in an installed wheel, and in a checkout."""


@click.command("sample", epilog=examples("gridctl sample hello", "gridctl sample hello ./my-project"))
@click.argument("name")
@click.argument("directory", required=False, type=click.Path(path_type=Path))
@json_option
@verbose_option
@pass_settings
def sample_command(settings: Settings, name: str, directory: Path | None) -> None:
    """Copy the sample project NAME to DIRECTORY (./NAME unless given).

    `hello` is the one to start with: five small tasks, and an application that calls them.
    """
    target = directory or Path(name)
    copied = copy_sample(name, target)
    if settings.as_json:
        print_json({"sample": name, "directory": str(target), "files": copied})
        return
    click.echo(f"copied {len(copied)} files to {target}", err=True)
    click.echo(f"next: gridctl deploy {target}", err=True)


def samples() -> dict[str, Path]:
    """Every sample by name."""
    home = next((home for home in _HOMES if home.is_dir()), None)
    return {path.name: path for path in sorted(home.iterdir()) if (path / "tasks").is_dir()} if home else {}


def copy_sample(name: str, target: Path) -> list[str]:
    """Copy a sample into a directory that is new or empty; the files' paths. UsageError otherwise."""
    known = samples()
    if name not in known:
        raise UsageError(f"no sample {name!r:.60}", hint=f"there is: {', '.join(known) or 'none in this installation'}")
    try:
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise UsageError(f"{target} is there already", hint=f"gridctl sample {name} DIRECTORY copies it elsewhere")
        shutil.copytree(known[name], target, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
    except OSError as exc:
        raise UsageError(f"cannot copy to {target}: {exc.strerror or exc}") from exc
    return sorted(str(path.relative_to(target)) for path in target.rglob("*") if path.is_file())
