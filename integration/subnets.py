"""Networks that multicast does not join, routers between them, and the rules of a node's own network."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from integration import engine
from integration.engine import docker

WIRING = (Path(__file__).parent / "wiring.py").read_text()
_ADMIN = ("--rm", "--cap-drop", "ALL", "--cap-add", "NET_ADMIN")
_FOREVER = "import signal; signal.pause()"


@contextmanager
def network(name: str) -> Iterator[str]:
    """A bridge network of this run's; its name."""
    full = f"gridcontrol-test-{engine.RUN}-{name}"
    create = ("network", "create", "--label", f"{engine.TEST}={engine.RUN}")
    docker(*create, full)
    free = subnet(full)
    docker("network", "rm", full)
    docker(*create, "--subnet", free, full)  # in one that is named, containers may be given addresses
    try:
        yield full
    finally:
        docker("network", "rm", full)


@contextmanager
def router(*networks: str) -> Iterator[str]:
    """A container that forwards between networks; its id."""
    labels = ("--label", f"{engine.TEST}={engine.RUN}", "--label", f"{engine.NAME}=router")
    options = (*labels, "--network", networks[0], "--sysctl", "net.ipv4.ip_forward=1", "--init")
    started = docker("run", "-d", *options, "--entrypoint", "/usr/bin/python3", engine.image(), "-c", _FOREVER).strip()
    try:
        for other in networks[1:]:
            docker("network", "connect", other, started)
        yield started
    finally:
        engine.remove_containers([started])


def subnet(network: str) -> str:
    return docker("network", "inspect", "-f", "{{(index .IPAM.Config 0).Subnet}}", network).strip()


def address(container: str, network: str) -> str:
    return docker(
        "inspect", "-f", f'{{{{(index .NetworkSettings.Networks "{network}").IPAddress}}}}', container
    ).strip()


def route(container: str, to: str, via: str) -> None:
    """Reach a subnet by a gateway from now on."""
    inside = ("--network", f"container:{container}", "--entrypoint", "/usr/bin/python3")
    docker("run", *_ADMIN, *inside, engine.image(), "-c", WIRING, "route", to, via)


def rules(container: str, *lines: str) -> None:
    """nftables rules in the container's network."""
    inside = ("--network", f"container:{container}", "--entrypoint", "/usr/sbin/nft")
    docker("run", *_ADMIN, *inside, engine.image(), "\n".join(lines))


def hide(container: str, network: str) -> None:
    """As a home's router does: what it forwards into `network` has its own address there."""
    chain = "add chain ip hide out { type nat hook postrouting priority 100; }"
    hidden = f"add rule ip hide out ip daddr {subnet(network)} masquerade"
    rules(container, "add table ip hide", chain, hidden)


def without_tcp(container: str, port: int) -> None:
    """Nobody links to it and it links to nobody."""
    drops = [f"add rule inet shut {chain} tcp dport {port} drop" for chain in ("in", "out")]
    hooks = {"in": "input", "out": "output"}
    chains = [f"add chain inet shut {name} {{ type filter hook {hook} priority 0; }}" for name, hook in hooks.items()]
    rules(container, "add table inet shut", *chains, *drops)
