"""What a server that boots with cloud-init is told: the template of deploy/cloud-init, filled in. Pure."""

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from gridctl.steps import INSTALL_ENGINE
from gridnode.errors import UsageError

__all__ = ["MAX_SIZE", "Boot", "user_data"]

MAX_SIZE: Final = 16 * 1024
"""Bytes: the least that a cloud allows."""
_MARK: Final = re.compile(r"^( *)@([a-z.-]+)@$", re.MULTILINE)
_WORD: Final = re.compile(r"@([a-z]+)@$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Boot:
    """card, environment: texts of those files; units: file name to text; image: its name.

    url: where it is loaded from; is_pulled: whether a registry has it; neither: it has to be on the server.
    """

    card: str
    environment: str
    units: Mapping[str, str]
    image: str
    url: str = ""
    is_pulled: bool = False


def user_data(template: str, script: str, boot: Boot) -> str:
    """The user-data; UsageError when it is too large. template, script: of deploy/cloud-init."""
    words = {"registry": "yes" if boot.is_pulled else "", "url": boot.url}
    script = _WORD.sub(lambda match: shlex.quote(words[match[1]]) if match[1] in words else match[0], script)
    lines = [line for line in boot.environment.splitlines() if not line.startswith("GRIDNODE_IMAGE=")]
    texts = {
        "card": boot.card,
        "environment": "\n".join([*lines, f"GRIDNODE_IMAGE={boot.image}"]),
        **boot.units,
        "first-boot": _filled(script, {"engine": INSTALL_ENGINE}),
    }
    filled = _filled(template, texts)
    if len(filled.encode()) > MAX_SIZE:
        raise UsageError(
            f"the user-data would have {len(filled.encode())} bytes, clouds take {MAX_SIZE}",
            hint="leave out some labels or seeds",
        )
    return filled


def _filled(template: str, texts: Mapping[str, str]) -> str:
    """Each line `@name@`, replaced by the text of that name, as far in as the line was."""

    def fill(match: re.Match[str]) -> str:
        lines = texts[match[2]].strip("\n").split("\n")
        return "\n".join(match[1] + line if line else "" for line in lines)

    return _MARK.sub(fill, template)
