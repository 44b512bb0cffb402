"""The egress network on a Docker engine: made on demand, and never used before its rules are set."""

import contextlib
import threading
import time
from collections.abc import Iterable
from ipaddress import IPv4Network
from typing import Any

from docker.api.client import APIClient  # type: ignore[import-untyped]
from docker.errors import APIError, NotFound  # type: ignore[import-untyped]

from gridnode.errors import SandboxError
from gridnode.sandbox.egress import NETWORK, firewall_config, network_config, subnets_of

HOLDS_FOR = 10.0
"""Seconds for which rules that were set are taken to be there: a firewall that is reloaded may drop them."""
_MAX_SAID = 2000


class EgressNetwork:
    """ports: of the node's own links, which no sandbox may reach, beside 7400."""

    def __init__(self, ports: Iterable[int] = ()) -> None:
        self._ports = sorted(ports)
        self._lock = threading.Lock()
        self._checked = -HOLDS_FOR

    def ensure(self, client: APIClient, image: str) -> None:
        """Network and rules are there; SandboxError when they cannot be. image: one with nft and gridnode in it."""
        with self._lock:
            if time.monotonic() - self._checked < HOLDS_FOR:
                return
            _set_rules(client, image, _subnets(client), self._ports)
            self._checked = time.monotonic()

    def forget(self) -> None:
        """Look again the next time."""
        self._checked = -HOLDS_FOR


def _subnets(client: APIClient) -> list[IPv4Network]:
    network = _found(client)
    if network is None:
        try:
            client._result(client._post_json(client._url("/networks/create"), data=network_config()))
        except APIError:  # another node made it at the same time, or it cannot be made
            if _found(client) is None:
                raise
        network = client.inspect_network(NETWORK)
    try:
        return subnets_of(network)
    except (ValueError, KeyError, TypeError) as exc:
        raise SandboxError(
            f"the engine's network {NETWORK} is not the one that gridnode makes: {exc}",
            hint=f"docker network rm {NETWORK}; gridnode makes it again",
        ) from exc


def _found(client: APIClient) -> dict[str, Any] | None:
    try:
        network: dict[str, Any] = client.inspect_network(NETWORK)
    except NotFound:
        return None
    return network


def _set_rules(client: APIClient, image: str, subnets: list[IPv4Network], ports: list[int]) -> None:
    container = _create(client, image, subnets, ports)
    try:
        client.start(container)
        code = client.wait(container, timeout=client.timeout)["StatusCode"]
        if code:
            said = client.logs(container)[-_MAX_SAID:].decode(errors="replace").strip()
            raise _refused(f"exit code {code}: {said}")
    except APIError as exc:
        raise _refused(str(exc.explanation or exc)) from exc
    finally:
        with contextlib.suppress(NotFound):
            client.remove_container(container, v=True, force=True)


def _refused(why: str) -> SandboxError:
    return SandboxError(
        f'the firewall of tasks with network = "egress" cannot be set: {why}',
        hint="it needs nftables in this server's kernel, and gridnode's own image",
    )


def _create(client: APIClient, image: str, subnets: list[IPv4Network], ports: list[int]) -> str:
    """With the host's list of nameservers, where it keeps one beside its resolv.conf."""
    try:
        made = client.create_container_from_config(firewall_config(image, subnets, ports, resolved=True))
    except APIError as exc:
        if exc.status_code != 400:  # 400: there is no such file to mount
            raise
        made = client.create_container_from_config(firewall_config(image, subnets, ports, resolved=False))
    container: str = made["Id"]
    return container
