"""The SSH adapter against a real SSH server in this process."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from gridctl.fleet import Fleet, State
from gridctl.shell import ssh_argv
from gridctl.ssh import MAX_OUTPUT, dial, ssh_line
from gridctl.steps import Command, Step
from gridnode.errors import HostKeyChanged, HostUnreachable, StepFailed, UsageError
from gridnode.gridfile import Gridfile, Server

KEY = asyncssh.generate_private_key("ssh-ed25519")
HOST_KEY = asyncssh.generate_private_key("ssh-ed25519")
TEXT = KEY.export_private_key().decode()
PINNED = " ".join(HOST_KEY.export_public_key().decode().split()[:2])


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No keys of whoever runs the tests."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)


async def _process(process: Any) -> None:
    """A few commands, by their first word."""
    command = process.command or ""
    word = command.split()[0]
    if word == "id":
        process.stdout.write(b"0\n")
    elif word == "cat":
        process.stdout.write(await process.stdin.read())
    elif word == "flood":
        for _ in range(20):
            process.stdout.write(b"x" * 65_536)
            await process.stdout.drain()
    elif word == "hang":
        await process.channel.wait_closed()
        return
    elif word == "fail":
        process.stderr.write(b"no \x1b[31mway\n")
        process.exit(7)
        return
    process.exit(0)


@asynccontextmanager
async def server(host_key: asyncssh.SSHKey = HOST_KEY) -> AsyncIterator[Server]:
    authorized = asyncssh.import_authorized_keys(KEY.export_public_key().decode())
    listening = await asyncssh.create_server(
        asyncssh.SSHServer,
        "127.0.0.1",
        0,
        server_host_keys=[host_key],
        authorized_client_keys=authorized,
        process_factory=_process,
        encoding=None,
    )
    try:
        yield Server("127.0.0.1", "root", listening.get_port())
    finally:
        listening.close()
        await listening.wait_closed()


def no_pin(server: Server, key: str) -> None:
    raise AssertionError("the key is pinned already")


async def test_a_first_host_key_is_pinned_and_then_holds() -> None:
    pins: dict[str, str] = {}
    async with server() as there:
        host = await dial(there, TEXT, {}, lambda server, key: pins.update({server.place: key}))
        await host.close()
        assert pins == {f"127.0.0.1:{there.port}": PINNED}
        host = await dial(there, TEXT, pins, no_pin)
        assert (await host.run(Command(("fail",)), 10)).code == 7
        await host.close()


async def test_a_key_that_cannot_be_kept_is_not_trusted() -> None:
    def full(server: Server, key: str) -> None:
        raise UsageError("Gridfile cannot be written")

    async with server() as there:
        with pytest.raises(UsageError, match="cannot be written"):
            await dial(there, TEXT, {}, full)


@pytest.mark.parametrize("kind", ["ssh-ed25519", "ecdsa-sha2-nistp256", "ssh-rsa"])
async def test_another_host_key_is_refused_before_anything_is_said(kind: str) -> None:
    async with server(asyncssh.generate_private_key(kind)) as there:
        with pytest.raises(HostUnreachable) as caught:
            await dial(there, TEXT, {there.place: PINNED}, no_pin)
    if kind == "ssh-ed25519":  # a server with no key of the pinned kind is refused earlier, without a word of ours
        assert isinstance(caught.value, HostKeyChanged)
        assert there.place in str(caught.value.hint)


async def test_a_key_that_is_not_let_in_says_how_to_get_in() -> None:
    other = asyncssh.generate_private_key("ssh-ed25519").export_private_key().decode()
    async with server() as there:
        with pytest.raises(HostUnreachable, match="accepts neither") as caught:
            await dial(there, other, {there.place: PINNED}, no_pin)
    assert caught.value.hint == f"let your own key in first: ssh-copy-id -p {there.port} root@127.0.0.1"


async def test_nobody_there() -> None:
    async with server() as there:
        pass
    with pytest.raises(HostUnreachable, match=r": Connection refused") as caught:
        await dial(there, TEXT, {}, no_pin)
    assert ssh_line(there) in str(caught.value.hint)


async def test_stdin_lines_and_bounds() -> None:
    async def feed() -> AsyncIterator[bytes]:
        for number in range(50):
            yield b"%d\n" % number * 5000

    lines: list[str] = []
    async with server() as there:
        host = await dial(there, TEXT, {there.place: PINNED}, no_pin)
        ended = await host.run(Command(("cat",)), 30, feed(), lines.append)
        assert (ended.code, len(lines)) == (0, 250_000)
        assert len(ended.output) == MAX_OUTPUT
        assert ended.output.endswith("49\n")
        flooded = await host.run(Command(("flood",)), 30, None, lines.append)
        assert len(flooded.output) == MAX_OUTPUT
        assert max(map(len, lines)) <= 3 * 65_536
        with pytest.raises(HostUnreachable, match=r"not done within 0\.2 s"):
            await host.run(Command(("hang",)), 0.2)
        await host.close()


class Heard:
    """A report that remembers."""

    def __init__(self) -> None:
        self.steps: list[tuple[str, str]] = []
        self.lines: list[str] = []

    def begun(self, server: Server, step: str) -> None:
        return

    def line(self, server: Server, text: str) -> None:
        self.lines.append(text)

    def ended(self, server: Server, step: str, state: str, seconds: float) -> None:
        self.steps.append((step, state))


async def test_a_plan_stops_where_a_step_fails_and_other_hosts_go_on() -> None:
    heard = Heard()
    good, bad = Step("good", Command(("cat",)), Command(("cat",))), Step("bad", Command(("fail",)), Command(("fail",)))
    async with server() as there, server() as gone:
        pins = {there.place: PINNED, gone.place: "ssh-ed25519 " + "A" * 68}
        fleet = Fleet(lambda one: dial(one, TEXT, pins, no_pin), lambda *_: _never(), heard, 2)
        results = await fleet.run([there, gone], (good, bad, good))
        dry = await Fleet(lambda one: dial(one, TEXT, pins, no_pin), lambda *_: _never(), Heard(), 1, True).run(
            [there], (good, bad, good)
        )
    assert [step for step in heard.steps if step[0] != "connect"] == [("good", State.UNCHANGED), ("bad", State.FAILED)]
    assert isinstance(results[0].error, StepFailed)
    assert results[0].error.trace == "no \x1b[31mway"
    assert isinstance(results[1].error, HostKeyChanged)
    assert (dry[0].changed, dry[0].error) == (["bad"], None)


async def test_one_after_the_other_until_one_fails() -> None:
    good, bad = Step("good", Command(("cat",))), Step("bad", Command(("fail",)))
    async with server() as first, server() as second:
        pins = {first.place: PINNED, second.place: PINNED}
        fleet = Fleet(lambda one: dial(one, TEXT, pins, no_pin), lambda *_: _never(), Heard(), 1)
        well = await fleet.roll([first, second], (good,))
        ill = await fleet.roll([first, second], (bad,))
    assert [(one.server, one.error, one.reached) for one in well] == [(first, None, True), (second, None, True)]
    assert [(one.server, type(one.error)) for one in ill] == [(first, StepFailed)]


async def test_another_key_does_not_stand_in_for_the_one_that_is_tried(tmp_path: Path) -> None:
    (tmp_path / ".ssh").mkdir(mode=0o700)
    KEY.write_private_key(tmp_path / ".ssh" / "id_ed25519")
    other = asyncssh.generate_private_key("ssh-ed25519").export_private_key().decode()
    async with server() as there:
        await (await dial(there, other, {there.place: PINNED}, no_pin)).close()
        with pytest.raises(HostUnreachable, match="does not accept the key"):
            await dial(there, other, {there.place: PINNED}, no_pin, is_enough=True)


async def _never() -> AsyncIterator[bytes]:
    raise AssertionError("nothing is fed")
    yield b""


def test_openssh_gets_key_and_host_key_from_private_files(tmp_path: Path) -> None:
    gridfile = Gridfile("g", (), ssh_key=TEXT, host_keys={"a:2222": PINNED})
    argv = ssh_argv(gridfile, Server("a", "root", 2222), tmp_path)
    assert (argv[0], argv[-1]) == ("ssh", "root@a")
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "known_hosts").read_text() == f"[a]:2222 {PINNED}\n"
    assert "StrictHostKeyChecking=yes" in argv
    assert not any(TEXT[40:80] in word for word in argv)
