"""Tells when files of a project change, by what the operating system reports. watchfiles is used here only."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from watchfiles import Change, awatch

from gridnode.errors import UsageError

__all__ = ["changes"]

QUIET: Final = 30
"""Milliseconds without a further change after which a save is over: editors write more than one file for it."""
AT_MOST: Final = 500
"""Milliseconds after which changes are told although more keep coming."""
WAKE: Final = 250
"""Milliseconds between two looks whether it should end."""
_NEVER: Final = frozenset({".git", ".hg", ".svn", ".gridctl", ".venv", "__pycache__", ".DS_Store"})
"""What no release ever holds."""


async def changes(directory: Path) -> AsyncIterator[set[str]]:
    """Paths in `directory`, a resolved one, that changed: one set after the other, for as long as somebody asks."""
    try:
        async for found in awatch(
            directory, watch_filter=_Wanted(directory), debounce=AT_MOST, step=QUIET, rust_timeout=WAKE
        ):
            yield {Path(path).relative_to(directory).as_posix() for _, path in found}
    except FileNotFoundError as exc:
        raise UsageError(f"{directory} is gone", hint="gridctl dev DIRECTORY watches another") from exc
    except OSError as exc:
        hint = "fs.inotify.max_user_watches may be too low: `sysctl fs.inotify` shows it"
        raise UsageError(f"{directory} cannot be watched: {exc}", hint=hint) from exc


class _Wanted:
    """Whether a change can matter to a release."""

    def __init__(self, top: Path) -> None:
        self._top = top

    def __call__(self, change: Change, path: str) -> bool:
        return _NEVER.isdisjoint(Path(path).relative_to(self._top).parts) and not path.endswith(".pyc")
