"""A program that fetches packages (uv, npm): where it is, and one run of it, its output without credentials."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from gridnode.errors import DependencyError

__all__ = ["Ran", "find_tool", "redacted", "run_tool"]

MAX_TOLD: Final = 6000
"""Characters of a tool's own words that are passed on."""
_CREDENTIALS: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)[^\s/@]+@")
_COLOURS: Final = re.compile(r"\x1b\[[0-9;]*m")


class Ran(NamedTuple):
    """How it ended. out: as it is, told: its standard error, to be shown."""

    code: int
    out: str
    told: str


def find_tool(name: str, hint: str) -> str:
    """The program beside this Python, else the one on PATH; DependencyError with `hint` when there is none."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.is_file() else shutil.which(name)
    if not found:
        raise DependencyError(f"the project has dependencies, and {name}, which fetches them, is not here", hint=hint)
    return found


def run_tool(argv: Sequence[str], directory: Path, *, stdin: str = "", env: Mapping[str, str] | None = None) -> Ran:
    """Run it to its end in `directory`, with this environment and `env` above it."""
    try:
        ended = subprocess.run(
            argv,
            cwd=directory,
            input=stdin.encode(),
            capture_output=True,
            env={**os.environ, "NO_COLOR": "1", **(env or {})},
            check=False,
        )
    except OSError as exc:
        raise DependencyError(f"cannot run {argv[0]}: {exc.strerror}", hint="is it for this machine?") from exc
    told = redacted(_COLOURS.sub("", ended.stderr.decode(errors="replace")))
    return Ran(ended.returncode, ended.stdout.decode(errors="replace"), told.strip()[-MAX_TOLD:])


def redacted(text: str) -> str:
    """The text with the user and password of every URL taken out."""
    return _CREDENTIALS.sub(r"\1***@", text)
