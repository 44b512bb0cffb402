"""A node's socket for the programs of its own machine: who may open the file may call."""

import asyncio
import contextlib
import os
import socket
import stat
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from gridnode.errors import SettingsInvalid
from gridnode.identity import PeerIdentity
from gridnode.link.protocol import Link
from gridnode.model import NodeId, Role

__all__ = ["SOCKET", "by_permission", "listening_locally"]

SOCKET = "client.sock"
_MAX_PATH = 107


def by_permission(transport: asyncio.BaseTransport) -> PeerIdentity:
    """The identity of whoever opened the socket: its file's owner and group have let it in."""
    return PeerIdentity(NodeId(""), Role.LOCAL, "")


@contextlib.asynccontextmanager
async def listening_locally(
    path: Path, private: Path, group: int | None, make_link: Callable[[], Link]
) -> AsyncIterator[None]:
    """Accept links on the socket `path`: mode 0600, or 0660 with the id of a group that may too.

    private: a directory of ours alone on the same file system, where the socket gets its mode before others see it.
    """
    sock, inode = _bind(path, private, group)
    server = await asyncio.get_running_loop().create_unix_server(make_link, sock=sock)
    try:
        yield
    finally:
        server.close()
        _remove(path, inode)


def _bind(path: Path, private: Path, group: int | None) -> tuple[socket.socket, int]:
    """A listening socket, and its inode. What lies there from an earlier life is replaced, other files are not."""
    hidden = private / "new.sock"
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if len(os.fsencode(hidden)) > _MAX_PATH or len(os.fsencode(path)) > _MAX_PATH:
            raise OSError(None, f"a socket's path has at most {_MAX_PATH} bytes")
        if os.path.lexists(path) and not stat.S_ISSOCK(path.lstat().st_mode):
            raise OSError(None, "what is there is no socket")
        hidden.unlink(missing_ok=True)
        sock.bind(str(hidden))
        if group is not None:
            os.chown(hidden, -1, group)
        hidden.chmod(0o600 if group is None else 0o660)
        sock.listen(128)
        hidden.rename(path)
        return sock, path.lstat().st_ino
    except OSError as exc:
        sock.close()
        hint = "GRIDNODE_RUN_DIR has to name a directory with a short path that gridnode can write"
        raise SettingsInvalid(f"cannot listen on {path}: {exc.strerror or exc}", hint=hint) from exc


def _remove(path: Path, inode: int) -> None:
    """Unless another node has taken our place."""
    with contextlib.suppress(OSError):
        if path.lstat().st_ino == inode:
            path.unlink()
