"""What the server of a node that does not answer has of its log, by SSH: the unit's journal, else gridnode's file."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec

from gridctl.hosts import dialler
from gridctl.ssh import Host
from gridctl.steps import Command
from gridctl.whereabouts import addresses_of, server_of
from gridnode.errors import HostError, HostUnreachable
from gridnode.gridfile import Gridfile, Server
from gridnode.messages import OWN_LOG, LogQuery
from gridnode.model import LogLine, Member, MemberState, NodeId, NodeRecord

__all__ = ["Silent", "left", "read_server_log", "stranger", "worth_asking"]

MAX_TEXT = 8 * 1024
"""Characters of a line that are shown, as a node bounds them."""
FILE = "/var/lib/gridnode/logs/gridnode.log"
_LAST_TIME = 253_402_300_799
_TIMEOUT = 20.0
_LEVELS = {"0": "critical", "1": "critical", "2": "critical", "3": "error", "4": "warning"}
"""journald's priorities, of those that are no `info`."""


@dataclass(frozen=True, slots=True)
class Silent:
    """A node that does not answer, and why it is thought so."""

    record: NodeRecord
    why: str


def stranger(name: str, why: str) -> Silent:
    """One of which nothing is known but its name."""
    return Silent(NodeRecord(NodeId(""), name, 0, 0, (), "", 0), why)


def left(members: Iterable[Member], wanted: str) -> Silent | None:
    """The node of this name or id that said goodbye last, if one did."""
    gone = [one for one in members if one.state is MemberState.LEFT and wanted in (one.record.name, one.record.id)]
    last = max(gone, key=lambda one: one.since, default=None)
    return Silent(last.record, "it has left") if last else None


async def read_server_log(gridfile: Gridfile, silent: Silent, query: LogQuery) -> tuple[Server, list[LogLine]]:
    """Its server, and the newest lines there, by time; HostError, also when the server cannot be told."""
    server = server_of(gridfile.servers, silent.record, await addresses_of(gridfile.servers))
    if server is None:
        name = silent.record.name
        raise HostUnreachable(
            f"{name:.64} does not answer ({silent.why}), and which server of {gridfile.path} it runs on cannot be told",
            hint="gridctl logs --node HOST, as servers has it, or gridctl ssh HOST -- journalctl -u gridnode -n 100",
        )
    try:
        host = await dialler(gridfile)(server)
        try:
            return server, await _lines(host, query)
        finally:
            await host.close()
    except HostUnreachable as exc:
        why = f"{silent.record.name:.64} does not answer ({silent.why}), and neither does its server: {exc.message}"
        raise HostUnreachable(why, hint=exc.hint) from exc


async def _lines(host: Host, query: LogQuery) -> list[LogLine]:
    since = query.since // 1_000_000_000
    journal = ["journalctl", "-u", "gridnode", "-n", str(query.lines), "-o", "json", "--output-fields=MESSAGE,PRIORITY"]
    argv = (*journal, "--no-pager", *((f"--since=@{since}",) if since else ()))
    ended = await host.run(Command(argv), _TIMEOUT)
    lines = _taken(ended.output, _of_journal, query)
    if lines:
        return lines
    script = 'cd "${1%/*}" && cat "$1.1" "$1" 2>/dev/null | tail -n "$2"'
    tail = await host.run(Command(("sh", "-c", script, "gridctl", FILE, str(query.lines))), _TIMEOUT)
    lines = _taken(tail.output, _of_file, query)
    if not lines and tail.code:
        why = (ended.errors or tail.errors).strip().rpartition("\n")[2][-200:]
        raise HostError(
            f"{host.server}: no log of a gridnode there: {why or f'exit code {tail.code}'}",
            hint="was it provisioned? `gridctl provision` makes it a node",
        )
    return lines


def _taken(output: str, parse: Any, query: LogQuery) -> list[LogLine]:
    """The lines that can be read, later than asked; what a server prints is not to be trusted."""
    found = [line for text in output.splitlines() if (line := parse(text))]
    return sorted((line for line in found if line.time > query.since), key=lambda line: line.time)[-query.lines :]


class _Entry(msgspec.Struct):
    time: str = msgspec.field(name="__REALTIME_TIMESTAMP")
    message: str | list[int] | None = msgspec.field(name="MESSAGE", default=None)
    priority: str = msgspec.field(name="PRIORITY", default="6")


class _Event(msgspec.Struct):
    timestamp: str
    level: str = "info"


_entry = msgspec.json.Decoder(_Entry).decode
_event = msgspec.json.Decoder(_Event).decode


def _of_journal(text: str) -> LogLine | None:
    """journald's JSON; None for what is none. A message that is not UTF-8 comes as numbers."""
    try:
        entry = _entry(text)
        message = entry.message
        if message is None:
            return None
        said = message if isinstance(message, str) else bytes(message).decode(errors="replace")
        time = min(int(entry.time[:20]), _LAST_TIME * 1_000_000) * 1000
    except (msgspec.MsgspecError, ValueError):
        return None
    own = _of_file(said)
    level = own.stream if own else _LEVELS.get(entry.priority, "info")
    return LogLine(time, OWN_LOG, "", level, said[:MAX_TEXT]) if time > 0 else None


def _of_file(text: str) -> LogLine | None:
    """A line of gridnode's own JSON; None for what is none."""
    try:
        event = _event(text)
        time = datetime.fromisoformat(event.timestamp)
        nanoseconds = int(time.timestamp()) * 1_000_000_000 + time.microsecond * 1000
    except (msgspec.MsgspecError, ValueError, OverflowError):
        return None
    return LogLine(nanoseconds, OWN_LOG, "", event.level[:16], text[:MAX_TEXT])


def worth_asking(gridfile: Gridfile) -> bool:
    """Whether servers may be asked at all: who says --via direct wants no SSH."""
    return bool(gridfile.servers) and not gridfile.share and gridfile.via != "direct"
