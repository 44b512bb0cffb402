"""Packages made here: wheels and source archives for Python, archives for npm, and a registry of these."""

import base64
import hashlib
import io
import json
import tarfile
import threading
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

PURE = "py3-none-any"


def wheel(
    into: Path,
    name: str,
    version: str = "1.0",
    tag: str = PURE,
    files: Mapping[str, str | bytes] | None = None,
    requires: Iterable[str] = (),
) -> Path:
    """A wheel whose module `name` has its VERSION, and `files` besides."""
    info = f"{name}-{version}.dist-info"
    asked = "".join(f"Requires-Dist: {one}\n" for one in requires)
    contents = {f"{name}/__init__.py": f"VERSION = {version!r}\n"} | dict(files or {})
    contents[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{asked}"
    contents[f"{info}/WHEEL"] = f"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: {tag}\n"
    record = "".join(_record(path, _bytes(content)) for path, content in contents.items())
    into.mkdir(parents=True, exist_ok=True)
    place = into / f"{name}-{version}-{tag}.whl"
    with zipfile.ZipFile(place, "w") as archive:
        for path, content in {**contents, f"{info}/RECORD": f"{record}{info}/RECORD,,\n"}.items():
            archive.writestr(zipfile.ZipInfo(path), _bytes(content))
    return place


def source_archive(into: Path, name: str, version: str = "1.0") -> None:
    """A package that would have to be built."""
    into.mkdir(parents=True, exist_ok=True)
    files = {
        "PKG-INFO": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        "pyproject.toml": f'[project]\nname = "{name}"\nversion = "{version}"\n',
    }
    (into / f"{name}-{version}.tar.gz").write_bytes(tar(f"{name}-{version}", files))


def npm_package(name: str, version: str = "1.0.0", **more: Any) -> bytes:
    """An archive of a package that exports its version."""
    package = {"name": name, "version": version, "main": "index.js", **more}
    return tar("package", {"package.json": json.dumps(package), "index.js": f"exports.version = '{version}';\n"})


def tar(top: str, files: Mapping[str, str]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for path, text in files.items():
            one = tarfile.TarInfo(f"{top}/{path}")
            one.size, one.mode = len(text.encode()), 0o644
            archive.addfile(one, io.BytesIO(text.encode()))
    return packed.getvalue()


class Registry:
    """What an npm registry on loopback has, and how often it was asked."""

    def __init__(self) -> None:
        self.url = ""
        self.asked: list[str] = []
        self._versions: dict[str, dict[str, Any]] = {}
        self._archives: dict[str, bytes] = {}

    def add(self, name: str, version: str = "1.0.0", **more: Any) -> None:
        archive = npm_package(name, version, **more)
        path = f"/-/{name}-{version}.tgz"
        integrity = "sha512-" + base64.b64encode(hashlib.sha512(archive).digest()).decode()
        dist = {"tarball": f"{self.url}{path}", "integrity": integrity}
        self._archives[path] = archive
        self._versions.setdefault(name, {})[version] = {"name": name, "version": version, "dist": dist, **more}

    def answer(self, path: str) -> bytes | None:
        self.asked.append(path)
        if path in self._archives:
            return self._archives[path]
        versions = self._versions.get(path.removeprefix("/").replace("%2f", "/"))
        if not versions:
            return None
        return json.dumps({"name": path[1:], "dist-tags": {"latest": max(versions)}, "versions": versions}).encode()


@contextmanager
def registry() -> Iterator[Registry]:
    """One that serves while the block runs."""
    found = Registry()

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = found.answer(self.path)
            self.send_response(404 if body is None else 200)
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, *_: object) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        found.url = f"http://127.0.0.1:{server.server_address[1]}"
        serving = threading.Thread(target=server.serve_forever, args=(0.05,))
        serving.start()
        try:
            yield found
        finally:
            server.shutdown()
            serving.join()


def _record(path: str, content: bytes) -> str:
    hashed = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
    return f"{path},sha256={hashed},{len(content)}\n"


def _bytes(content: str | bytes) -> bytes:
    return content.encode() if isinstance(content, str) else content
