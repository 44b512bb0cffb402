"""`gridctl ssh` and `gridctl multissh`: a shell on one server, one command on many."""

import asyncio
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import click

from gridctl.failure import OK, PARTIAL, exit_code
from gridctl.fleet import Fleet
from gridctl.fleet_lines import Outputs
from gridctl.hosts import dialler
from gridctl.options import Settings, examples, gridfile_option, json_option, pass_settings
from gridctl.provision import chosen, jobs_option, no_feed, only_option
from gridctl.render import Progress, is_terminal, print_json
from gridctl.ssh import Ended
from gridnode.errors import GridError, UsageError
from gridnode.gridfile import Gridfile, Server

__all__ = ["multissh_command", "ssh_command"]


@click.command(
    "multissh",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    epilog=examples("gridctl multissh uptime", "gridctl multissh --only 10.0.0.3 -- df -h /var/lib"),
)
@only_option
@jobs_option
@click.argument("command", nargs=-1, required=True)
@json_option
@gridfile_option
@pass_settings
def multissh_command(settings: Settings, only: tuple[str, ...], jobs: int, command: tuple[str, ...]) -> int:
    """Run COMMAND on every server of the Gridfile at once, as its login user.

    A command of one word is a line for the shell there; more words run as they are. Exit code 0 when it ended with 0
    everywhere, 3 when it did on some.
    """
    gridfile = settings.gridfile()
    servers = chosen(gridfile, only)
    report = Outputs(servers, shown=not settings.as_json)
    argv = command if len(command) > 1 else ("sh", "-c", command[0])
    fleet = Fleet(dialler(gridfile), no_feed, report, jobs)
    ended = asyncio.run(fleet.execute(servers, argv))
    if settings.as_json:
        print_json({"hosts": [_fields(server, end) for server, end in ended]})
    return _sum_up(ended)


@click.command(
    "ssh", epilog=examples("gridctl ssh", "gridctl ssh 10.0.0.3", "gridctl ssh 10.0.0.3 -- journalctl -fu gridnode")
)
@click.argument("host", required=False)
@click.argument("command", nargs=-1)
@gridfile_option
@pass_settings
def ssh_command(settings: Settings, host: str | None, command: tuple[str, ...]) -> int:
    """Open a shell on HOST, a server of the Gridfile, with the Gridfile's key; without HOST, choose from a list."""
    gridfile = settings.gridfile()
    server = chosen(gridfile, [host] if host else [])[0] if host else _choose(gridfile)
    with tempfile.TemporaryDirectory(prefix="gridctl-") as private:
        argv = ssh_argv(gridfile, server, Path(private))
        try:
            return subprocess.run([*argv, *command], check=False).returncode
        except FileNotFoundError as exc:
            raise UsageError("there is no ssh on this machine", hint="install OpenSSH's client") from exc


def ssh_argv(gridfile: Gridfile, server: Server, private: Path) -> list[str]:
    """OpenSSH's command line; key and host key go into `private`, a directory that nobody else can enter."""
    argv = ["ssh", "-p", str(server.port)] if server.port != 22 else ["ssh"]
    if gridfile.ssh_key.strip():
        key = private / "key"
        key.touch(mode=0o600)
        key.write_text(gridfile.ssh_key)
        argv += ["-i", str(key)]
    pinned = gridfile.host_keys.get(server.place)
    if pinned:
        known = private / "known_hosts"
        name = f"[{server.host}]:{server.port}" if server.port != 22 else server.host
        known.write_text(f"{name} {pinned}\n")
        kind = pinned.split()[0].replace("ssh-rsa", "rsa-sha2-512,rsa-sha2-256")
        argv += ["-o", f"UserKnownHostsFile={known}", "-o", "StrictHostKeyChecking=yes"]
        argv += ["-o", f"HostKeyAlgorithms={kind}"]
    return [*argv, str(Server(server.host, server.user))]


def _choose(gridfile: Gridfile) -> Server:
    """The only server, or the one a person names by its number."""
    servers = chosen(gridfile, ())
    if len(servers) == 1:
        return servers[0]
    if not (is_terminal(sys.stdin) and is_terminal(sys.stderr)):
        raise UsageError("which server?", hint=f"gridctl ssh HOST; it is one of {', '.join(map(str, servers[:20]))}")
    for number, server in enumerate(servers, 1):
        click.echo(f"{number:3}  {server}", err=True)
    number = click.prompt("Server", type=click.IntRange(1, len(servers)), err=True)
    return servers[int(number) - 1]


def _sum_up(ended: Sequence[tuple[Server, Ended | GridError]]) -> int:
    """`2 of 3 servers: exit code 0; root@c: exit code 7`, and an exit code for all."""
    progress = Progress()
    failed = [(server, end) for server, end in ended if not isinstance(end, Ended) or end.code]
    parts = [f"{len(ended) - len(failed)} of {len(ended)} servers: exit code 0"]
    for server, end in failed:
        parts.append(f"{server}: exit code {end.code}" if isinstance(end, Ended) else end.message)
    progress.line("; ".join(parts), "red" if failed else None)
    errors = [end for _, end in failed if isinstance(end, GridError)]
    if not failed:
        return OK
    if len(failed) < len(ended):
        return PARTIAL
    return exit_code(errors[0]) if len(errors) == len(failed) else 1


def _fields(server: Server, end: Ended | GridError) -> dict[str, object]:
    if isinstance(end, Ended):
        return {"host": str(server), "exit_code": end.code, "output": end.output, "errors": end.errors, "error": None}
    return {"host": str(server), "exit_code": None, "output": "", "errors": "", "error": end.message}
