"""Dialling the servers of a Gridfile by SSH: its key, its host keys, and where new ones are kept."""

import asyncio
from collections.abc import Callable
from pathlib import Path

from gridctl.host_keys import pinned
from gridctl.new import write_private
from gridctl.ssh import Host, Pin, dial
from gridnode.errors import HostKeyChanged, UsageError
from gridnode.gridfile import Gridfile, Server, parse_gridfile

__all__ = ["dialler"]


def dialler(gridfile: Gridfile, key: str = "") -> Callable[[Server], "asyncio.Future[Host]"]:
    """Dials servers with the Gridfile's key; a host key seen for the first time is written into the Gridfile.

    key: a private key, OpenSSH's text, in place of the Gridfile's and of every other.
    """
    pin = _pin(Path(gridfile.path))
    return lambda server: asyncio.ensure_future(
        dial(server, key or gridfile.ssh_key, gridfile.host_keys, pin, is_enough=bool(key))
    )


def _pin(path: Path) -> Pin:
    def pin(server: Server, key: str) -> None:
        # At once, and nothing awaited in between: several hosts are dialled side by side, and one may be twice.
        place = path.resolve()
        try:
            text = place.read_text()
            known = parse_gridfile(text, str(path)).host_keys.get(server.place)
            if known is None:
                write_private(place, pinned(text, server.place, key, str(path)), replacing=True)
        except OSError as exc:
            raise UsageError(
                f"{path} cannot be written: {exc.strerror}", hint="the host keys of servers are kept in it"
            ) from exc
        if known not in (None, key):
            raise HostKeyChanged(
                f"{server}: its host key is not the one that was written into {path} a moment ago",
                hint="run it again; if it stays so, another server answers there now and then",
            )

    return pin
