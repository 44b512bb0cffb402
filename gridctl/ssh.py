"""Hosts by SSH: the only file that knows asyncssh, which it imports when a host is dialled, not before."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gridnode.errors import GridError, GridfileInvalid, HostKeyChanged, HostUnreachable
from gridnode.model import Address
from gridnode.servers import SSH_PORT, Server, parse_host_key

if TYPE_CHECKING:
    import asyncssh

    from gridctl.steps import Command

__all__ = ["Ended", "Host", "Pin", "dial", "ssh_line"]

CONNECT_TIMEOUT = 10.0
KEEP_ALIVE = 15.0
MAX_OUTPUT = 256 * 1024
"""Bytes kept of what a command prints, its end; the server chooses how much that is."""
_BLOCK = 64 * 1024
_MAX_ADDRESS = 64
_KINDS = ["ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521"]
_RSA = ["rsa-sha2-512", "rsa-sha2-256"]

Pin = Callable[[Server, str], None]
"""Keeps the host key of a server that was seen for the first time."""
Listener = Callable[[str], None]
"""Gets each line a command prints."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended: exit code (negative when a signal or a lost connection ended it), and what it printed."""

    code: int
    output: str
    errors: str


class Host:
    """A connection to one server."""

    def __init__(self, server: Server, connection: asyncssh.SSHClientConnection, is_root: bool) -> None:
        self.server = server
        self._connection = connection
        self._is_root = is_root

    async def run(
        self,
        command: Command,
        timeout: float,
        feed: AsyncIterator[bytes] | None = None,
        listener: Listener | None = None,
    ) -> Ended:
        """Run a command to its end; HostUnreachable when the connection breaks or time is up."""
        argv = command.argv if self._is_root or not command.root else ("sudo", "-n", "--", *command.argv)
        try:
            async with asyncio.timeout(timeout):
                return await _run(self._connection, shlex.join(argv), feed, listener)
        except TimeoutError as exc:
            raise HostUnreachable(
                f"{self.server}: not done within {timeout:g} s: {argv[0]}", hint="run it again: it goes on from here"
            ) from exc
        except _errors() as exc:
            raise _unreachable(self.server, exc) from exc

    @contextlib.asynccontextmanager
    async def tunnel(self, path: Path, address: Address) -> AsyncIterator[None]:
        """Inside the block, who connects to the socket at `path` reaches `address` as seen from the host, and stays.

        HostUnreachable when nothing answers there, or the host's SSH server does not allow it.
        """
        import asyncssh

        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                _, probe = await self._connection.open_connection(address.host, address.port)
                probe.close()
                listening = await self._connection.forward_local_path_to_port(str(path), address.host, address.port)
        except asyncssh.ChannelOpenError as exc:
            allowed = "" if exc.code == asyncssh.OPEN_CONNECT_FAILED else ": does its sshd have AllowTcpForwarding?"
            raise HostUnreachable(
                f"{self.server}: no way from there to {address}: {exc.reason.lower() or 'refused'}{allowed}",
                hint=f"is gridnode running there? gridctl ssh {self.server.host} -- systemctl status gridnode",
            ) from exc
        except _errors() as exc:  # a timeout is an OSError
            raise _unreachable(self.server, exc) from exc

        try:
            yield
        finally:
            listening.close()

    async def seen_from(self) -> str:
        """The address at which the host sees us, nothing when it does not say."""
        with contextlib.suppress(*_errors()):
            async with asyncio.timeout(CONNECT_TIMEOUT):
                words = (await _run(self._connection, 'echo "$SSH_CONNECTION"', None, None)).output.split()
                return words[0] if words and len(words[0]) <= _MAX_ADDRESS and words[0].isprintable() else ""
        return ""

    @property
    def is_open(self) -> bool:
        return not self._connection.is_closed()

    async def close(self) -> None:
        self._connection.close()
        with contextlib.suppress(Exception):  # it is of no use any more, however it ends
            async with asyncio.timeout(1):
                await self._connection.wait_closed()


async def dial(server: Server, key: str, pins: Mapping[str, str], pin: Pin, is_enough: bool = False) -> Host:
    """A connection with the Gridfile's key (OpenSSH text), else the agent's and ~/.ssh's; raises HostUnreachable.

    A host key that is not the pinned one is HostKeyChanged; the first one seen is pinned. is_enough: no other key.
    """
    import asyncssh

    trust = _Trust(server, pins.get(server.place), pin)
    attempts: list[dict[str, Any]] = [{"client_keys": [_key_of(key)], "agent_path": None}] if key.strip() else []
    refused: Exception | None = None
    for attempt in attempts if is_enough else [*attempts, {}]:
        try:
            connection = await _connect(server, trust, attempt)
        except asyncssh.PermissionDenied as exc:
            refused = exc
            continue
        except TimeoutError as exc:
            raise HostUnreachable(f"{server}: no answer within {CONNECT_TIMEOUT:g} s") from exc
        except _errors() as exc:
            raise trust.fault or _unreachable(server, exc) from exc
        return Host(server, connection, await _is_root(server, connection))
    if is_enough:
        raise HostUnreachable(f"{server}: it does not accept the key") from refused
    raise HostUnreachable(
        f"{server}: it accepts neither the Gridfile's key nor those of your agent and ~/.ssh",
        hint=f"let your own key in first: {ssh_line(server, 'ssh-copy-id')}",
    ) from refused


class _Trust:
    """Judges a server's host key before anything is said to it."""

    def __init__(self, server: Server, pinned: str | None, pin: Pin) -> None:
        self.fault: GridError | None = None
        self.pinned = pinned
        self._server = server
        self._pin = pin

    def validate(self, key: asyncssh.SSHKey) -> bool:
        text = " ".join(key.export_public_key("openssh").decode().split()[:2])
        if parse_host_key(text) is None:
            return False
        if self.pinned is None:
            try:
                self._pin(self._server, text)
            except GridError as exc:
                self.fault = exc
                return False
            self.pinned = text
        if text == self.pinned:
            return True
        self.fault = HostKeyChanged(
            f"{self._server}: its host key is not the one in the Gridfile: another server answers there, or it was"
            f" installed anew (now {key.get_fingerprint()})",
            hint=f"if you know why, remove the line of {self._server.place!r} under [host_keys] in the Gridfile",
        )
        return False


async def _connect(server: Server, trust: _Trust, options: dict[str, Any]) -> asyncssh.SSHClientConnection:
    import asyncssh

    class Client(asyncssh.SSHClient):
        def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
            return trust.validate(key)

    kinds = [*_KINDS, *_RSA]
    if trust.pinned:
        kind = trust.pinned.split()[0]
        kinds = _RSA if kind == "ssh-rsa" else [kind]
    if server.user:
        options = {**options, "username": server.user}
    if server.port != SSH_PORT:
        options = {**options, "port": server.port}
    config = Path.home() / ".ssh" / "config"
    async with asyncio.timeout(CONNECT_TIMEOUT):
        return await asyncssh.connect(
            server.host,
            client_factory=Client,
            server_host_key_algs=kinds,
            known_hosts=([], [], []),
            config=[str(config)] if config.is_file() else None,
            password_auth=False,
            kbdint_auth=False,
            keepalive_interval=KEEP_ALIVE,
            **options,
        )


async def _is_root(server: Server, connection: asyncssh.SSHClientConnection) -> bool:
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT):
            return (await _run(connection, "id -u", None, None)).output.strip() == "0"
    except _errors() as exc:  # a timeout is an OSError
        raise _unreachable(server, exc) from exc


async def _run(
    connection: asyncssh.SSHClientConnection,
    command: str,
    feed: AsyncIterator[bytes] | None,
    listener: Listener | None,
) -> Ended:
    process: Any = await connection.create_process(command, encoding=None)
    async with process:
        output, errors, _ = await asyncio.gather(
            _tail(process.stdout, listener), _tail(process.stderr, listener), _pour(feed, process.stdin)
        )
        await process.wait_closed()
        code = process.returncode
    return Ended(-1 if code is None else code, output, errors)


async def _pour(feed: AsyncIterator[bytes] | None, stdin: Any) -> None:
    """All of it, as fast as the other side takes it; a command that stops reading says why by its exit code."""
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        if feed:
            async for block in feed:
                stdin.write(block)
                await stdin.drain()
        stdin.write_eof()


async def _tail(stream: Any, listener: Listener | None) -> str:
    """The last MAX_OUTPUT bytes; every line goes to the listener, a long one in parts."""
    kept, line = b"", b""
    while block := await stream.read(_BLOCK):
        kept = (kept + block)[-MAX_OUTPUT:]
        *lines, line = (line + block).split(b"\n")
        for each in lines:
            _tell(listener, each)
        if len(line) > _BLOCK:
            _tell(listener, line)
            line = b""
    if line:
        _tell(listener, line)
    return kept.decode(errors="replace")


def _tell(listener: Listener | None, line: bytes) -> None:
    if listener:
        listener(line.decode(errors="replace"))


def _key_of(text: str) -> Any:
    import asyncssh

    try:
        return asyncssh.import_private_key(text)
    except (asyncssh.KeyImportError, asyncssh.KeyEncryptionError) as exc:
        raise GridfileInvalid(
            f"`ssh_key` in the Gridfile is not a usable private key: {exc}", hint="OpenSSH's format, without passphrase"
        ) from exc


def _errors() -> tuple[type[Exception], ...]:
    import asyncssh

    return (OSError, asyncssh.Error, asyncssh.ConfigParseError)


def ssh_line(server: Server, program: str = "ssh") -> str:
    """How a person reaches it."""
    port = f" -p {server.port}" if server.port != SSH_PORT else ""
    return f"{program}{port} {Server(server.host, server.user)}"


def _unreachable(server: Server, error: BaseException) -> HostUnreachable:
    reason = str(error) or type(error).__name__
    if isinstance(error, OSError):  # asyncio's own text for them repeats the address
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror or reason
    return HostUnreachable(f"{server}: {reason}", hint=f"does `{ssh_line(server)}` work from here?")
