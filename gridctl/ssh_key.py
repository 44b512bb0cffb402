"""The Gridfile's own SSH key: pairs of keys, and another one in a Gridfile's text, whose rest stays as it is. Pure."""

from dataclasses import replace

import msgspec

from gridctl.toml_lines import value_spans
from gridnode.errors import GridfileInvalid
from gridnode.gridfile import parse_gridfile
from gridnode.toml_text import block

__all__ = ["Change", "KeyPair", "with_key"]


class KeyPair(msgspec.Struct, frozen=True):
    """OpenSSH's texts: a private key, and the line of its public one. An empty one is not there, or not known."""

    private: str
    public: str

    def __repr__(self) -> str:
        return f"KeyPair({self.public!r})"


class Change(msgspec.Struct, frozen=True):
    """From one key to another, while servers may know either."""

    old: KeyPair
    new: KeyPair


def with_key(text: str, pair: KeyPair, path: str = "Gridfile") -> str:
    """The Gridfile's text with this SSH key in place of its own; GridfileInvalid when it cannot be put there."""
    changed = text
    for name, value in (("ssh_public_key", pair.public), ("ssh_key", pair.private)):
        span = value_spans(changed).get((name,))
        quoted = block(value)
        changed = f"{changed[: span[0]]}{quoted}{changed[span[1] :]}" if span else f"{name} = {quoted}\n\n{changed}"
    before, after = parse_gridfile(text, path), parse_gridfile(changed, path)
    wanted = replace(before, ssh_key=after.ssh_key, ssh_public_key=pair.public.strip())
    if after != wanted or after.ssh_key.strip() != pair.private.strip():
        raise GridfileInvalid(f"{path}: `ssh_key` cannot be replaced", hint="write it as ssh_key = '''...'''")
    return changed
