"""Sets the rules of the egress network: a program for a container with the host's network and NET_ADMIN alone.

`python -m gridnode.sandbox.firewall SUBNET... PORT...`; ends with 1 and the reason on stderr when they are not set.
"""

import subprocess
import sys
from contextlib import suppress
from ipaddress import IPv4Network
from pathlib import Path

from gridnode.sandbox.egress import RESOLVED, nameservers, ruleset

_RESOLVERS = (Path("/etc/resolv.conf"), Path(RESOLVED))
_WITHIN = 20.0


def main(argv: list[str]) -> int:
    """The process's exit code."""
    subnets = [IPv4Network(word) for word in argv if "/" in word]
    ports = [int(word) for word in argv if "/" not in word]
    rules = ruleset(subnets, nameservers(_resolvers()), ports)
    try:
        ended = subprocess.run(
            ["nft", "-f", "-"], input=rules, capture_output=True, text=True, check=False, timeout=_WITHIN
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        sys.stderr.write(f"nft: {exc}\n")
        return 1
    sys.stderr.write(ended.stderr)
    return 1 if ended.returncode else 0


def _resolvers() -> str:
    texts = []
    for path in _RESOLVERS:
        with suppress(OSError):
            texts.append(path.read_text(errors="replace"))
    return "\n".join(texts)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
