"""A whole server as a container: systemd, sshd, an engine of its own. What gridctl meets by SSH is real."""

import functools
import secrets
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass

from integration import engine
from integration.engine import REPOSITORY, docker
from integration.grid import until

_CAN_DO = (
    *("--cap-add", "ALL", "--cap-drop", "SYS_RESOURCE"),
    *("--security-opt", "seccomp=unconfined", "--security-opt", "systempaths=unconfined"),
    *("--security-opt", "apparmor=unconfined", "--device-cgroup-rule", "a *:* rwm", "--stop-signal", "SIGRTMIN+3"),
    *("--tmpfs", "/run:exec", "--tmpfs", "/run/lock", "--tmpfs", "/tmp:exec"),
    *("-v", "/sys/fs/cgroup:/sys/fs/cgroup:rw,rprivate", "-v", "/var/lib/docker", "-v", "/var/lib/containerd"),
)
# systemd mounts every version 1 controller that /proc/cgroups names. One that the host itself has not mounted would
# come to life by that, for good, and the host's engine would not see OOM kills any more: only those that it has
# mounted are shown.
BOOT = """
if grep -q '^cgroup ' /proc/mounts; then
    mounted=,$(grep '^cgroup ' /proc/mounts | cut -d ' ' -f 4 | tr '\\n' ,)
    while read -r name rest; do
        case "$name" in '#'*) ;; *) case "$mounted" in *,"$name",*) ;; *) continue ;; esac ;; esac
        printf '%s\\t%s\\n' "$name" "$rest"
    done </proc/cgroups >/run/cgroups
    mount --bind /run/cgroups /proc/cgroups || exit 1
fi
exec /sbin/init
"""


@functools.cache
def image() -> str:
    """Tag of the servers' image, built once."""
    script = REPOSITORY / "integration" / "server" / "image"
    ended = subprocess.run([script], stdout=subprocess.PIPE, text=True, check=True, timeout=900)
    return ended.stdout.strip()


@dataclass
class WholeServer:
    """One server. authorized: the SSH public key that root and `ops` (who may sudo) let in."""

    name: str
    container: str
    address: str

    @staticmethod
    def start(
        name: str,
        network: str,
        authorized: str = "",
        has_engine: bool = True,
        port: int = 22,
        mounts: Iterable[str] = (),
    ) -> "WholeServer":
        """Boot it; it is up when systemd has settled and sshd listens. mounts: as `docker run -v` takes them."""
        container = docker(
            *("run", "-d", "--name", f"gridcontrol-test-{engine.RUN}-{secrets.token_hex(2)}-{name}"),
            *("--hostname", name, "--network", network, "--label", f"{engine.TEST}={engine.RUN}"),
            *(
                "--label",
                f"{engine.NAME}=server",
                *(part for mount in mounts for part in ("-v", mount)),
                *_CAN_DO,
                image(),
                "sh",
                "-c",
                BOOT,
            ),
        ).strip()
        networks = engine.inspect(container)[0]["NetworkSettings"]["Networks"].values()
        server = WholeServer(name, container, str(next(iter(networks))["IPAddress"]))
        server.settle()
        if not has_engine:
            server.run("apt-get purge -qq docker.io containerd runc && rm -rf /var/lib/docker/* && apt-get update -qq")
        server.run(
            "umask 077; mkdir -p /root/.ssh /home/ops/.ssh; cat >/root/.ssh/authorized_keys;"
            " cp /root/.ssh/authorized_keys /home/ops/.ssh/; chown -R ops: /home/ops/.ssh",
            stdin=authorized + "\n",
        )
        if port != 22:
            server.run(f"echo 'Port {port}' >>/etc/ssh/sshd_config.d/test.conf; systemctl restart ssh")
        return server

    def settle(self) -> None:
        """Wait until it has booted."""

        def state() -> str:
            return engine.run("docker", "exec", self.container, "systemctl", "is-system-running").stdout.strip()

        until(lambda: state() in ("running", "degraded"), 90, f"{self.name} boots")

    def run(self, script: str, stdin: str = "", check: bool = True) -> str:
        """Output of a shell script that root runs in it."""
        ended = engine.run("docker", "exec", "-i", self.container, "sh", "-c", script, stdin=stdin)
        assert not check or ended.returncode == 0, f"{self.name}: {script}: {ended.stdout}{ended.stderr}"
        return ended.stdout

    def stop(self) -> None:
        docker("kill", self.container)

    def boot(self) -> None:
        docker("start", self.container)
        self.settle()
