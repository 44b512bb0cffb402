"""What it takes to make a server a node, or no node any more: an intent in, a plan of steps out. Pure.

A step is one command on one host and a check that exits 0 where there is nothing to do, so a plan can be run again, and
goes on where it was broken off. No command holds a secret: what is one comes on stdin, from a named feed.
"""

import enum
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from gridnode.servers import parse_host_key

__all__ = [
    "PREVIOUS",
    "rollback_plan",
    "upgrade_plan",
    "IMAGE_FORMAT",
    "INSTALL_ENGINE",
    "Command",
    "Feed",
    "Intent",
    "Plan",
    "Step",
    "complaints",
    "forget_key_plan",
    "key_plan",
    "provision_plan",
    "removal_plan",
    "restart_plan",
]

CARD: Final = "/etc/gridnode/Card"
ENVIRONMENT: Final = "/etc/gridnode/gridnode.env"
PREVIOUS: Final = "gridcontrol/gridnode:previous"
"""What a server's image is called that ran before an upgrade."""
UNITS: Final = "/etc/systemd/system"
CARD_AGE: Final = 270
"""Days after which a server gets a new card: well before the old one expires."""
MIN_DISK: Final = 1024 * 1024
"""KiB that must be free under /var/lib."""
MAX_SKEW: Final = 300
"""Seconds a server's clock may be off: nodes discard announcements that are an hour off, and trust no later card."""
IMAGE_FORMAT: Final = "{{json .RootFS.Layers}} {{json .Config.Labels}} {{json .Config.Entrypoint}}"
"""What makes an image the same one in two engines; its id depends on how an engine stores it."""
_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm"}
_LONG: Final = 900.0


class Feed(enum.Enum):
    """What is streamed to a command from this side."""

    CARD = "a fresh card"
    IMAGE = "the image, as `docker save` writes it, without a name"


@dataclass(frozen=True, slots=True)
class Command:
    """An argv for one host and its stdin; as root, by sudo where the login is another."""

    argv: tuple[str, ...]
    stdin: bytes | Feed = b""
    root: bool = True

    def __str__(self) -> str:
        return shlex.join(self.argv)


Judge = Callable[[str, float], list[str]]
"""(what a command printed, unix seconds here) → what is wrong."""


@dataclass(frozen=True, slots=True)
class Step:
    """check exits 0: done already; without one the step changes nothing, and judge says what its output means."""

    name: str
    act: Command
    check: Command | None = None
    judge: Judge | None = None
    timeout: float = 60.0
    hint: str = ""


Plan = tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Intent:
    """What every server is to have. image: its name; mark: SHA-256 of its IMAGE_FORMAT; empty: a registry has it.

    tag: the grid's; units: file name to text; environment: gridnode.env where there is none; architecture: the image's.
    """

    image: str
    mark: str
    tag: str
    public_key: str
    units: tuple[tuple[str, str], ...]
    environment: str
    architecture: str = ""


def provision_plan(intent: Intent) -> Plan:
    """From a bare server to a started node."""
    return (
        *((_key(intent.public_key),) if intent.public_key else ()),
        _system(intent.architecture),
        _engine(),
        _image(intent),
        _environment(intent),
        *(_unit(name, text) for name, text in intent.units),
        _card(intent.tag),
        _start(intent),
    )


def key_plan(public_key: str) -> Plan:
    """A public key, OpenSSH's line, among those that may log in."""
    return (_key(public_key),)


def forget_key_plan(public_key: str) -> Plan:
    """It may log in no more; nothing for a text that is no key: it might be part of others."""
    return (_forget_key(public_key),) if parse_host_key(_blob(public_key)) else ()


def upgrade_plan(intent: Intent) -> Plan:
    """From the image a node runs to another; the one it ran before keeps the name PREVIOUS."""
    return (
        _previous(intent),
        _image(intent),
        _environment(intent),
        *(_unit(name, text) for name, text in intent.units),
        _start(intent),
    )


def rollback_plan(intent: Intent) -> Plan:
    """Back to PREVIOUS, which is the image of this intent."""
    return _kept(), _environment(intent), _start(intent)


def restart_plan(units: tuple[str, ...]) -> Plan:
    """The node's units, anew, whatever state they are in; its sandboxes stay, and are adopted."""
    hint = "is it a node at all? `gridctl provision` makes it one"
    return (Step("restart", _shell(_START, *units), timeout=120, hint=hint),)


def removal_plan(intent: Intent) -> Plan:
    """Back to a server without a node; the engine stays, and what else runs in it."""
    names = tuple(name for name, _ in intent.units)
    units = [f"{UNITS}/{name}" for name in names]
    return (
        Step(
            "stop",
            _shell('systemctl disable --now "$@" 2>&1; docker rm -f gridnode >/dev/null 2>&1 || true', *names),
            _shell('! systemctl is-active -q "$@" && ! systemctl is-enabled -q "$@" 2>/dev/null', *names),
        ),
        Step(
            "sandboxes",
            _shell(f"{_SANDBOXES} | xargs -r docker rm -f -v; {_NETWORKS} | xargs -r docker network rm", intent.tag),
            _shell(f'command -v docker >/dev/null || exit 0; test -z "$({_SANDBOXES}; {_NETWORKS})"', intent.tag),
        ),
        Step(
            "image",
            _shell(f"{_IMAGES} | xargs -r docker image rm -f >/dev/null"),
            _shell(f'test -z "$({_IMAGES})"'),
        ),
        Step(
            "files",
            _shell('rm -rf "$@" && systemctl daemon-reload', *units, *_DIRECTORIES),
            _shell('for path; do ! test -e "$path" || exit 1; done', *units, *_DIRECTORIES),
        ),
        *forget_key_plan(intent.public_key),
    )


_DIRECTORIES: Final = ("/etc/gridnode", "/var/lib/gridnode", "/run/gridnode")
_SANDBOXES: Final = 'docker ps -aq --filter "label=gridcontrol.grid=$1"'
_IMAGE_THERE: Final = f"sed -n 's/^GRIDNODE_IMAGE=//p' {ENVIRONMENT} 2>/dev/null"
_IMAGES: Final = f"""
image=$({_IMAGE_THERE}); for one in gridcontrol/gridnode "$image" "$(echo "$image" | sed 's/:[^/]*$//')"; do
test -z "$one" || docker images -q "$one" 2>/dev/null; done | sort -u
""".strip()
"""Ids of every gridnode image that was brought here: upgrades leave more than one."""
_NETWORKS: Final = "docker network ls -q --filter name='^gridcontrol-egress$'"
_FACTS: Final = """
. /etc/os-release 2>/dev/null
echo "system=$ID $ID_LIKE"; echo "name=$PRETTY_NAME"; echo "machine=$(uname -m)"; echo "time=$(date +%s)"
echo "disk=$(df -Pk /var/lib | tail -n 1 | tr -s ' ' | cut -d ' ' -f 4)"
test -d /run/systemd/system && echo systemd=yes; command -v apt-get >/dev/null && echo apt=yes; true
"""
INSTALL_ENGINE: Final = """
export DEBIAN_FRONTEND=noninteractive NEEDRESTART_MODE=a
if ! command -v dockerd >/dev/null; then
    apt-get update -q || echo 'some package lists could not be refreshed; going on'
    apt-get install -y -q --no-install-recommends -o DPkg::Lock::Timeout=300 \
        docker.io iptables ca-certificates || exit 1
fi
systemctl enable --now docker || exit 1
for i in $(seq 60); do docker version >/dev/null 2>&1 && exit 0; sleep 0.5; done
docker version
"""
_LOAD: Final = """
loaded=$(docker load -q) || exit 1
docker tag "$(printf '%s\n' "$loaded" | sed -n 's/^Loaded image ID: //p' | head -n 1)" "$1"
"""
_STARTED: Final = """
systemctl is-enabled -q gridnode.service && systemctl is-active -q gridnode.service || exit 1
test "$(docker inspect -f '{{.Image}}' gridnode)" = "$(docker image inspect -f '{{.Id}}' "$1")" || exit 1
started=$(date -d "$(systemctl show --value -p ActiveEnterTimestamp gridnode.service)" +%s) && shift || exit 1
for path; do test "$(stat -c %Y "$path")" -le "$started" || exit 1; done
"""
_START: Final = """
systemctl daemon-reload && systemctl enable -q "$@" && systemctl reset-failed "$@" 2>/dev/null
systemctl restart "$@" || exit 1
for i in $(seq 100); do
    if test "$(docker inspect -f '{{.State.Running}}' gridnode 2>/dev/null)" = true; then
        docker image prune -f --filter label=gridcontrol.inputs >/dev/null 2>&1
        exit 0
    fi
    sleep 0.2
done
journalctl -u gridnode -n 20 -o cat --no-pager
exit 1
"""


def _shell(script: str, *arguments: str, stdin: bytes | Feed = b"", root: bool = True) -> Command:
    return Command(("sh", "-c", script.strip(), "gridctl", *arguments), stdin, root)


def _key(public_key: str) -> Step:
    """The Gridfile's public key, among those that may log in."""
    act = """
umask 077; mkdir -p ~/.ssh && touch ~/.ssh/authorized_keys || exit 1
test -z "$(tail -c 1 ~/.ssh/authorized_keys)" || echo >>~/.ssh/authorized_keys
printf '%s\\n' "$1" >>~/.ssh/authorized_keys
"""
    check = 'grep -qF -- "$1" ~/.ssh/authorized_keys'
    return Step("key", _shell(act, public_key, root=False), _shell(check, _blob(public_key), root=False))


def _forget_key(public_key: str) -> Step:
    act = """
cd ~/.ssh && file=$(readlink -f authorized_keys) && cp -p "$file" "$file.new" || exit 1
grep -vF -- "$1" "$file" >"$file.new"; test $? -lt 2 && mv "$file.new" "$file"
"""
    check = '! grep -qF -- "$1" ~/.ssh/authorized_keys'
    blob = _blob(public_key)
    return Step("key", _shell(act, blob, root=False), _shell(check, blob, root=False))


def _blob(public_key: str) -> str:
    """A public key without its comment, which people change."""
    return " ".join(public_key.split()[:2])


def _system(architecture: str) -> Step:
    def judge(output: str, now: float) -> list[str]:
        return complaints(output, now, architecture)

    return Step("system", _shell(_FACTS), judge=judge, hint="root, or a user with passwordless sudo, has to log in")


def complaints(output: str, now: float, architecture: str = "") -> list[str]:
    """Why this server cannot be a node, from what _FACTS printed; now: unix seconds here."""
    facts = dict(line.split("=", 1) for line in output.splitlines() if "=" in line)
    found = []
    if not {"debian", "ubuntu"} & set(facts.get("system", "").split()) or "apt" not in facts:
        found.append(f"it runs {facts.get('name') or 'an unknown system'}; gridctl provisions Debian and Ubuntu")
    if "systemd" not in facts:
        found.append("it was not booted with systemd")
    machine = facts.get("machine", "")
    if architecture and _ARCHITECTURES.get(machine, machine) != architecture:
        found.append(f"it is {machine or 'of an unknown architecture'}, the image is for {architecture}")
    if _number(facts, "disk") < MIN_DISK:
        found.append(f"{_number(facts, 'disk') // 1024} MiB are free under /var/lib, {MIN_DISK // 1024} are needed")
    skew = _number(facts, "time") - int(now)
    if abs(skew) > MAX_SKEW:
        ahead = "ahead of" if skew > 0 else "behind"
        found.append(f"its clock is {abs(skew)} s {ahead} this machine's: `timedatectl set-ntp true` there, or here")
    return found


def _number(facts: dict[str, str], name: str) -> int:
    text = facts.get(name, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else 0


def _engine() -> Step:
    return Step(
        "engine",
        _shell(INSTALL_ENGINE),
        _shell("docker version >/dev/null 2>&1 && systemctl is-enabled -q docker"),
        timeout=_LONG,
        hint="install a Docker engine there by hand (https://docs.docker.com/engine/install), then go on",
    )


def _image(intent: Intent) -> Step:
    if not intent.mark:
        return Step(
            "image",
            _shell('docker pull -q "$1"', intent.image),
            _shell('docker image inspect "$1" >/dev/null 2>&1', intent.image),
            timeout=_LONG,
            hint="`image` in the Gridfile names it; without that line it comes from here, by SSH",
        )
    check = 'test "$(docker image inspect -f "$2" "$1" 2>/dev/null | sha256sum | cut -c 1-64)" = "$3"'
    return Step(
        "image",
        _shell(_LOAD, intent.image, stdin=Feed.IMAGE),
        _shell(check, intent.image, IMAGE_FORMAT, intent.mark),
        timeout=_LONG,
    )


def _previous(intent: Intent) -> Step:
    """The running image's second name; there is nothing to keep where the wanted one runs already."""
    check = """
running=$(docker inspect -f '{{.Image}}' gridnode) || exit 1
test "$running" = "$(docker image inspect -f '{{.Id}}' "$2" 2>/dev/null)" && exit 0
test -n "$4" || exec test "$running" = "$(docker image inspect -f '{{.Id}}' "$1" 2>/dev/null)"
test "$(docker image inspect -f "$3" "$running" | sha256sum | cut -c 1-64)" = "$4"
"""
    return Step(
        "previous",
        _shell('docker tag "$(docker inspect -f "{{.Image}}" gridnode)" "$1"', PREVIOUS),
        _shell(check, intent.image, PREVIOUS, IMAGE_FORMAT, intent.mark),
        hint="is it a node at all? `gridctl provision` makes it one",
    )


def _kept() -> Step:
    return Step(
        "image",
        _shell('echo "no earlier image is kept here" >&2; exit 1'),
        _shell('docker image inspect "$1" >/dev/null 2>&1', PREVIOUS),
        hint="`gridctl upgrade --to IMAGE` brings another",
    )


def _environment(intent: Intent) -> Step:
    """Only the image's line: the rest of the file is the owner's."""
    act = """
umask 022; mkdir -p /etc/gridnode && cd /etc/gridnode || exit 1
new=$(cat); test -f gridnode.env || printf '%s\\n' "$new" >gridnode.env || exit 1
{ grep -v '^GRIDNODE_IMAGE=' gridnode.env; printf 'GRIDNODE_IMAGE=%s\\n' "$1"; } >.gridnode.env
mv .gridnode.env gridnode.env
"""
    check = _shell('grep -qxF -- "$1" /etc/gridnode/gridnode.env', f"GRIDNODE_IMAGE={intent.image}")
    return Step("settings", _shell(act, intent.image, stdin=intent.environment.encode()), check)


def _unit(name: str, text: str) -> Step:
    path = f"{UNITS}/{name}"
    act = _shell('cat >"$1.new" && chmod 0644 "$1.new" && mv "$1.new" "$1"', path, stdin=text.encode())
    return Step(name, act, _shell('cmp -s - "$1"', path, stdin=text.encode()))


def _card(tag: str) -> Step:
    act = """
umask 077; mkdir -p /etc/gridnode && chmod 0755 /etc/gridnode && cat >/etc/gridnode/.Card || exit 1
test -s /etc/gridnode/.Card && mv /etc/gridnode/.Card /etc/gridnode/Card
"""
    check = """
cd /etc/gridnode && test -n "$(find Card -user root -perm 0600 -mtime "-$2")" && grep -q "^tag = .$1.$" Card
"""
    return Step("card", _shell(act, stdin=Feed.CARD), _shell(check, tag, str(CARD_AGE)))


def _start(intent: Intent) -> Step:
    names = tuple(name for name, _ in intent.units)
    files = (CARD, ENVIRONMENT, *(f"{UNITS}/{name}" for name in names))
    return Step("start", _shell(_START, *names), _shell(_STARTED, intent.image, *files), timeout=120)
