"""Python packages for nodes: chosen and unpacked by uv; wheels only, so that none of their code runs here."""

import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from gridctl.dependencies import PythonAsked, digest, read_plain
from gridctl.requirements import line_of
from gridctl.target import Target
from gridctl.tool import Ran, find_tool, run_tool
from gridctl.vendored import TREE, Fetched, counted
from gridnode.errors import DependencyError, GridError, ProjectInvalid

__all__ = ["PLACE", "fetch_python", "python_key"]

PLACE: Final = ".vendor/python"
"""Where the trees are in a release, one for each target by its tag."""
_FORMAT: Final = "python 1"
_HINT: Final = "install uv: `pip install 'gridcontrol[uv]'`, or see https://docs.astral.sh/uv/"
_ENV: Final = {"UV_PYTHON_DOWNLOADS": "never", "UV_NO_PROGRESS": "1"}
_ENTRY: Final = re.compile(r"^(?![\s#-]).+", re.MULTILINE)
_DIST_INFO: Final = re.compile(r"(.+)-([^-]+)\.dist-info")
_UNFIT: Final = re.compile(r"\b([A-Za-z0-9][A-Za-z0-9._-]*?)(?:(==[^\s,]+))? has no (?:usable )?wheels?\b")
_ONLY_SOURCE: Final = re.compile(r"Wheels are required for `([^`]+)`|[Bb]uilding source distributions is disabled")
_OFFLINE: Final = re.compile(
    r"Failed to fetch|error sending request|Could not connect|Network connectivity is disabled"
)
_AT: Final = re.compile(r"(?:in|file) `([^`]+)` at position (\d+)")
_AT_LINE: Final = re.compile(r"[^:\n]+: (\S+?):(\d+):\d+$", re.MULTILINE)
_LEFT_OUT: Final = ("direct_url.json", "uv_cache.json", "REQUESTED")
"""Tells of this machine and this run, so that the same packages would differ from one operator to the next."""


def python_key(asked: PythonAsked, target: Target) -> str:
    """Name of the tree in the cache."""
    return digest(_FORMAT, asked.key, target.tag, target.platform)


def fetch_python(
    asked: PythonAsked, target: Target, directory: Path, into: Path, say: Callable[[str], object]
) -> Fetched:
    """Fill `into`/tree with the packages that the project in `directory` asks for; ProjectInvalid, DependencyError."""
    uv = _Uv(directory, target, asked.file)
    chosen = uv.choose(asked)
    say(f"vendoring {counted(len(_ENTRY.findall(chosen)))} for {target} ...")
    uv.unpack("\n".join((*asked.options, chosen)), into / TREE)
    _tidy(into / TREE)
    return Fetched(tuple(sorted(_packages(into / TREE))))


class _Uv:
    """uv for one project and target."""

    def __init__(self, directory: Path, target: Target, file: str) -> None:
        self._program = find_tool("uv", _HINT)
        self._directory, self._target, self._file = directory, target, file
        self._choice = (
            *("--python", sys.executable, "--python-version", target.python, "--python-platform", target.platform),
            *("--only-binary", ":all:"),
        )

    def choose(self, asked: PythonAsked) -> str:
        """Every package with its version and hashes, as lines of a requirements file."""
        flags = ["--generate-hashes", "--no-header", "--no-annotate", "--no-strip-extras", *self._choice]
        if not asked.locked:
            return self._run("pip", "compile", asked.file, *flags)
        locked = self._run(
            "export", "--frozen", "--no-dev", "--no-emit-project", "--no-editable", "--no-header", "--no-annotate"
        )
        return self._run("pip", "compile", "-", "--no-deps", *flags, stdin=locked)

    def unpack(self, chosen: str, tree: Path) -> None:
        """What was chosen, and nothing else, each with the hash that was chosen."""
        self._run("pip", "install", "-r", "-", "--no-deps", "--target", str(tree), *self._choice, stdin=chosen)

    def _run(self, *argv: str, stdin: str = "") -> str:
        ran = run_tool([self._program, *argv, "--quiet"], self._directory, stdin=stdin, env=_ENV)
        if ran.code:
            raise _error(ran, self._target, self._directory, self._file)
        return ran.out


def _error(ran: Ran, target: Target, directory: Path, file: str) -> GridError:
    """What uv said, as an error of ours: whose fault it is, and what to do."""
    told = ran.told
    if _OFFLINE.search(told):
        hint = "is this machine online? UV_DEFAULT_INDEX names another index, with credentials if it needs them"
        return DependencyError(f"{file}: packages cannot be fetched from their index", hint=hint, trace=told)
    if at := _place(told, directory):
        return ProjectInvalid(f"{at}: cannot be read", hint="mend that line", trace=told)
    unfit, source = _UNFIT.search(told), _ONLY_SOURCE.search(told)
    if unfit or source:
        what = f"{unfit[1]}{unfit[2] or ''}" if unfit else source and source[1]
        what = what or "what it asks for"
        return ProjectInvalid(
            f"{file}: {what} has no wheel for {target} ({target.platform.partition('-')[2]})",
            hint="pin another version, put a wheel in the project and name it there, "
            "or give the tasks an image of their own with the package in it (`image = ...` in grid.toml)",
            trace=told,
        )
    hint = "is each name right, and is there a version of each that suits the others?"
    return ProjectInvalid(f"{file}: no packages fit what it asks for, for {target}", hint=hint, trace=told)


def _place(told: str, directory: Path) -> str | None:
    """`FILE, line N`, where uv names a place."""
    if at := _AT.search(told):
        line = line_of(read_plain(directory, at[1]), int(at[2])) if os.path.isfile(directory / at[1]) else 1
        return f"{at[1]}, line {line}"
    if line_at := _AT_LINE.search(told):
        return f"{line_at[1]}, line {line_at[2]}"
    return None


def _tidy(tree: Path) -> None:
    """Leave nothing of this machine: scripts with its paths, and what uv keeps for itself."""
    (tree / ".lock").unlink(missing_ok=True)
    shutil.rmtree(tree / "bin", ignore_errors=True)
    for info in tree.glob("*.dist-info"):
        for name in _LEFT_OUT:
            (info / name).unlink(missing_ok=True)
        record = info / "RECORD"
        if record.is_file():
            _rewrite(record, [line for line in record.read_text("utf-8").splitlines(True) if not _is_gone(line)])


def _is_gone(line: str) -> bool:
    path = line.partition(",")[0]
    return path.startswith(("bin/", "../")) or os.path.basename(path) in _LEFT_OUT


def _rewrite(file: Path, lines: list[str]) -> None:
    """As a new file: the old one may be one with that of uv's cache."""
    file.unlink()
    file.write_text("".join(lines), "utf-8")


def _packages(tree: Path) -> Iterator[str]:
    for info in tree.glob("*.dist-info"):
        if found := _DIST_INFO.fullmatch(info.name):
            yield f"{found[1]} {found[2]}"
