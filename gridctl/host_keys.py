"""Host keys in a Gridfile's text: what its owner wrote around them stays as it is. Pure."""

from gridctl.toml_lines import key_lines
from gridnode.errors import GridfileInvalid
from gridnode.gridfile import parse_gridfile

__all__ = ["pinned"]

_TABLE = "host_keys"


def pinned(text: str, place: str, key: str, path: str = "Gridfile") -> str:
    """The Gridfile's text with one more host key; GridfileInvalid when [host_keys] is written in another way."""
    line = f"'{place}' = '{key}'\n"
    head = key_lines(text).get((_TABLE,))
    if head is None:
        gap = "" if text.endswith("\n\n") else "\n" if text.endswith("\n") else "\n\n"
        changed = f"{text}{gap}# Written by gridctl when it first saw a server\n[{_TABLE}]\n{line}"
    else:
        lines = text.splitlines(keepends=True)
        before = "".join(lines[:head])
        changed = before + ("" if before.endswith("\n") else "\n") + line + "".join(lines[head:])
    found = _read(changed, path)
    if found != {**_read(text, path), place: key}:
        raise GridfileInvalid(f"{path}: `{_TABLE}` cannot be added to", hint=f"write it as a table: [{_TABLE}]")
    return changed


def _read(text: str, path: str) -> dict[str, str]:
    return dict(parse_gridfile(text, path).host_keys)
