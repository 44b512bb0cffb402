"""User-data for cloud-init: every text is in it, it fits, and its script finds the image or says why not."""

import hashlib
import os
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from gridctl.units import cloud_init_texts, environment_text, unit_texts
from gridctl.user_data import MAX_SIZE, Boot, user_data
from gridnode.errors import UsageError

TEMPLATE, SCRIPT = cloud_init_texts()
CARD = "version = 1\n\nissuer = '''\n-----BEGIN\n'''\nnote = '@card@ @first-boot@'\n"
DOCKER = """#!/bin/sh
echo "docker $*" >>"$LOG"
case "$*" in
version) ;;
"image inspect"*) test "$HAS" = yes ;;
load*) test "$(cat "$4")" = image && echo "Loaded image: some/name:1" ;;
pull*) test "$HAS" = registry ;;
esac
"""


def boot(url: str = "", is_pulled: bool = False, card: str = CARD) -> Boot:
    return Boot(card, environment_text(), dict(unit_texts()), "example.com/gridnode:1", url, is_pulled)


def content(text: str, path: str) -> str:
    """What write_files makes of one file: the block below `content: |`, without its indentation."""
    lines = iter(text.splitlines())
    assert f"  - path: {path}" in lines
    assert "    content: |" in lines
    found = []
    for line in lines:
        if line and not line.startswith("      "):
            break
        found.append(line[6:])
    return "\n".join(found).rstrip("\n") + "\n"


def test_every_file_is_in_it_as_it_is() -> None:
    text = user_data(TEMPLATE, SCRIPT, boot())
    assert text.startswith("#cloud-config\n")
    assert content(text, "/etc/gridnode/Card") == CARD
    for name, unit in unit_texts():
        assert content(text, f"/etc/systemd/system/{name}") == unit
    assert content(text, "/etc/gridnode/gridnode.env").splitlines()[-1] == "GRIDNODE_IMAGE=example.com/gridnode:1"
    assert content(text, "/etc/gridnode/gridnode.env").count("GRIDNODE_IMAGE=") == 1


def test_the_card_is_readable_by_root_alone() -> None:
    lines = user_data(TEMPLATE, SCRIPT, boot()).splitlines()
    assert lines[lines.index("  - path: /etc/gridnode/Card") + 1] == "    permissions: '0600'"
    assert lines[lines.index("  - path: /etc/gridnode/first-boot") + 1] == "    permissions: '0700'"


def test_what_a_cloud_would_not_take_is_refused() -> None:
    assert len(user_data(TEMPLATE, SCRIPT, boot()).encode()) < MAX_SIZE - 4096
    with pytest.raises(UsageError, match="clouds take 16384"):
        user_data(TEMPLATE, SCRIPT, boot(card="x" * MAX_SIZE))


class Server:
    """A server that boots, as far as the script sees it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.log = root / "log"
        for name, text in (
            ("docker", DOCKER),
            ("dockerd", ""),
            ("systemctl", '#!/bin/sh\necho "systemctl $*" >>"$LOG"\n'),
        ):
            program = root / "bin" / name
            program.parent.mkdir(exist_ok=True)
            program.write_text(text)
            program.chmod(0o755)
        (root / "gridnode.env").write_text("GRIDNODE_IMAGE=example.com/gridnode:1\n")

    def run(self, boot: Boot, has: str = "") -> subprocess.CompletedProcess[str]:
        script = content(user_data(TEMPLATE, SCRIPT, boot), "/etc/gridnode/first-boot")
        script = script.replace("/etc/gridnode", str(self.root)).replace("/var/lib/", f"{self.root}/")
        env = {"PATH": f"{self.root}/bin:{os.environ['PATH']}", "LOG": str(self.log), "HAS": has}
        return subprocess.run(["sh"], check=False, input=script, env=env, capture_output=True, text=True, timeout=60)

    @property
    def did(self) -> list[str]:
        return self.log.read_text().splitlines()


@pytest.fixture
def server(tmp_path: Path) -> Server:
    return Server(tmp_path)


@pytest.fixture
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where `image` is served."""
    directory = tmp_path_factory.mktemp("served")
    (directory / "image.tar").write_text("image")

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(directory))) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}/image.tar?token=it's"
        http.shutdown()
        thread.join()


STARTED = ["systemctl daemon-reload", "systemctl enable -q gridnode.service gridnode.path"]


def test_an_image_that_is_there_is_used(server: Server) -> None:
    ended = server.run(boot(), has="yes")
    assert ended.returncode == 0, ended.stderr
    assert server.did[-3:-1] == STARTED
    assert not any(line.startswith(("docker pull", "docker load")) for line in server.did)


def test_an_image_that_nobody_has_is_said(server: Server) -> None:
    ended = server.run(boot())
    assert ended.returncode == 1
    assert "no image example.com/gridnode:1 here" in ended.stderr
    assert "name image or image_url in the Gridfile" in ended.stderr
    assert STARTED[0] not in server.did


def test_an_image_is_pulled_from_its_registry(server: Server) -> None:
    assert server.run(boot(is_pulled=True), has="registry").returncode == 0
    assert "docker pull -q example.com/gridnode:1" in server.did
    failed = server.run(boot(is_pulled=True))
    assert (failed.returncode, "could not be pulled" in failed.stderr) == (1, True)


def test_an_image_is_loaded_from_a_url(server: Server, url: str) -> None:
    good = hashlib.sha256(b"image").hexdigest()
    ended = server.run(boot(f"{url}#sha256={good}"))
    assert ended.returncode == 0, ended.stderr
    assert "docker tag some/name:1 example.com/gridnode:1" in server.did
    assert not (server.root / "gridnode-image").exists()


def test_another_image_than_its_hash_says_is_never_loaded(server: Server, url: str) -> None:
    ended = server.run(boot(f"{url}#sha256={'0' * 64}"))
    assert ended.returncode == 1
    assert "not what its sha256 says" in ended.stderr
    assert not any(line.startswith("docker load") for line in server.did)
    assert not (server.root / "gridnode-image").exists()
    assert "token" not in ended.stdout + ended.stderr
