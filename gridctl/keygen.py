"""`gridctl keygen`: another SSH key for the Gridfile, brought to every server by the one it has."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import click
import msgspec

from gridctl.fleet import Fleet, HostResult
from gridctl.fleet_lines import Lines
from gridctl.hosts import dialler
from gridctl.new import new_key_pair, write_private
from gridctl.options import Settings, examples, gridfile_option, json_option, pass_settings
from gridctl.provision import chosen, finish, jobs_option, no_feed
from gridctl.render import Progress
from gridctl.ssh import Host
from gridctl.ssh_key import Change, KeyPair, with_key
from gridctl.steps import forget_key_plan, key_plan
from gridnode.errors import HostUnreachable, StepFailed, UsageError
from gridnode.gridfile import Gridfile, Server

__all__ = ["keygen_command"]


@click.command("keygen", epilog=examples("gridctl keygen", "gridctl keygen --jobs 32 --json"))
@jobs_option
@json_option
@gridfile_option
@pass_settings
def keygen_command(settings: Settings, jobs: int) -> int:
    """Make a new SSH key, and have every server of the Gridfile take it in place of the old one.

    Every server that answers gets it and is entered with it before the Gridfile is written; only then the old one
    goes. Servers that do not answer are named, exit code 3: run it again when they do, the old key is kept until then.
    """
    gridfile = settings.gridfile()
    servers = chosen(gridfile, ())
    keys = _Keys(gridfile)
    results = asyncio.run(_Exchange(keys, servers, jobs, Lines(servers, settings.verbose)).run())
    code = finish(results, settings, "take the new key")
    _say(keys, results)
    return code


class _Keys:
    """The Gridfile and, beside it (0600), the change that is under way."""

    def __init__(self, gridfile: Gridfile) -> None:
        self.gridfile = gridfile
        self.path = Path(gridfile.path).resolve()
        self.kept = self.path.with_name(f"{self.path.name}.keys")
        self.change = self._taken_up() or self._begun()

    @property
    def is_written(self) -> bool:
        """Whether the Gridfile has the new key."""
        return self.gridfile.ssh_public_key == self.change.new.public

    def write(self) -> None:
        """Put the new key into the Gridfile, as it is now: host keys may have been added."""
        if self.is_written:
            return
        new = self.change.new
        _write(self.path, with_key(self.path.read_text(), new, self.gridfile.path))
        self.gridfile = replace(self.gridfile, ssh_key=new.private, ssh_public_key=new.public)

    def forget(self) -> None:
        """No server takes the old key any more."""
        self.kept.unlink(missing_ok=True)

    def _begun(self) -> Change:
        """On disk before any server hears of it: what was broken off can go on."""
        old = KeyPair(self.gridfile.ssh_key, self.gridfile.ssh_public_key)
        change = Change(old, KeyPair(*new_key_pair(self.gridfile.grid_name)))
        with_key(self.path.read_text(), change.new, self.gridfile.path)
        _write(self.kept, msgspec.json.encode(change).decode(), replacing=False)
        return change

    def _taken_up(self) -> Change | None:
        try:
            change = msgspec.json.decode(self.kept.read_bytes(), type=Change)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.MsgspecError, ValueError) as exc:
            raise UsageError(f"{self.kept} cannot be read", hint="remove it, if no server lacks the new key") from exc
        if self.gridfile.ssh_public_key not in (change.old.public, change.new.public):
            raise UsageError(
                f"{self.kept} is of another SSH key than the Gridfile's",
                hint="it is left of a `gridctl keygen` for another Gridfile that was here: remove it",
            )
        return change


class _Exchange:
    """One run of the command."""

    def __init__(self, keys: _Keys, servers: Sequence[Server], jobs: int, report: Lines) -> None:
        self._keys = keys
        self._servers = servers
        self._jobs = jobs
        self._report = report
        self._enter = dialler(keys.gridfile, keys.change.new.private)

    async def run(self) -> list[HostResult]:
        """A result for each server, in order."""
        change = self._keys.change
        fleet = Fleet(self._dial, no_feed, self._report, self._jobs, last="enter")
        results = await fleet.run(self._servers, key_plan(change.new.public), self._opens)
        taken = [result for result in results if not result.error]
        if not taken or any(result.reached and result.error for result in results):
            return results
        self._keys.write()
        plan = forget_key_plan(change.old.public)
        if plan:
            fleet = Fleet(self._enter, no_feed, self._report, self._jobs)
            ends = await fleet.run([result.server for result in taken], plan)
            for result, end in zip(taken, ends, strict=True):
                result.error = end.error
                result.seconds += end.seconds
                result.changed += ["old key"] if end.changed else []
        if not any(result.error for result in results):
            self._keys.forget()
        return results

    async def _dial(self, server: Server) -> Host:
        """With the Gridfile's key; where that is the new one already, with either."""
        old = self._keys.change.old.private
        if self._keys.is_written and old.strip():
            with suppress(HostUnreachable):
                return await self._enter(server)
            return await dialler(self._keys.gridfile, old)(server)
        return await dialler(self._keys.gridfile)(server)

    async def _opens(self, host: Host) -> None:
        """The new key, and nothing else, opens a session there."""
        try:
            await (await self._enter(host.server)).close()
        except HostUnreachable as exc:
            raise StepFailed(
                f"{host.server}: the new key is in ~/.ssh/authorized_keys, and yet it opens no session: {exc.message}",
                hint="does its sshd read that file, and may that file be written by others? the old key stays",
            ) from exc


def _say(keys: _Keys, results: Sequence[HostResult]) -> None:
    """Where things stand, and what is next."""
    progress = Progress()
    name = keys.gridfile.path
    if not keys.is_written:
        progress.line(f"{name} has its old key: run `gridctl keygen` again, it goes on with the same new one", "yellow")
        return
    progress.line(f"{name} has the new key", "green")
    if not forget_key_plan(keys.change.old.public):
        progress.line("the Gridfile did not say the old one's public key: take it out of authorized_keys yourself")
    if any(result.error for result in results):
        progress.line(f"the old one is kept in {keys.kept}: run `gridctl keygen` again for the others", "yellow")


def _write(path: Path, text: str, replacing: bool = True) -> None:
    try:
        write_private(path, text, replacing)
    except OSError as exc:
        raise UsageError(f"{path} cannot be written: {exc.strerror}", hint="keys are kept there") from exc
