"""`gridctl keygen` against real SSH servers in this process, whose commands a real shell runs in a home of theirs."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from gridctl.cli import run
from gridctl.new import load_gridfile, new_gridfile

FOREIGN = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFFF somebody else's"


class Sshd:
    """Servers of one loop in a thread. homes: place to home; broken: places that read no authorized_keys any more."""

    def __init__(self) -> None:
        self.homes: dict[str, Path] = {}
        self.broken: dict[str, str] = {}
        self._loop = asyncio.new_event_loop()
        self._listening: dict[str, asyncssh.SSHAcceptor] = {}
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

    def start(self, home: Path, port: int = 0) -> str:
        """Place of a server with this home."""
        (home / ".ssh").mkdir(parents=True, exist_ok=True)
        place = str(self._wait(self._start(home, port)))
        self.homes[place] = home
        return place

    def stop(self, place: str) -> None:
        self._loop.call_soon_threadsafe(self._listening.pop(place).close)

    def keys(self, place: str) -> str:
        return (self.homes[place] / ".ssh" / "authorized_keys").read_text()

    def close(self) -> None:
        self._wait(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def _wait(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(20)

    async def _start(self, home: Path, port: int) -> str:
        sshd = self

        class Entry(asyncssh.SSHServer):
            def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
                self._conn = conn

            def begin_auth(self, username: str) -> bool:
                place = f"127.0.0.1:{self._conn.get_extra_info('sockname')[1]}"
                text = sshd.broken.get(place) or sshd.keys(place)
                self._conn.set_authorized_keys(asyncssh.import_authorized_keys(text))
                return True

        key = home / "host_key"
        if not key.exists():
            asyncssh.generate_private_key("ssh-ed25519").write_private_key(key)
        listening = await asyncssh.create_server(
            Entry, "127.0.0.1", port, server_host_keys=[key], process_factory=_shell_in(home), encoding=None
        )
        place = f"127.0.0.1:{listening.get_port()}"
        self._listening[place] = listening
        return place

    async def _close(self) -> None:
        for listening in self._listening.values():
            listening.close()
            await listening.wait_closed()
        for job in asyncio.all_tasks() - {asyncio.current_task()}:
            job.cancel()


def _shell_in(home: Path) -> Any:
    async def process(process: Any) -> None:
        env = {"HOME": str(home), "PATH": "/usr/bin:/bin"}
        pipe = asyncio.subprocess.PIPE
        shell = await asyncio.create_subprocess_shell(
            process.command.replace("sudo -n -- ", ""), stdin=pipe, stdout=pipe, stderr=pipe, env=env
        )
        output, errors = await shell.communicate(await process.stdin.read())
        process.stdout.write(output)
        process.stderr.write(errors)
        process.exit(shell.returncode)

    return process


@contextmanager
def servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int) -> Iterator[tuple[Sshd, list[str], Path]]:
    """(servers that know the Gridfile's key and another one, their places, the Gridfile)."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    sshd = Sshd()
    try:
        places = [sshd.start(tmp_path / str(number)) for number in range(count)]
        path = new_gridfile(tmp_path, "g", servers=[f"root@{place}" for place in places]).path
        monkeypatch.setenv("GRIDCTL_GRIDFILE", str(path))
        for place in places:
            known = sshd.homes[place] / ".ssh" / "authorized_keys"
            known.write_text(f"{FOREIGN}\n{load_gridfile(path).ssh_public_key}\n")
            known.chmod(0o600)
        yield sshd, places, path
    finally:
        sshd.close()


def test_every_server_takes_the_new_key_in_place_of_the_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with servers(tmp_path, monkeypatch, 2) as (sshd, places, path):
        old = load_gridfile(path)
        assert run(["keygen"]) == 0
        new = load_gridfile(path)
        assert new.ssh_key != old.ssh_key
        assert {sshd.keys(place) for place in places} == {f"{FOREIGN}\n{new.ssh_public_key}\n"}
        assert {(sshd.homes[place] / ".ssh/authorized_keys").stat().st_mode & 0o777 for place in places} == {0o600}
        assert path.stat().st_mode & 0o777 == 0o600
        assert new.servers == old.servers
        assert set(new.host_keys) == set(places)
        assert not path.with_name("Gridfile.keys").exists()
        assert "2 of 2 servers take the new key, 2 changed" in capsys.readouterr().err


def test_a_server_that_is_away_takes_it_when_it_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with servers(tmp_path, monkeypatch, 2) as (sshd, (there, away), path):
        old = load_gridfile(path).ssh_public_key
        sshd.stop(away)
        assert run(["keygen"]) == 3
        new = load_gridfile(path).ssh_public_key
        assert f"unfinished: root@{away}" in capsys.readouterr().err
        assert sshd.keys(there) == f"{FOREIGN}\n{new}\n"
        assert old in sshd.keys(away)
        assert path.with_name("Gridfile.keys").stat().st_mode & 0o777 == 0o600
        sshd.start(sshd.homes[away], int(away.partition(":")[2]))
        assert run(["keygen"]) == 0
        assert {sshd.keys(place) for place in (there, away)} == {f"{FOREIGN}\n{new}\n"}
        assert load_gridfile(path).ssh_public_key == new, "no third one"
        assert not path.with_name("Gridfile.keys").exists()


def test_a_key_that_opens_no_session_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with servers(tmp_path, monkeypatch, 2) as (sshd, (good, bad), path):
        old = load_gridfile(path).ssh_public_key
        sshd.broken[bad] = old
        assert run(["keygen"]) == 3
        said = capsys.readouterr().err
        assert "yet it opens no session" in said
        assert "has its old key" in said
        assert load_gridfile(path).ssh_public_key == old
        assert all(old in sshd.keys(place) for place in (good, bad))
        [tried] = {line for line in sshd.keys(good).splitlines() if line not in (FOREIGN, old)}
        sshd.broken.clear()
        assert run(["keygen"]) == 0
        assert load_gridfile(path).ssh_public_key == tried
        assert {sshd.keys(place) for place in (good, bad)} == {f"{FOREIGN}\n{tried}\n"}


def test_nobody_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with servers(tmp_path, monkeypatch, 1) as (sshd, (only,), path):
        before = load_gridfile(path).ssh_key
        sshd.stop(only)
        assert run(["keygen"]) == 4
        assert load_gridfile(path).ssh_key == before


@pytest.mark.parametrize("content", ["", "{", '{"old":{"private":"","public":"x"},"new":{"private":"","public":"y"}}'])
def test_what_is_left_of_another_gridfile_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    path = new_gridfile(tmp_path, "g", servers=["root@127.0.0.1:1"]).path
    monkeypatch.setenv("GRIDCTL_GRIDFILE", str(path))
    text = path.read_text()
    path.with_name("Gridfile.keys").write_text(content)
    assert run(["keygen"]) == 2
    assert path.read_text() == text
