"""Who changes the grid, for people to read."""

import contextlib
import getpass
import socket

from gridnode.image_document import MAX_BY

__all__ = ["author"]


def author() -> str:
    """`user@host`, as this machine has it."""
    user = "?"
    with contextlib.suppress(OSError, KeyError):
        user = getpass.getuser()
    return "".join(one for one in f"{user}@{socket.gethostname()}" if one.isprintable())[:MAX_BY]
